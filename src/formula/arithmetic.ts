/** How each operation acts on numbers, on the host. */
import type { BinaryOp, CompareOp, UnaryOp } from "./parse.ts";

type Unary = Readonly<Record<UnaryOp, (a: number) => number>>;
type Binary = Readonly<
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

/** Of values per element, before they are rounded to float32: as SIMD units and WGSL have it. */
export const elementUnary: Unary = {
  ...stepUnary,
  sign: (a) => (a > 0 ? 1 : a < 0 ? -1 : 0),
};

export const elementBinary: Binary = {
  ...stepBinary,
  // The first operand unless the second wins.
  min: (a, b) => (b < a ? b : a),
  max: (a, b) => (b > a ? b : a),
  // Only of numbers that are not negative, as WGSL has it.
  pow: (a, b) => (a < 0 ? NaN : Math.pow(a, b)),
};
