/** What expressions are while a program is built. */
import { stepBinary } from "./arithmetic.ts";
import type { Scalars } from "./program.ts";

/** A host-side expression in float64. */
export type HostValue = (scalars: Scalars) => number;

/** What an expression lowers to: a value per element, or one for the step. */
export type Value = ElementValue | StepValue;

export interface ElementValue {
  readonly per: "element";
  readonly node: number;
}

export interface StepValue {
  readonly per: "step";
  /** Equal expressions have equal keys, and share a uniform. */
  readonly key: string;
  readonly host: HostValue;
  /** The value of an expression of numbers alone. */
  readonly literal?: number;
}

/** A number of the formula's text. */
export function literal(value: number): StepValue {
  return { per: "step", key: String(value), host: () => value, literal: value };
}

/** The hyperparameter or step scalar of this name. */
export const scalar = (name: string): StepValue => ({
  per: "step",
  key: name,
  host: (scalars) => scalars[name]!,
});

/** An operation on values of the step; of numbers alone, a number again. */
export function stepValue(
  op: string,
  apply: (...values: number[]) => number,
  ...operands: StepValue[]
): StepValue {
  const host: HostValue = (scalars) =>
    apply(...operands.map((operand) => operand.host(scalars)));
  const key = `${op}(${operands.map((operand) => operand.key).join(",")})`;
  return operands.every((operand) => operand.literal !== undefined)
    ? { per: "step", key, host, literal: host({}) }
    : { per: "step", key, host };
}

/** 1 / value. */
export const reciprocal = (value: StepValue) =>
  stepValue("div", stepBinary.div, literal(1), value);
