/** What expressions are while a program is built, and the arithmetic of a step on the host. */
import type { BinaryOp, CompareOp, UnaryOp } from "./parse.ts";
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

export type Unary = Readonly<Record<UnaryOp, (a: number) => number>>;
export type Binary = Readonly<
  Record<BinaryOp | CompareOp, (a: number, b: number) => number>
>;

/** Of the step's values, in float64: as JavaScript has it. */
export const stepUnary: Unary = {
  neg: (a) => -a,
  sqrt: (a) => Math.sqrt(a),
  abs: (a) => Math.abs(a),
  sign: (a) => Math.sign(a),
  exp: (a) => Math.exp(a),
  log: (a) => Math.log(a),
};

export const stepBinary: Binary = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
  pow: (a, b) => Math.pow(a, b),
  lt: (a, b) => Number(a < b),
  le: (a, b) => Number(a <= b),
  gt: (a, b) => Number(a > b),
  ge: (a, b) => Number(a >= b),
  eq: (a, b) => Number(a === b),
  ne: (a, b) => Number(a !== b),
};
