import { InputError, optimizerName, trainOptions } from "lowbit/trainer";
import { readFlags, splitList, type FlagKind } from "../flags.ts";
import {
  checkData,
  readConfig,
  runFlagKinds,
  runOptions,
} from "../train/flags.ts";

/** What the command line of `lowbit compare` says. */
export interface CompareFlags {
  readonly data: readonly string[] | undefined;
  readonly out: string | undefined;
  readonly overwrite: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
  /** Recipes, by the names that the registry gives them; the first is what the others are held against. */
  readonly optimizers: readonly string[];
  /** How many seeds, from the option `seed` on. */
  readonly seeds: number;
  /** Runs at a time. */
  readonly jobs: number;
  /** Options of all runs. */
  readonly options: Readonly<Record<string, unknown>>;
}

const usualOptimizers = ["adamw32bit", "adamw8bit", "adamw4bit", "factor4bit"];

/** Options of `train` that say nothing here. */
const without = Object.entries(trainOptions)
  .filter(
    ([key, { group }]) =>
      ["optimizer", "saveEvery"].includes(key) || group === "sample",
  )
  .map(([key]) => key);

const kinds: Record<string, FlagKind> = {
  optimizers: "text",
  seeds: "text",
  jobs: "text",
  data: "list",
  out: "text",
  config: "text",
  overwrite: "switch",
  quiet: "switch",
  json: "switch",
  ...runFlagKinds(without),
};

/** Options of all runs that the help explains. */
export const comparedOptions = Object.entries(trainOptions).filter(
  ([key]) => !without.includes(key),
);

/** @throws InputError for what is unknown, missing, or no number. */
export function parseCompareFlags(args: readonly string[]): CompareFlags {
  const { texts, switches, lists } = readFlags(args, kinds, {
    command: "compare",
    stray: "text to train on comes after --data",
  });
  const file =
    texts.config === undefined
      ? {}
      : readConfig(texts.config, ["optimizers", "seeds", "jobs"]);
  const { data, optimizers, seeds, jobs, ...fileOptions } = file;
  for (const key of without) delete fileOptions[key];
  return {
    data: lists.data ?? checkData(data),
    out: texts.out,
    overwrite: switches.has("overwrite"),
    quiet: switches.has("quiet"),
    json: switches.has("json"),
    optimizers: checkOptimizers(
      texts.optimizers === undefined
        ? (optimizers ?? usualOptimizers)
        : splitList(texts.optimizers),
    ),
    seeds: whole("seeds", texts.seeds ?? seeds ?? 1, 100),
    jobs: whole("jobs", texts.jobs ?? jobs ?? 1, 64),
    options: { ...fileOptions, ...runOptions(texts), sampleLength: 0 },
  };
}

function checkOptimizers(given: unknown): string[] {
  const list: unknown[] = Array.isArray(given) ? given : [given];
  if (list.length < 1 || !list.every((name) => typeof name === "string"))
    throw new InputError(
      `optimizers must be names, as adamw32bit,adamw8bit, given ${JSON.stringify(given)}`,
    );
  const names = (list as string[]).map(optimizerName);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined)
    throw new InputError(`optimizers has '${twice}' twice; each runs once`);
  return names;
}

function whole(name: string, given: unknown, max: number): number {
  const value = typeof given === "string" ? Number(given) : given;
  if (
    Number.isInteger(value) &&
    (value as number) >= 1 &&
    (value as number) <= max
  )
    return value as number;
  throw new InputError(
    `${name} must be a whole number from 1 to ${max}, given ${JSON.stringify(given)}`,
  );
}
