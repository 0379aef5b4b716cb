/** Options under the names that optax gives them, sorted into a recipe's and the core's. */
import type { Group, Override } from "../../core/options.ts";
import type { FormatOptions } from "../../formats/format.ts";
import { nearestName } from "../../formula/error.ts";
import type { Hyper, HyperValue } from "../../optimizers/definition.ts";
import type { LearningRate } from "../../optimizers/hyper.ts";
import type {
  OptimizerFactory,
  Recipe,
  RecipeOptions,
} from "../../optimizers/define.ts";
import { storageKeys, type StorageOptions } from "../../optimizers/storage.ts";
import type { ScalarOrSchedule, Tree } from "./contract.ts";
import type { CoreOptions } from "./planned.ts";
import { walk } from "./tree.ts";

/** `beta1` is `b1`, as in optax; all other hyperparameters keep their names. */
type HostName<K> = K extends `beta${infer N}` ? `b${N}` : K;

/** The hyperparameters of an optimizer, but for the learning rate. */
export type HostHyper<H extends Hyper> = {
  readonly [
    K in keyof H as K extends "lr" ? never : HostName<K>
  ]?: H[K] extends boolean ? boolean : number;
};

/** Options that all optimizers have. */
export interface CommonOptions extends StorageOptions {
  /** Formats by state; they win over `bits` and `blockSize`. */
  readonly state?: Readonly<Record<string, FormatOptions>>;
  /** Options for some tensors by name (the path in the tree, as `blocks.0.weight`). */
  readonly overrides?: readonly HostRule<Override>[];
  /** Options for named groups of tensors; a tensor is in one at most. */
  readonly groups?: readonly HostRule<Group>[];
  /** Tensors with fewer elements keep float32 state. Default 4096. */
  readonly minQuantizedSize?: number;
  /** Largest 2-norm of all gradients together. Default: none. */
  readonly maxGradNorm?: number;
  /** Largest magnitude of an element of a gradient. Default: none. */
  readonly maxGradValue?: number;
  /** What to leave out when a gradient is not finite. Default `element`. */
  readonly skipNonFinite?: "element" | "step" | "off";
  /** Seed of stochastic rounding. Default 0. */
  readonly seed?: number;
  /**
   * Where weight decay applies: a tree of booleans like the parameters', or a
   * function of the parameters (which it must not consume) that gives one.
   */
  readonly mask?: unknown;
}

/** An override or group with hyperparameters by their names here; `lr` may be a schedule of the count. */
export type HostRule<R> = R extends infer Rule
  ? Omit<Rule, "lr"> & { readonly lr?: ScalarOrSchedule }
  : never;

/** An optimizer's options: its hyperparameters by optax's names, and the common ones. */
export type HostOptions<H extends Hyper = Hyper> = HostHyper<H> & CommonOptions;

const coreKeys = [
  "overrides",
  "groups",
  "minQuantizedSize",
  "maxGradNorm",
  "maxGradValue",
  "skipNonFinite",
  "seed",
] as const;

export interface Sorted {
  readonly recipe: Recipe;
  readonly core: CoreOptions;
  readonly mask: unknown;
}

/** @throws TypeError for options that are none, as a second number. */
export function checkOptions(owner: string, options: unknown): void {
  if (Object.prototype.toString.call(options) !== "[object Object]")
    throw new TypeError(
      `${owner}: options are an object, such as { b2: 0.99 }, given ${String(options)}`,
    );
}

/** @throws TypeError or RangeError that names the option, what was given and what is allowed. */
export function sortOptions(
  factory: OptimizerFactory,
  learningRate: ScalarOrSchedule,
  options: Readonly<Record<string, unknown>>,
): Sorted {
  const owner = factory.optimizerName;
  checkOptions(owner, options);
  const hyper = Object.keys(factory.definition.hyper)
    .filter((key) => key !== "lr")
    .map(hostName);
  const known = [...hyper, ...storageKeys, ...coreKeys, "mask"];
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    if (key === "lr" || key === "learningRate")
      throw new TypeError(
        `${owner}: the learning rate is the first argument, as in ${owner}(1e-3); leave '${key}' out of the options`,
      );
    const guess = nearestName(hostName(key), known);
    throw new TypeError(
      `${owner}: unknown option '${key}'; ${guess ? `did you mean '${guess}'? There are` : "there are"} ${known.join(", ")}`,
    );
  }
  const own: Record<string, unknown> = {};
  const core: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || key === "mask") continue;
    if (key === "overrides" || key === "groups") {
      if (!Array.isArray(value))
        throw new TypeError(
          `${owner}: ${key} must be a list, such as [{ ${key === "groups" ? "parameters" : "match"}: /bias/, weightDecay: 0 }], given ${typeof value}`,
        );
      core[key] = (value as Record<string, unknown>[]).map(coreRule);
    } else if ((coreKeys as readonly string[]).includes(key)) core[key] = value;
    else own[coreName(key)] = value;
  }
  return {
    recipe: factory({ ...own, lr: rateOf(learningRate) } as RecipeOptions),
    core: core as CoreOptions,
    mask: options.mask,
  };
}

/** A schedule of the steps taken before as one of the step, which counts from 1. */
const rateOf = (rate: ScalarOrSchedule): LearningRate =>
  typeof rate === "function" ? (step) => rate(step - 1) : rate;

const hostName = (key: string) => key.replace(/^beta(\d?)$/, "b$1");
const coreName = (key: string) => key.replace(/^b(\d)$/, "beta$1");

const coreRule = (rule: Record<string, unknown>) =>
  Object.fromEntries(
    Object.entries(rule).map(([key, value]) =>
      key === "lr"
        ? [key, rateOf(value as ScalarOrSchedule)]
        : [coreName(key), value],
    ),
  );

/** The names that a mask leaves without weight decay, as an override. */
export function maskOverrides(
  owner: string,
  mask: unknown,
  tree: Tree,
  names: readonly string[],
): Override[] {
  if (mask === undefined || mask === null) return [];
  const given: unknown = typeof mask === "function" ? mask(tree) : mask;
  const without: string[] = [];
  const seen = new Set<string>();
  walk(given, "", (path, decays) => {
    const name = path || "parameter";
    if (typeof decays !== "boolean")
      throw new TypeError(
        `${owner}: the mask must hold true or false for every parameter, given ${String(decays)} for '${name}'`,
      );
    seen.add(name);
    if (!decays) without.push(name);
  });
  const missing = names.find((name) => !seen.has(name));
  if (missing !== undefined || seen.size !== names.length)
    throw new TypeError(
      `${owner}: the mask must be a tree like the parameters'; ${missing === undefined ? "it has more leaves" : `it has nothing for '${missing}'`}`,
    );
  return without.length > 0
    ? [{ match: without, weightDecay: 0 as HyperValue }]
    : [];
}
