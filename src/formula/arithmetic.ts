/**
 * How each operation acts on numbers per element, before they are rounded to
 * float32: as SIMD units and WGSL have it, where JavaScript has it otherwise.
 */
import { stepBinary, stepUnary, type Binary, type Unary } from "./values.ts";

export const elementUnary: Unary = /* @__PURE__ */ Object.assign(
  {},
  stepUnary,
  { sign: (a: number) => (a > 0 ? 1 : a < 0 ? -1 : 0) },
);

export const elementBinary: Binary = /* @__PURE__ */ Object.assign(
  {},
  stepBinary,
  {
    // The first operand unless the second wins.
    min: (a: number, b: number) => (b < a ? b : a),
    max: (a: number, b: number) => (b > a ? b : a),
    // Only of numbers that are not negative, as WGSL has it.
    pow: (a: number, b: number) => (a < 0 ? NaN : Math.pow(a, b)),
  },
);
