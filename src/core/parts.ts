/** What an optimizer is made of, before a step is taken. */
import type { Engine } from "../engines/engine.ts";
import { nearestName } from "../formula/error.ts";
import type { Recipe } from "../optimizers/define.ts";
import type { Resolved, TensorInfo } from "./options.ts";
import type { CheckedOptions } from "./settings.ts";

/** A parameter to optimize. */
export interface Parameter {
  /**
   * Where its values live; a step changes them in place. A Float32Array, or on
   * a WebGPU device a GPUBuffer or `{ buffer, offset }`. Left out, the engine
   * allocates zeros, see {@link OptimizerHandle.parameter}.
   */
  readonly data?: unknown;
  /** Sizes of its axes; `[]` is one number. */
  readonly shape: readonly number[];
}

/** What `createOptimizer` has decided. */
export interface Parts {
  readonly recipe: Recipe;
  readonly tensors: readonly TensorInfo[];
  /** In the order of the tensors. */
  readonly resolved: readonly Resolved[];
  readonly settings: CheckedOptions;
  readonly engine: Engine;
}

/** Index of a tensor. @throws TypeError for an unknown name, with the nearest one. */
export function tensorIndex({
  recipe,
  tensors,
}: Parts): (name: string) => number {
  const indices = new Map(tensors.map(({ name }, i) => [name, i]));
  return (name) => {
    const index = indices.get(name);
    if (index !== undefined) return index;
    const guess = nearestName(name, indices.keys());
    throw new TypeError(
      `${recipe.name}: there is no tensor '${name}'${guess ? `; did you mean '${guess}'?` : ""}`,
    );
  };
}

/** Names of a tensor's states. */
export const stateNames = ({ resolved }: Parts, tensor: number) =>
  resolved[tensor]!.optimizer.program.states;
