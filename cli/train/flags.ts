import { readFileSync } from "node:fs";
import {
  InputError,
  nearestName,
  optionName,
  trainOptions,
} from "lowbit/trainer";
import { readFlags, type FlagKind } from "../flags.ts";

/** What the command line of `lowbit train` says, besides the run's own options. */
export interface Flags {
  /** Files, folders, globs, `-`; undefined takes the default text. */
  readonly data: readonly string[] | undefined;
  readonly out: string | undefined;
  readonly overwrite: boolean;
  /** Folder of a run that is to go on. */
  readonly resume: string | undefined;
  readonly quiet: boolean;
  readonly json: boolean;
  /** For `resolveConfig`: the configuration file's, then the flags'. */
  readonly options: Readonly<Record<string, unknown>>;
}

const own = {
  data: "list",
  out: "text",
  config: "text",
  resume: "text",
  overwrite: "switch",
  quiet: "switch",
  json: "switch",
} as const satisfies Record<string, FlagKind>;

/** @throws InputError for an unknown flag, a missing value, a stray argument. */
export function parseFlags(args: readonly string[]): Flags {
  const kinds = { ...own, ...runFlagKinds() };
  const { texts, switches, lists } = readFlags(args, kinds, {
    command: "train",
    stray: "text to train on comes after --data",
  });
  if (texts.resume !== undefined) checkAlone(texts, switches);
  const file = texts.config === undefined ? {} : readConfig(texts.config);
  const { data: fileData, ...fileOptions } = file;
  return {
    data: lists.data ?? checkData(fileData),
    out: texts.out,
    overwrite: switches.has("overwrite"),
    resume: texts.resume,
    quiet: switches.has("quiet"),
    json: switches.has("json"),
    options: { ...fileOptions, ...runOptions(texts) },
  };
}

/** A run that goes on has its folder and its configuration. */
function checkAlone(
  texts: Readonly<Record<string, string | undefined>>,
  switches: ReadonlySet<string>,
): void {
  for (const name of ["out", "config", "overwrite"])
    if (texts[name] !== undefined || switches.has(name))
      throw new InputError(
        `--resume goes on in the run's own folder and with its configuration; leave --${name} out`,
      );
}

/** A flag for each option of a run, except some. */
export const runFlagKinds = (
  without: readonly string[] = [],
): Record<string, FlagKind> =>
  Object.fromEntries(
    Object.keys(trainOptions)
      .filter((key) => !without.includes(key))
      .map((key) => [optionName(key), "text"]),
  );

/** The run's options among the flags given, by their keys. */
export const runOptions = (
  texts: Readonly<Record<string, string | undefined>>,
): Record<string, unknown> =>
  Object.fromEntries(
    Object.keys(trainOptions).flatMap((key) => {
      const text = texts[optionName(key)];
      return text === undefined ? [] : [[key, parseValue(key, text)]];
    }),
  );

/** A number where the option is one; text that is none stays, for the message. */
function parseValue(key: string, text: string): unknown {
  const { kind } = trainOptions[key as keyof typeof trainOptions];
  if (kind === "text" || kind === "choice") return text;
  const value = Number(text);
  return text.trim() === "" || Number.isNaN(value) ? text : value;
}

/**
 * A configuration file's options.
 *
 * @param more keys beside `data` and the options of a run
 */
export function readConfig(
  file: string,
  more: readonly string[] = [],
): Record<string, unknown> {
  let config: unknown;
  try {
    config = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    const reason =
      error instanceof SyntaxError ? "is not JSON" : "cannot be read";
    throw new InputError(
      `the configuration '${file}' ${reason}: ${(error as Error).message}`,
      { cause: error },
    );
  }
  if (typeof config !== "object" || config === null || Array.isArray(config))
    throw new InputError(
      `the configuration '${file}' must be a JSON object, as in {"lr": 0.001}`,
    );
  const known = ["data", ...more, ...Object.keys(trainOptions)];
  for (const key of Object.keys(config))
    if (!known.includes(key)) {
      const guess = nearestName(key, known);
      throw new InputError(
        `the configuration '${file}' has the unknown key '${key}'; ${guess ? `did you mean '${guess}'?` : `there are ${known.join(", ")}`}`,
      );
    }
  return config as Record<string, unknown>;
}

/** Files from a configuration. */
export function checkData(data: unknown): string[] | undefined {
  if (data === undefined) return undefined;
  const list: unknown[] = Array.isArray(data) ? data : [data];
  if (list.length > 0 && list.every((item) => typeof item === "string"))
    return list as string[];
  throw new InputError(
    `data in the configuration must be a list of files, given ${JSON.stringify(data)}`,
  );
}
