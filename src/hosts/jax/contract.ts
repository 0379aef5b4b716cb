/** The words that jax-js and its optax speak, by structure: neither is imported at run time. */
import type * as jaxJs from "@jax-js/jax";

export type Jax = typeof jaxJs;
/** An array of jax-js, or what stands for one while a function is traced. */
export type Tensor = jaxJs.numpy.Array;
export type Tree = jaxJs.JsTree<Tensor>;

/**
 * The state of an optimizer: arrays only, so it can be flattened, saved, passed
 * through `jit`, and freed with `tree.dispose`.
 */
export type OptState = {
  /** Steps taken, a uint32 scalar. */
  count: Tensor;
  /** uint32 words: the codes, scales and float32 values of all tensors, packed. */
  states: Tensor[];
};

/** A number, or a function of the steps taken before (0 at the first), as optax has it. */
export type ScalarOrSchedule = number | ((count: number) => number);

/** What optax calls a gradient transformation. Every function consumes its arguments. */
export interface GradientTransformation {
  /**
   * The state before the first step. Consumes the parameters; keep them with `tree.ref(params)`.
   *
   * @throws TypeError for parameters that are not float32, or were consumed before.
   */
  init<P extends Tree>(params: P): OptState;
  /**
   * @param params needed where the formula reads parameters: weight decay, norms.
   * @returns what to add to the parameters, and the next state.
   */
  update<P extends Tree>(
    updates: P,
    state: OptState,
    params?: P,
  ): [P, OptState];
}

export const isArray = (jax: Pick<Jax, "Array">, x: unknown): x is Tensor =>
  x instanceof jax.Array;
