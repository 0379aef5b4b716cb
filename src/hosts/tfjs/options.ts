/** What a user passes, in the host's words, checked; and the same as a configuration. */
import type { Group, Override } from "../../core/options.ts";
import { checkSettings, type OptimizerOptions } from "../../core/settings.ts";
import { checkNames } from "../../formula/error.ts";
import type { Hyper } from "../../optimizers/definition.ts";
import type { LearningRate } from "../../optimizers/hyper.ts";
import type { OptimizerFactory, Recipe } from "../../optimizers/define.ts";
import type { StorageOptions } from "../../optimizers/storage.ts";
import { hostName, namesByHost, translated, type HostName } from "./names.ts";

type Value<T> = T extends boolean ? boolean : number;

/** Hyperparameters by the host's names, without the learning rate. */
export type TfHyper<H extends Hyper = Hyper> = string extends keyof H
  ? { readonly [hyper: string]: unknown }
  : {
      readonly [K in Exclude<keyof H, "lr"> as HostName<K, H>]?: Value<H[K]>;
    };

/** Options for the variables whose names match; see `Override` of the door `lowbit`. */
export type TfOverride = Pick<Override, "match"> & TfRule;
/** Options for a named group of variables; a variable is in one at most. */
export type TfGroup = Pick<Group, "name" | "parameters"> & TfRule;

type TfRule = StorageOptions & {
  /** Learning rate of these variables; they no longer follow the optimizer's. */
  readonly learningRate?: LearningRate;
  /** Variables with fewer elements keep float32 state. */
  readonly minQuantizedSize?: number;
} & { readonly [hyper: string]: unknown };

/** What the core offers and a host's optimizer can keep to. */
const passedOn = [
  "minQuantizedSize",
  "maxGradNorm",
  "maxGradValue",
  "skipNonFinite",
  "seed",
] as const;

/** Everything but the learning rate. */
export type TfOptions<H extends Hyper = Hyper> = TfHyper<H> &
  StorageOptions &
  Pick<OptimizerOptions, (typeof passedOn)[number]> & {
    /** First to last, later ones win. Names are those of the variables. */
    readonly overrides?: readonly TfOverride[];
    readonly groups?: readonly TfGroup[];
  };

const storage = ["bits", "blockSize", "state"] as const;
const rules = ["overrides", "groups"] as const;

export interface Parsed {
  readonly recipe: Recipe;
  readonly settings: Omit<OptimizerOptions, "device">;
}

/** @throws TypeError or RangeError that says which option is wrong. */
export function parseOptions(
  factory: OptimizerFactory,
  learningRate: LearningRate | undefined,
  options: Readonly<Record<string, unknown>>,
): Parsed {
  const owner = factory.optimizerName;
  if (typeof options !== "object" || options === null || Array.isArray(options))
    throw new TypeError(
      `${owner}: options are an object, such as { epsilon: 1e-7 }, given ${String(options)}`,
    );
  const names = namesByHost(factory.definition.hyper);
  for (const key of Object.keys(options))
    checkKey(owner, key, names, factory.definition.hyper);
  const hyper = Object.fromEntries(
    Object.entries(options).flatMap(([key, value]) =>
      names.has(key) ? [[names.get(key)!, value]] : [],
    ),
  );
  const settings = {
    ...given(options, passedOn),
    ...Object.fromEntries(
      Object.entries(given(options, rules)).map(([key, list]) => [
        key,
        // What is no list the core complains of.
        Array.isArray(list)
          ? (list as TfRule[]).map((rule) => toOurs(rule, names))
          : list,
      ]),
    ),
  } as Parsed["settings"];
  try {
    checkSettings(settings);
    const recipe = factory({
      ...hyper,
      ...given(options, storage),
      ...(learningRate === undefined ? {} : { lr: learningRate }),
    } as never);
    return { recipe, settings };
  } catch (error) {
    throw translated(error, factory.definition.hyper);
  }
}

const notHere: Readonly<Record<string, string>> = {
  learningRate: "the learning rate is the first argument",
  lr: "the learning rate is the first argument",
  accumulate: "add up the gradients with TensorFlow.js",
  percentileClipping:
    "its norms are not part of what TensorFlow.js saves; use maxGradNorm",
  device: "it runs where TensorFlow.js runs",
  threads: "it runs where TensorFlow.js runs",
  resident: "the variables are TensorFlow.js's",
};

function checkKey(
  owner: string,
  key: string,
  names: ReadonlyMap<string, string>,
  hyper: Hyper,
): void {
  const known = [...names.keys(), ...storage, ...passedOn, ...rules].filter(
    (name) => name !== "learningRate",
  );
  if (known.includes(key)) return;
  const reason = Object.hasOwn(notHere, key) ? notHere[key] : undefined;
  if (reason)
    throw new TypeError(`${owner}: '${key}' is no option here: ${reason}`);
  // Our own name for what has another here.
  if (Object.hasOwn(hyper, key))
    throw new TypeError(
      `${owner}: unknown option '${key}'; did you mean '${hostName(key, hyper)}'? There are ${known.join(", ")}`,
    );
  checkNames(`${owner}: unknown option`, [key], known);
}

/** A rule in our words. What is unknown stays, for the core to complain of. */
const toOurs = (
  rule: Readonly<Record<string, unknown>>,
  names: ReadonlyMap<string, string>,
) =>
  Object.fromEntries(
    Object.entries(rule).map(([key, value]) => [names.get(key) ?? key, value]),
  );

const given = (
  options: Readonly<Record<string, unknown>>,
  keys: readonly string[],
) =>
  Object.fromEntries(
    keys.flatMap((key) =>
      options[key] === undefined ? [] : [[key, options[key]]],
    ),
  );

/** JSON, of whose strings only `rules` may have structure. */
export type TfConfig = Record<string, number | boolean | string>;

/**
 * Everything that makes the optimizer again, defaults included: a later version
 * may have others. What is not a scalar goes into one string of JSON.
 *
 * @throws TypeError for a function, which no file can hold.
 */
export function toConfig(
  { recipe, settings }: Parsed,
  options: Readonly<Record<string, unknown>>,
  learningRate: LearningRate,
): TfConfig {
  const owner = recipe.name;
  if (typeof learningRate === "function")
    throw new TypeError(
      `${owner}: a learning rate that is a function cannot be saved; set optimizer.learningRate to a number before saving, and to the function again after, and after loading`,
    );
  const { hyper: defaults } = recipe.optimizer;
  const config: TfConfig = { learningRate };
  for (const [name, value] of Object.entries(recipe.hyper))
    config[hostName(name, defaults)] =
      typeof defaults[name] === "boolean" ? value !== 0 : value;
  const { minQuantizedSize } = checkSettings(settings);
  Object.assign(config, { minQuantizedSize }, given(options, passedOn));
  for (const key of ["bits", "blockSize"])
    if (options[key] !== undefined) config[key] = options[key] as number;
  const nested = given(options, ["state", ...rules]);
  if (Object.keys(nested).length > 0)
    // Loading turns `a_b` in strings into `aB`; escapes have no underscores.
    config.rules = JSON.stringify(nested, (key, value: unknown) =>
      plainValue(owner, key, value),
    ).replaceAll("_", "\\u005f");
  return config;
}

function plainValue(owner: string, key: string, value: unknown): unknown {
  if (value instanceof RegExp)
    return { regexp: value.source, flags: value.flags };
  if (ArrayBuffer.isView(value))
    return Array.from(value as unknown as ArrayLike<number>);
  if (typeof value === "function")
    throw new TypeError(
      `${owner}: '${key}' is a function, which cannot be saved; use a name, a list of names or a pattern`,
    );
  return value;
}

/** The inverse of {@link toConfig}; keys that are not ours (the loader adds some) are left out. */
export function fromConfig(
  factory: OptimizerFactory,
  config: Readonly<Record<string, unknown>>,
): { learningRate: number; options: Record<string, unknown> } {
  const names = namesByHost(factory.definition.hyper);
  const nested =
    config.rules === undefined
      ? {}
      : (JSON.parse(config.rules as string, (_, value: unknown) =>
          isPattern(value) ? new RegExp(value.regexp, value.flags) : value,
        ) as Record<string, unknown>);
  const { learningRate, ...hyper } = given(config, [...names.keys()]);
  return {
    learningRate: learningRate as number,
    options: {
      ...hyper,
      ...given(config, ["bits", "blockSize", ...passedOn]),
      ...nested,
    },
  };
}

const isPattern = (
  value: unknown,
): value is { regexp: string; flags: string } =>
  typeof value === "object" && value !== null && "regexp" in value;
