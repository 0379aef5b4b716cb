import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import {
  InputError,
  nearestName,
  optionName,
  trainOptions,
} from "lowbit/trainer";

/** What the command line of `lowbit train` says, besides the run's own options. */
export interface Flags {
  /** Files, folders, globs, `-`; undefined takes the default text. */
  readonly data: readonly string[] | undefined;
  readonly out: string | undefined;
  readonly overwrite: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
  /** For `resolveConfig`: the configuration file's, then the flags'. */
  readonly options: Readonly<Record<string, unknown>>;
}

const own = {
  data: { type: "string" },
  out: { type: "string" },
  config: { type: "string" },
  overwrite: { type: "boolean" },
  quiet: { type: "boolean" },
  json: { type: "boolean" },
} as const;

/** Flag as typed -> key of the option: `weight-decay` -> `weightDecay`. */
const runFlags = new Map(
  Object.keys(trainOptions).map((key) => [optionName(key), key]),
);

/** @throws InputError for an unknown flag, a missing value, a stray argument. */
export function parseFlags(args: readonly string[]): Flags {
  const { data, switches, texts, options } = readTokens(args);
  const file = texts.config === undefined ? {} : readConfig(texts.config);
  const { data: fileData, ...fileOptions } = file;
  return {
    data: data.length > 0 ? data : checkData(fileData),
    out: texts.out,
    overwrite: switches.has("overwrite"),
    quiet: switches.has("quiet"),
    json: switches.has("json"),
    options: { ...fileOptions, ...options },
  };
}

function readTokens(args: readonly string[]) {
  const { tokens } = parseArgs({
    args: [...args],
    strict: false, // our own messages are better
    tokens: true,
    options: {
      ...own,
      ...Object.fromEntries(
        [...runFlags.keys()].map((flag) => [flag, { type: "string" } as const]),
      ),
    },
  });
  const data: string[] = [];
  const switches = new Set<string>();
  const texts: Record<string, string> = {};
  const options: Record<string, unknown> = {};
  let inData = false; // `--data a b c`: the files go on to the next flag
  for (const token of tokens) {
    if (token.kind === "option-terminator") continue;
    if (token.kind === "positional") {
      if (!inData)
        throw new InputError(
          `unexpected '${token.value}'; text to train on comes after --data`,
        );
      data.push(token.value);
      continue;
    }
    const { name, value } = token;
    checkFlag(token.rawName, name);
    inData = name === "data";
    if (name in own && own[name as keyof typeof own].type === "boolean") {
      if (value !== undefined)
        throw new InputError(`--${name} takes no value, given '${value}'`);
      switches.add(name);
      continue;
    }
    if (value === undefined || (!token.inlineValue && value.startsWith("--")))
      throw new InputError(`--${name} needs a value`);
    if (name === "data") data.push(value);
    else if (name in own) texts[name] = value;
    else options[runFlags.get(name)!] = parseValue(runFlags.get(name)!, value);
  }
  return { data, switches, texts, options };
}

function checkFlag(raw: string, name: string): void {
  const known = [...Object.keys(own), ...runFlags.keys()];
  if (raw.startsWith("--") && known.includes(name)) return;
  const guess = nearestName(name, known);
  throw new InputError(
    `unknown option '${raw}'; ${guess ? `did you mean '--${guess}'?` : "lowbit train --help lists them all"}`,
  );
}

/** A number where the option is one; text that is none stays, for the message. */
function parseValue(key: string, text: string): unknown {
  const { kind } = trainOptions[key as keyof typeof trainOptions];
  if (kind === "text" || kind === "choice") return text;
  const value = Number(text);
  return text.trim() === "" || Number.isNaN(value) ? text : value;
}

function readConfig(file: string): Record<string, unknown> {
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
  const known = ["data", ...Object.keys(trainOptions)];
  for (const key of Object.keys(config))
    if (!known.includes(key)) {
      const guess = nearestName(key, known);
      throw new InputError(
        `the configuration '${file}' has the unknown key '${key}'; ${guess ? `did you mean '${guess}'?` : `there are ${known.join(", ")}`}`,
      );
    }
  return config as Record<string, unknown>;
}

function checkData(data: unknown): string[] | undefined {
  if (data === undefined) return undefined;
  const list: unknown[] = Array.isArray(data) ? data : [data];
  if (list.length > 0 && list.every((item) => typeof item === "string"))
    return list as string[];
  throw new InputError(
    `data in the configuration must be a list of files, given ${JSON.stringify(data)}`,
  );
}
