/** Optimizers and recipes as functions of their options. */
import { checkNames } from "../formula/error.ts";
import { compileOptimizer, type Optimizer } from "./compile.ts";
import type { Hyper, HyperValue, OptimizerDefinition } from "./definition.ts";
import { checkLearningRate, hyperValues, type LearningRate } from "./hyper.ts";
import {
  definedOnly,
  mergeStates,
  stateFormats,
  storageKeys,
  type StorageOptions,
} from "./storage.ts";

/** Options of an optimizer: its hyperparameters, each with the default of the definition, and how states are stored. */
export type RecipeOptions<H extends Hyper = Hyper> = {
  readonly [K in keyof H]?: K extends "lr"
    ? LearningRate
    : HyperValue extends H[K]
      ? HyperValue
      : H[K] extends boolean
        ? boolean
        : number;
} & StorageOptions;

/** An optimizer, its hyperparameters and how its states are stored. */
export interface Recipe {
  /** For people: `adamw8bit`, or `adamw` when nothing names it better. */
  readonly name: string;
  /** The checked and compiled definition. */
  readonly optimizer: Optimizer;
  /** Learning rate: a number, or a function of the step (the first is 1). */
  readonly lr: LearningRate;
  /** Every hyperparameter but lr, booleans as 1 and 0. */
  readonly hyper: Readonly<Record<string, number>>;
  /** How states are stored; {@link StorageOptions} gives the defaults. */
  readonly storage: StorageOptions;
}

/** Makes a {@link Recipe} from options; also carries the definition. */
export interface OptimizerFactory<H extends Hyper = Hyper> {
  /** @throws TypeError or RangeError for an option that is unknown or out of its range. */
  (options?: RecipeOptions<H>): Recipe;
  /** Name of the optimizer or recipe: `adamw8bit`. */
  readonly optimizerName: string;
  /** What `defineOptimizer` was given. */
  readonly definition: OptimizerDefinition<H>;
}

/**
 * Defines an optimizer. Its formula is checked when a recipe is first made, so
 * that a definition nobody uses costs nothing.
 *
 * @throws TypeError or FormulaError, from the first call, when the definition
 * is wrong.
 */
export function defineOptimizer<H extends Hyper>(
  definition: OptimizerDefinition<H>,
): OptimizerFactory<H> {
  let compiled: Optimizer | undefined;
  const optimizer = () => (compiled ??= compileOptimizer(definition as never));
  const factory = (options: RecipeOptions<H> = {}) =>
    makeRecipe(definition.name, optimizer(), options as RecipeOptions);
  return Object.assign(factory, {
    optimizerName: definition.name,
    definition,
  });
}

function makeRecipe(
  name: string,
  optimizer: Optimizer,
  options: RecipeOptions,
): Recipe {
  checkOptionNames(optimizer, Object.keys(options), name);
  const { bits, blockSize, state, lr, ...rest } = options as StorageOptions & {
    lr?: LearningRate;
  } & Record<string, HyperValue>;
  const recipe: Recipe = {
    name,
    optimizer,
    lr: checkLearningRate(name, lr ?? Number(optimizer.hyper.lr)),
    hyper: hyperValues(optimizer, rest),
    storage: definedOnly({ bits, blockSize, state }),
  };
  // Formats are checked here, so that a recipe that exists is a recipe that works.
  stateFormats(recipe);
  return recipe;
}

/**
 * Gives a recipe a name and its formats.
 *
 * @param fixed storage of the recipe; `adamw8bit({ bits: 4 })` is an error,
 * while a block size or a state's format may still be set.
 */
export function defineRecipe<H extends Hyper>(
  name: string,
  factory: OptimizerFactory<H>,
  fixed: StorageOptions,
): OptimizerFactory<H> {
  const named = (options: RecipeOptions<H> = {}): Recipe => {
    const given = options as StorageOptions;
    if (given.bits !== undefined && given.bits !== fixed.bits)
      throw new TypeError(
        `${name}: bits are ${fixed.bits} by its name, given ${given.bits}; use ${factory.optimizerName}({ bits: ${given.bits} })`,
      );
    const state = mergeStates(fixed, given.state);
    try {
      return {
        ...factory({
          ...options,
          ...fixed,
          ...definedOnly({
            bits: fixed.bits,
            blockSize: given.blockSize,
            state,
          }),
        } as RecipeOptions<H>),
        name,
      };
    } catch (error) {
      throw renamed(error, factory.optimizerName, name);
    }
  };
  return Object.assign(named, {
    optimizerName: name,
    definition: factory.definition,
  });
}

/** Errors name what the user called. */
function renamed(error: unknown, from: string, to: string): unknown {
  if (error instanceof Error && error.message.startsWith(`${from}:`))
    error.message = `${to}${error.message.slice(from.length)}`;
  return error;
}

/** @throws TypeError for an option that the optimizer does not have. */
export function checkOptionNames(
  optimizer: Optimizer,
  keys: readonly string[],
  owner: string,
  extra: readonly string[] = [],
): void {
  const known = [...Object.keys(optimizer.hyper), ...storageKeys, ...extra];
  checkNames(`${owner}: unknown option`, keys, known);
}
