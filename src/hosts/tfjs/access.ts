/**
 * How an optimizer reaches the numbers of variables and gradients: one way for
 * each kind of backend, told by what the backend can do and never by its name
 * (people subclass backends and register them under other names).
 */
import {
  tensor,
  tidy,
  type Tensor,
  type Variable,
} from "@tensorflow/tfjs-core";
import type { Engine } from "../../engines/engine.ts";

/** As TensorFlow.js's own, which it does not export. */
export interface NamedTensor {
  name: string;
  tensor: Tensor;
}

/** A variable and its gradient in one step. */
export interface Update {
  readonly variable: Variable;
  readonly gradient: Tensor;
}

/** Gradients and parameters by the variables' names, as the engine takes them. */
export type Apply = (
  gradients: Record<string, unknown>,
  parameters: Record<string, unknown>,
) => void;

/** A way to the numbers of one backend. */
export interface Access {
  /** In words, for people. */
  readonly description: string;
  readonly engine: Engine;
  /** When the description is final: a device's answer takes time. */
  readonly ready: Promise<void>;
  /**
   * Whether new values lie beside the old ones for the time of `update`, so that
   * it should get few variables at once.
   */
  readonly portions: boolean;
  /** Whether states lie on a device, which takes only what lies there, too. */
  readonly onDevice: boolean;
  /** Makes the numbers reachable, has them changed, and gives them to the variables. */
  update(updates: readonly Update[], apply: Apply): void;
}

/** Gives a variable new values, which it takes over. */
export function assign(variable: Variable, values: Float32Array): void {
  tidy(() => variable.assign(tensor(values, variable.shape, "float32")));
}
