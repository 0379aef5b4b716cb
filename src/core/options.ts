/**
 * Which options hold for which tensor: the recipe's, then its group's, then
 * every matching override's in order; decided once, at creation.
 */
import { float32, formatFor, type Format } from "../formats/format.ts";
import { nearestName } from "../formula/error.ts";
import {
  checkLearningRate,
  hyperValues,
  type LearningRate,
} from "../optimizers/hyper.ts";
import {
  definedOnly,
  formatsOf,
  mergeStates,
  stateFormats,
  type StorageOptions,
} from "../optimizers/storage.ts";
import { checkOptionNames, type Recipe } from "../optimizers/define.ts";
import { formOf, type Optimizer } from "../optimizers/compile.ts";
import type { HyperValue } from "../optimizers/definition.ts";

/** A tensor as overrides and groups see it. */
export interface TensorInfo {
  /** Name of the parameter. */
  readonly name: string;
  /** Sizes of its axes. */
  readonly shape: readonly number[];
  /** Number of elements. */
  readonly size: number;
}

/** A name, several names, a pattern, or a predicate. */
export type Match =
  string | readonly string[] | RegExp | ((tensor: TensorInfo) => boolean);

/** Hyperparameters of the optimizer and storage options, for some tensors. */
export type TensorOptions = StorageOptions & {
  /** Learning rate of these tensors; they no longer follow `optimizer.lr`. */
  readonly lr?: LearningRate;
  /** Tensors with fewer elements keep float32 state. */
  readonly minQuantizedSize?: number;
} & {
  readonly [hyper: string]: unknown;
};

/** Options for the tensors that match; later overrides win over earlier ones. */
export type Override = TensorOptions & { readonly match: Match };

/** A named group of tensors with its own options; a tensor is in one at most. */
export type Group = TensorOptions & {
  readonly name?: string;
  readonly parameters: Match;
};

export interface Settings {
  readonly groups: readonly Group[];
  readonly overrides: readonly Override[];
  readonly minQuantizedSize: number;
  /** Largest magnitude of a gradient's element. */
  readonly maxGradValue: number | undefined;
}

/** What holds for one tensor, and why. */
export interface Resolved {
  /** The recipe's, or its form for tensors with fewer than two axes. */
  readonly optimizer: Optimizer;
  /** Own learning rate; undefined follows the optimizer's. */
  readonly lr: LearningRate | undefined;
  readonly hyper: Readonly<Record<string, number>>;
  /** In the order of the states. */
  readonly formats: readonly Format[];
  /** Which rule decided the storage, for people. */
  readonly why: string;
  /** Names of the group and the overrides that applied. */
  readonly rules: readonly string[];
}

const extraKeys = ["minQuantizedSize"] as const;

/**
 * Resolves the options of every tensor.
 *
 * @throws TypeError for unknown options, for a group or an override that
 * matches no tensor, for a tensor in two groups; RangeError for bad values.
 */
export function resolveTensors(
  recipe: Recipe,
  tensors: readonly TensorInfo[],
  settings: Settings,
): Resolved[] {
  const groups = settings.groups.map((group, i) => {
    const { name, parameters, ...options } = group;
    return makeRule(
      recipe,
      tensors,
      name === undefined ? `group ${i}` : `group '${name}'`,
      parameters,
      options,
    );
  });
  const overrides = settings.overrides.map(({ match, ...options }, i) =>
    makeRule(recipe, tensors, `override ${i}`, match, options),
  );
  return tensors.map((tensor) => {
    const mine = groups.filter((rule) => rule.matches.has(tensor.name));
    if (mine.length > 1)
      throw new TypeError(
        `createOptimizer: '${tensor.name}' is in ${mine[0]!.label} and in ${mine[1]!.label}; a tensor is in one group`,
      );
    const rules = [
      ...mine,
      ...overrides.filter((rule) => rule.matches.has(tensor.name)),
    ];
    return resolveTensor(recipe, tensor, rules, settings);
  });
}

interface Rule {
  readonly label: string;
  readonly matches: ReadonlySet<string>;
  readonly options: TensorOptions;
}

function makeRule(
  recipe: Recipe,
  tensors: readonly TensorInfo[],
  place: string,
  match: Match,
  options: TensorOptions,
): Rule {
  const label = `${place} (${describeMatch(match)})`;
  const owner = `createOptimizer: ${label}`;
  checkOptionNames(recipe.optimizer, Object.keys(options), owner, extraKeys);
  const matches = new Set(
    tensors
      .filter((one) => matchesTensor(match, one, owner))
      .map((one) => one.name),
  );
  const names = tensors.map(({ name }) => name);
  const wanted =
    typeof match === "string" ? [match] : Array.isArray(match) ? match : [];
  for (const name of wanted as readonly string[])
    if (!names.includes(name)) {
      const guess = nearestName(name, names);
      throw new TypeError(
        `${owner}: there is no tensor '${name}'${guess ? `; did you mean '${guess}'?` : `; there are ${shortList(names)}`}`,
      );
    }
  if (matches.size === 0)
    throw new TypeError(
      `${owner} matches no tensor; the names are ${shortList(names)}`,
    );
  return { label, matches, options };
}

const shortList = (names: readonly string[]) =>
  names.length > 8
    ? `${names.slice(0, 8).join(", ")} and ${names.length - 8} more`
    : names.join(", ");

const describeMatch = (match: Match): string =>
  typeof match === "function"
    ? "a predicate"
    : match instanceof RegExp
      ? String(match)
      : typeof match === "string"
        ? `'${match}'`
        : Array.isArray(match)
          ? shortList(match as readonly string[])
          : String(match);

export function matchesTensor(
  match: Match,
  tensor: TensorInfo,
  owner: string,
): boolean {
  if (typeof match === "string") return tensor.name === match;
  // A pattern with the flag g or y remembers where it stopped; search does not.
  if (match instanceof RegExp) return tensor.name.search(match) >= 0;
  if (typeof match === "function") return match(tensor);
  if (Array.isArray(match)) return match.includes(tensor.name);
  throw new TypeError(
    `${owner}: match must be a name, a list of names, a pattern or a function, given ${String(match)}`,
  );
}

function resolveTensor(
  recipe: Recipe,
  tensor: TensorInfo,
  rules: readonly Rule[],
  { minQuantizedSize, maxGradValue }: Settings,
): Resolved {
  const { optimizer } = recipe;
  let { storage } = recipe;
  let storageRule = recipe.name;
  let minimum = checkMinimum("createOptimizer", minQuantizedSize);
  let minimumRule = "minQuantizedSize";
  let lr: LearningRate | undefined;
  let hyper = recipe.hyper;
  for (const { label, options } of rules) {
    const {
      bits,
      blockSize,
      state,
      lr: ownRate,
      minQuantizedSize: ownMinimum,
      ...rest
    } = options;
    if (ownRate !== undefined) lr = checkLearningRate(label, ownRate);
    if (ownMinimum !== undefined) {
      minimum = checkMinimum(label, ownMinimum);
      minimumRule = label;
    }
    hyper = hyperValues(optimizer, rest as Record<string, HyperValue>, hyper);
    if (bits !== undefined || blockSize !== undefined || state !== undefined) {
      storage = overrideStorage(storage, { bits, blockSize, state });
      storageRule = label;
      // Whoever asks for bits by name means them for small tensors too.
      if (bits !== undefined && ownMinimum === undefined) minimum = 0;
    }
  }
  stateFormats({ optimizer, storage });
  const own = formOf(optimizer, hyper, tensor.shape.length);
  if (!own)
    throw new TypeError(
      `${recipe.name}: '${tensor.name}' of shape [${tensor.shape.join(", ")}] has fewer than two axes, and the optimizer speaks of rows and columns; define its form for vectors`,
    );
  const wanted = Object.values(formatsOf(own, storage)).map((format) =>
    formatFor(format, tensor.shape),
  );
  const chosen = maxGradValue === undefined ? own : own.limited();
  const quantized = wanted.some(({ bits }) => bits !== 32);
  if (quantized && tensor.size < minimum)
    return {
      optimizer: chosen,
      lr,
      hyper,
      formats: wanted.map(() => float32),
      why: `float32: ${tensor.size} elements are fewer than ${minimumRule} ${minimum}`,
      rules: rules.map(({ label }) => label),
    };
  return {
    optimizer: chosen,
    lr,
    hyper,
    formats: wanted,
    why: storageRule,
    rules: rules.map(({ label }) => label),
  };
}

/** `bits` resets what the recipe said of each state; else a state keeps what is left out. */
function overrideStorage(
  base: StorageOptions,
  given: Parameters<typeof definedOnly>[0],
): StorageOptions {
  const kept = given.bits === undefined ? base : {};
  const state = mergeStates(kept, given.state);
  return {
    ...kept,
    ...definedOnly(given),
    ...(state && { state }),
  };
}

function checkMinimum(owner: string, value: unknown): number {
  if (typeof value !== "number" || !(value >= 0))
    throw new RangeError(
      `${owner}: minQuantizedSize must be a number of elements, 0 or more, given ${String(value)}`,
    );
  return value;
}
