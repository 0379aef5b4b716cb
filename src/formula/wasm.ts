/**
 * The Wasm back end: SIMD128 instructions for a program, several vectors of
 * four elements side by side, so that independent chains overlap and square
 * roots and divisions come in groups.
 */
import type { FunctionBuilder, Local, ModuleBuilder } from "./assembler.ts";
import {
  f32x4,
  f64x2,
  i32x4,
  i64x2,
  i8x16,
  swapHalves,
  v128,
  type Code,
} from "./instructions.ts";
import type { BinaryOp, CompareOp, UnaryOp } from "./parse.ts";
import { print, type Backend } from "./print.ts";
import type { Program } from "./program.ts";

/** One variable for each vector that is computed side by side. */
export type Vectors = readonly Local[];

/** exp, log and pow as functions of the module, made when first needed. */
export class MathFunctions {
  readonly #module: ModuleBuilder;
  readonly #made = new Map<string, FunctionBuilder>();

  constructor(module: ModuleBuilder) {
    this.#module = module;
  }

  get(op: "exp" | "log" | "pow"): FunctionBuilder {
    let made = this.#made.get(op);
    if (!made) {
      made = this.#module.function(
        op === "pow" ? ["v128", "v128"] : ["v128"],
        "v128",
      );
      this.#made.set(op, made);
      bodies[op](made);
    }
    return made;
  }
}

/**
 * Emits the wanted nodes for `width` vectors.
 *
 * @param given variables of values already at hand, by node.
 */
export function printWasm(
  program: Program,
  wanted: readonly number[],
  width: number,
  fn: FunctionBuilder,
  math: MathFunctions,
  inputs: {
    readonly input: (name: string) => Vectors;
    readonly uniform: (index: number) => Local;
    readonly small?: (index: number) => Vectors;
  },
  given: ReadonlyMap<number, Vectors> = new Map(),
): Vectors[] {
  const each = (code: (i: number) => Code): Vectors =>
    Array.from({ length: width }, (_, i) => fn.let("v128", code(i)));
  // A select between a value and 0 is the value and the mask.
  const zeros = new Set<Vectors>();
  const backend: Backend<Vectors> = {
    constant: (value) => {
      const one = fn.let("v128", f32x4.const(value));
      const vectors = Array.from({ length: width }, () => one);
      if (Object.is(value, 0)) zeros.add(vectors);
      return vectors;
    },
    uniform: (index) => {
      const one = inputs.uniform(index);
      return Array.from({ length: width }, () => one);
    },
    input: inputs.input,
    small: (index) => inputs.small!(index),
    unary: (op, a) => each((i) => unary(op, a[i]!.get, fn, math)),
    binary: (op, a, b) =>
      each((i) => binary(op, a[i]!.get, b[i]!.get, fn, math)),
    compare: (op, a, b) => each((i) => compares[op](a[i]!.get, b[i]!.get)),
    select: (condition, a, b) =>
      each((i) =>
        zeros.has(b)
          ? v128.and(a[i]!.get, condition[i]!.get)
          : v128.bitselect(a[i]!.get, b[i]!.get, condition[i]!.get),
      ),
  };
  return print(program, wanted, backend, given);
}

const compares: Readonly<Record<CompareOp, (a: Code, b: Code) => Code>> = {
  lt: f32x4.lt,
  le: f32x4.le,
  gt: f32x4.gt,
  ge: f32x4.ge,
  eq: f32x4.eq,
  ne: f32x4.ne,
};

function unary(
  op: UnaryOp,
  a: Code,
  fn: FunctionBuilder,
  math: MathFunctions,
): Code {
  switch (op) {
    case "neg":
      return f32x4.neg(a);
    case "sqrt":
      return f32x4.sqrt(a);
    case "abs":
      return f32x4.abs(a);
    case "sign":
      return v128.or(
        v128.and(f32x4.gt(a, f32x4.const(0)), f32x4.const(1)),
        v128.and(f32x4.lt(a, f32x4.const(0)), f32x4.const(-1)),
      );
    case "exp":
    case "log":
      return fn.call(math.get(op), a);
    default:
      return op satisfies never;
  }
}

function binary(
  op: BinaryOp,
  a: Code,
  b: Code,
  fn: FunctionBuilder,
  math: MathFunctions,
): Code {
  switch (op) {
    case "add":
      return f32x4.add(a, b);
    case "sub":
      return f32x4.sub(a, b);
    case "mul":
      return f32x4.mul(a, b);
    case "div":
      return f32x4.div(a, b);
    case "min":
      return f32x4.pmin(a, b);
    case "max":
      return f32x4.pmax(a, b);
    case "pow":
      return fn.call(math.get("pow"), a, b);
    default:
      return op satisfies never;
  }
}

/**
 * exp, log and pow work in float64, two lanes at a time, to about 1e-12, and
 * round once: next to always the float32 that the host's Math gives.
 */
const bodies = {
  exp: (fn: FunctionBuilder) =>
    halves(fn, [fn.parameter(0).get], ([x]) => exp64(fn, x!)),
  log: (fn: FunctionBuilder) =>
    halves(fn, [fn.parameter(0).get], ([x]) => log64(fn, x!)),
  pow: (fn: FunctionBuilder) =>
    halves(fn, [fn.parameter(0).get, fn.parameter(1).get], ([a, b]) => {
      const exponent = fn.let("v128", b!);
      const power = exp64(
        fn,
        f64x2.mul(exponent.get, fn.let("v128", log64(fn, a!)).get),
      );
      return v128.bitselect(
        f64x2.const(1),
        power,
        f64x2.eq(exponent.get, f64x2.const(0)),
      );
    }),
};

/** Applies a float64 function to both halves of float32 vectors and returns the whole. */
function halves(
  fn: FunctionBuilder,
  values: readonly Code[],
  apply: (parts: readonly Code[]) => Code,
): void {
  const low = fn.let(
    "v128",
    f32x4.demote_f64x2_zero(apply(values.map(f64x2.promote_low_f32x4))),
  );
  const high = fn.let(
    "v128",
    f32x4.demote_f64x2_zero(
      apply(values.map((value) => f64x2.promote_low_f32x4(swapHalves(value)))),
    ),
  );
  fn.emit(
    i8x16.shuffle(
      low.get,
      high.get,
      [0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23],
    ),
  );
}

/** c[0] + x (c[1] + x (c[2] + ...)). */
function polynomial(x: Code, coefficients: readonly number[]): Code {
  return coefficients.reduceRight<Code>(
    (sum, c, i) =>
      i === coefficients.length - 1
        ? f64x2.const(c)
        : f64x2.add(f64x2.const(c), f64x2.mul(x, sum)),
    [],
  );
}

/** e^x: x = n ln 2 + r with |r| <= ln 2 / 2, a Taylor series of r, n into the exponent. */
function exp64(fn: FunctionBuilder, value: Code): Code {
  const factorial = (n: number): number => (n < 2 ? 1 : n * factorial(n - 1));
  // Beyond these bounds a float32 result is 0 or infinite anyway.
  const x = fn.let(
    "v128",
    f64x2.pmax(f64x2.pmin(value, f64x2.const(700)), f64x2.const(-700)),
  );
  const n = fn.let(
    "v128",
    f64x2.nearest(f64x2.mul(x.get, f64x2.const(Math.LOG2E))),
  );
  const r = fn.let(
    "v128",
    f64x2.sub(x.get, f64x2.mul(n.get, f64x2.const(Math.LN2))),
  );
  const series = polynomial(
    r.get,
    Array.from({ length: 12 }, (_, k) => 1 / factorial(k)),
  );
  return i64x2.add(
    series,
    i64x2.shl(
      i64x2.extend_low_i32x4_s(i32x4.trunc_sat_f64x2_s_zero(n.get)),
      52,
    ),
  );
}

/** log x: x = m 2^e with m around 1, log m = 2 atanh((m - 1) / (m + 1)) as a series. */
function log64(fn: FunctionBuilder, value: Code): Code {
  const x = fn.let("v128", value);
  const mantissa = fn.let(
    "v128",
    v128.or(v128.and(x.get, i64x2.const(0xfffffffffffffn)), f64x2.const(1)),
  );
  const big = fn.let("v128", f64x2.gt(mantissa.get, f64x2.const(Math.SQRT2)));
  const m = fn.let(
    "v128",
    v128.bitselect(
      f64x2.mul(mantissa.get, f64x2.const(0.5)),
      mantissa.get,
      big.get,
    ),
  );
  // The exponent field, moved into the low 32 bits of each lane and gathered.
  const field = fn.let("v128", i64x2.shr_u(x.get, 52));
  const exponent = f64x2.sub(
    f64x2.convert_low_i32x4_s(
      i8x16.shuffle(
        field.get,
        field.get,
        [0, 1, 2, 3, 8, 9, 10, 11, 0, 1, 2, 3, 8, 9, 10, 11],
      ),
    ),
    v128.bitselect(f64x2.const(1022), f64x2.const(1023), big.get),
  );
  const s = fn.let(
    "v128",
    f64x2.div(
      f64x2.sub(m.get, f64x2.const(1)),
      f64x2.add(m.get, f64x2.const(1)),
    ),
  );
  const square = fn.let("v128", f64x2.mul(s.get, s.get));
  const series = polynomial(
    square.get,
    Array.from({ length: 10 }, (_, k) => 2 / (2 * k + 1)),
  );
  const regular = f64x2.add(
    f64x2.mul(exponent, f64x2.const(Math.LN2)),
    f64x2.mul(s.get, series),
  );
  const below = v128.bitselect(
    f64x2.const(-Infinity),
    f64x2.const(NaN),
    f64x2.eq(x.get, f64x2.const(0)),
  );
  // Positive and finite; else 0, negative, infinite or NaN.
  const positive = v128.bitselect(
    regular,
    below,
    f64x2.gt(x.get, f64x2.const(0)),
  );
  return v128.bitselect(
    positive,
    x.get,
    v128.and(f64x2.lt(x.get, f64x2.const(Infinity)), f64x2.eq(x.get, x.get)),
  );
}
