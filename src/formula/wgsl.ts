import type { BinaryOp, CompareOp } from "./parse.ts";
import { print, type Backend } from "./print.ts";
import type { Program, Shape } from "./program.ts";

export interface WgslOptions {
  /** `f32`, or `vec4f` for four elements at a time. Default `vec4f`. */
  readonly type?: "f32" | "vec4f";
  /** WGSL expression for an input (`p`, `g`, a state before the step). */
  readonly input: (name: string) => string;
  /** WGSL expression of type f32 for a uniform. */
  readonly uniform: (index: number) => string;
  /** WGSL expression, of the type, for a value that is not per element. */
  readonly small?: (index: number, shape: Shape) => string;
  /** Prefix of the `let` names; default `t`. */
  readonly prefix?: string;
}

export interface WgslText {
  /** `let` statements, one a line. */
  readonly statements: readonly string[];
  /** Names that hold the wanted values, in the order asked for. */
  readonly results: readonly string[];
}

const infix: Partial<Record<BinaryOp | CompareOp, string>> = {
  add: "+",
  sub: "-",
  mul: "*",
  div: "/",
  lt: "<",
  le: "<=",
  gt: ">",
  ge: ">=",
  eq: "==",
  ne: "!=",
};

/** A float32 as WGSL spells it exactly, with a decimal point or an exponent. */
export function wgslNumber(value: number): string {
  const text = String(Math.fround(value));
  return `${/[.e]/.test(text) ? text : `${text}.0`}f`;
}

/**
 * The WGSL back end: `let` statements for the wanted nodes of a program.
 *
 * WGSL's division and square root may be off by some ulp (2.5 for division),
 * so this back end agrees with the others to rounding, not bit for bit.
 *
 * @param given names of values already at hand, by node.
 */
export function printWgsl(
  program: Program,
  wanted: readonly number[],
  options: WgslOptions,
  given: ReadonlyMap<number, string> = new Map(),
): WgslText {
  const { type = "vec4f", prefix = "t" } = options;
  const vector = type === "vec4f";
  const statements: string[] = [];
  const bind = (expression: string): string => {
    const name = `${prefix}${statements.length}`;
    statements.push(`let ${name} = ${expression};`);
    return name;
  };
  const splat = (expression: string) =>
    vector ? `vec4f(${expression})` : expression;

  const backend: Backend<string> = {
    constant: (value) => bind(splat(wgslNumber(value))),
    uniform: (index) => bind(splat(options.uniform(index))),
    input: (name) => bind(options.input(name)),
    unary: (op, a) => bind(op === "neg" ? `-${a}` : `${op}(${a})`),
    binary: (op, a, b) =>
      bind(infix[op] ? `${a} ${infix[op]} ${b}` : `${op}(${a}, ${b})`),
    compare: (op, a, b) => bind(`${a} ${infix[op]} ${b}`),
    select: (condition, a, b) => bind(`select(${b}, ${a}, ${condition})`),
    ...(options.small && {
      small: (index, shape) => bind(options.small!(index, shape)),
    }),
  };
  return { results: print(program, wanted, backend, given), statements };
}
