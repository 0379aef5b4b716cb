/** What an author writes of an optimizer: plain data and text. */
import type { StateKind } from "../formula/program.ts";

/** A hyperparameter: a number, or true and false, which a formula reads as 1 and 0. */
export type HyperValue = number | boolean;
export type Hyper = Readonly<Record<string, HyperValue>>;

/** Of a step's scalars by name. */
export type Floor = (scalars: Readonly<Record<string, number>>) => number;

/** States and the update they go with. */
export interface Form {
  /**
   * Every state: values per element, `signed` or `unsigned`, or one a `row`, one
   * a `column` (of the last two axes), or `one` number; those are float32. All
   * start at 0.
   */
  readonly state: Readonly<Record<string, StateKind>>;
  /**
   * The update of one element, in the notation of the papers. A list is joined;
   * forms may share its parts. (Concatenating them where the optimizer is
   * defined would keep bundlers from leaving it out.)
   */
  readonly update: string | readonly string[];
  /**
   * State and update for tensors with fewer than two axes, for an optimizer
   * that speaks of rows and columns.
   */
  readonly vector?: Pick<Form, "state" | "update">;
}

/** An optimizer as data; see docs/architecture.md for the language of `update`. */
export interface OptimizerDefinition<H extends Hyper = Hyper> extends Form {
  /** Lower case letters and digits, beginning with a letter. */
  readonly name: string;
  /** Every hyperparameter with its default. `lr` must be one of them. */
  readonly hyper: H;
  /**
   * What depends on the step but not on the element: evaluated in float64 on
   * the host, once a step. `t` is the step, from 1.
   */
  readonly scalars?: (
    hyper: { readonly [K in keyof H]: number },
    t: number,
  ) => Readonly<Record<string, number>>;
  /**
   * Of states by whose root the update divides: what is added to that root, in
   * its unit, from hyperparameters and step scalars. What `rounding:
   * "preconditioner"` of such a state needs.
   */
  readonly floors?: Readonly<Record<string, Floor>>;
  /** Extra checks of hyperparameters; throw a RangeError. */
  readonly check?: (hyper: { readonly [K in keyof H]: number }) => void;
  /**
   * Other forms for some values of the hyperparameters: what an option needs in
   * states nobody pays for who does not set it. The first whose `when` holds.
   */
  readonly variants?: readonly (Form & {
    readonly when: (hyper: { readonly [K in keyof H]: number }) => boolean;
  })[];
}
