/**
 * The jax-js back end of a formula: its operations on whole arrays, of the form
 * [matrices, rows, columns], over which the values of rows, columns and tensors
 * (with axes of length 1) spread by themselves.
 */
import type { UnaryOp } from "../../formula/parse.ts";
import type { Program, Shape } from "../../formula/program.ts";
import type { Geometry } from "../../formula/small.ts";
import type { Tensor } from "./contract.ts";
import type { Scope } from "./scope.ts";

/** The array shape of a value, see {@link Shape}. */
export function arrayShape(
  shape: Shape,
  { matrices, rows, columns }: Geometry,
): [number, number, number] {
  switch (shape) {
    case "one":
      return [1, 1, 1];
    case "matrix":
      return [matrices, 1, 1];
    case "row":
      return [matrices, rows, 1];
    case "column":
      return [matrices, 1, columns];
    case "element":
      return [matrices, rows, columns];
  }
}

export interface Inputs {
  readonly program: Program;
  readonly geometry: Geometry;
  /** `p`, `g` and the old states, by name; without `p` it is 0. */
  readonly inputs: ReadonlyMap<string, () => Tensor>;
  /** All uniforms of the step, float32. */
  readonly uniforms: Tensor;
  /** Which elements reductions take; undefined takes all. */
  readonly finite: ((value: Tensor) => Tensor) | undefined;
}

/** The value of a node, each computed once; a scalar may have no axes. */
export function evaluator(
  scope: Scope,
  given: Inputs,
): (node: number) => Tensor {
  const { program, inputs, uniforms } = given;
  /** Undefined for 0. */
  const values = new Map<number, Tensor | undefined>();
  const at = (index: number) => valueOf(index) ?? scope.float(0);
  const valueOf = (index: number): Tensor | undefined => {
    const node = program.nodes[index]!;
    // A part of every kernel that needs it, and no result of its own.
    if (node.op === "const") return scope.float(node.value);
    if (node.op === "uniform")
      return scope.reshape(
        scope.slice(uniforms, node.index, node.index + 1),
        [],
      );
    if (node.op === "input") return inputs.get(node.name)?.();
    if (!values.has(index)) values.set(index, compute(index));
    return values.get(index);
  };
  const compute = (index: number): Tensor | undefined => {
    const node = program.nodes[index] as Inner;
    if (node.op === "select")
      return scope.where(at(node.condition), at(node.a), at(node.b));
    if (node.op === "reduce")
      return reduce(scope, given, withAxes(scope, at(node.a)), {
        ...node,
        elements: program.shapes[node.a] === "element",
      });
    const a = valueOf(node.a);
    if (!("b" in node))
      return a || node.op !== "neg"
        ? applyUnary(scope, node.op, a ?? scope.float(0))
        : undefined;
    const b = valueOf(node.b);
    if (!a || !b) {
      if (node.op === "mul") return undefined;
      if (node.op === "add") return a ?? b;
      if (node.op === "sub") return a ?? (b && scope.neg(b));
    }
    return scope[node.op](a ?? scope.float(0), b ?? scope.float(0));
  };
  return at;
}

const withAxes = (scope: Scope, a: Tensor) =>
  a.ndim === 0 ? scope.reshape(a, [1, 1, 1]) : a;

/** What is computed from other nodes. */
type Inner = Exclude<
  Program["nodes"][number],
  { op: "const" | "uniform" | "input" }
>;

function applyUnary(scope: Scope, op: UnaryOp, a: Tensor): Tensor {
  if (op !== "sign") return scope[op](a);
  const zero = scope.float(0);
  return scope.where(
    scope.gt(a, zero),
    scope.float(1),
    scope.where(scope.lt(a, zero), scope.float(-1), zero),
  );
}

interface Reduction {
  readonly how: "sum" | "mean" | "max";
  readonly over: "all" | "row" | "column";
  readonly elements: boolean;
}

function reduce(
  scope: Scope,
  { finite }: Inputs,
  a: Tensor,
  { how, over, elements }: Reduction,
): Tensor {
  const least = scope.float(-Infinity);
  const zero = scope.float(0);
  const counted =
    elements && finite
      ? scope.where(finite(a), a, how === "max" ? least : zero)
      : a;
  const axes =
    over === "row"
      ? [2]
      : over === "column"
        ? [1]
        : elements
          ? [2, 1, 0]
          : [2, 1];
  // One axis after the other: a single sum of millions loses digits.
  const along = (take: (a: Tensor, axis: number) => Tensor) =>
    axes.reduce((value, axis) => take(value, axis), counted);
  if (how === "max") {
    const most = along(scope.largest);
    return scope.where(scope.eq(most, least), zero, most);
  }
  const sum = along(longSum(scope));
  if (how === "sum") return sum;
  const count = axes.reduce((n, axis) => n * counted.shape[axis]!, 1);
  return scope.mul(sum, scope.float(1 / Math.max(1, count)));
}

/** A sum along an axis, in two stages where it is long. */
export const longSum =
  (scope: Scope) =>
  (a: Tensor, axis: number): Tensor => {
    const n = a.shape[axis]!;
    if (n < 4096) return scope.sum(a, axis);
    // jax-js adds up one after the other, in float32.
    const parts = 2 ** Math.round(Math.log2(Math.sqrt(n)));
    const length = Math.ceil(n / parts);
    const shape = [...a.shape];
    const flat = axis === 2 ? a : scope.own(a.ref.transpose(swap(axis)));
    const order = axis === 2 ? shape : swap(axis).map((i) => shape[i]!);
    const lines = order[0]! * order[1]!;
    const padded = scope.padLast(
      scope.reshape(flat, [lines, n]),
      parts * length,
    );
    const sums = scope.sum(
      scope.sum(scope.reshape(padded, [lines, parts, length]), 2),
      1,
    );
    const kept = scope.reshape(sums, [order[0]!, order[1]!, 1]);
    return axis === 2 ? kept : scope.own(kept.ref.transpose(swap(axis)));
  };

/** The axes with this one last; its own inverse. */
const swap = (axis: number): number[] => (axis === 1 ? [0, 2, 1] : [2, 1, 0]);
