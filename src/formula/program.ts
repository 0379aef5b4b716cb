/**
 * A program, which every back end prints: a list of float32 operations in
 * order, each common subexpression once; and what one may ask of it.
 */
import type { BinaryOp, CompareOp, UnaryOp } from "./parse.ts";

export type Node =
  | { readonly op: "const"; readonly value: number }
  | { readonly op: "uniform"; readonly index: number }
  /** The parameter `p`, its gradient `g`, or a state's value before the step. */
  | { readonly op: "input"; readonly name: string }
  | { readonly op: UnaryOp; readonly a: number }
  | {
      readonly op: BinaryOp | CompareOp;
      readonly a: number;
      readonly b: number;
    }
  | {
      readonly op: "select";
      readonly condition: number;
      readonly a: number;
      readonly b: number;
    }
  /** Over the last two axes' rows or columns, or over everything. */
  | {
      readonly op: "reduce";
      readonly how: "sum" | "mean" | "max";
      readonly over: "all" | "row" | "column";
      readonly a: number;
    };

/**
 * How many values a node has: `one`, one a `matrix` (the last two axes), one a
 * `row` or a `column` of it, or one an `element`. Whatever is not per element is
 * called small.
 */
export type Shape = "one" | "matrix" | "row" | "column" | "element";

/** What a state holds: values per element, with both signs or not, or fewer. */
export type StateKind = "signed" | "unsigned" | "row" | "column" | "one";

/** The shape of a state of this kind. */
export const stateShape = (kind: StateKind): Shape =>
  kind === "signed" || kind === "unsigned" ? "element" : kind;

/** Values of hyperparameters and step scalars by name. */
export type Scalars = Readonly<Record<string, number>>;

export interface Program {
  readonly owner: string;
  /** In dependency order: a node refers only to nodes before it. */
  readonly nodes: readonly Node[];
  /** Names of the states, in the order of their declaration. */
  readonly states: readonly string[];
  /** Shape of each state's value. */
  readonly stateShapes: readonly Shape[];
  /** Shape of each node. */
  readonly shapes: readonly Shape[];
  /** Of each node, see {@link isSmall}. */
  readonly small: readonly boolean[];
  /**
   * How many passes over the elements come before a node can be known: 0, or
   * one more than what the reductions it depends on are taken of.
   */
  readonly levels: readonly number[];
  /** Passes over the elements before the update. */
  readonly passes: number;
  /** Whether rows or columns occur, so that a tensor must have two axes. */
  readonly needsMatrix: boolean;
  /** Node that holds the new value of `p` and of each state. */
  readonly outputs: ReadonlyMap<string, number>;
  /** How many float32 uniforms the program takes a step. */
  readonly uniformCount: number;
  /** Evaluates the uniforms in float64 and rounds each to float32 once. */
  uniforms(scalars: Scalars): Float32Array;
}

/** The shape of an operation on values of two shapes. */
export function widest(a: Shape, b: Shape): Shape {
  if (a === b) return a;
  const order: readonly Shape[] = ["one", "matrix", "row", "column", "element"];
  const [low, high] = [a, b].sort(
    (x, y) => order.indexOf(x) - order.indexOf(y),
  ) as [Shape, Shape];
  return low === "row" && high === "column" ? "element" : high;
}

/** Indices of the nodes that a node reads. */
export function operands(node: Node): number[] {
  switch (node.op) {
    case "const":
    case "uniform":
    case "input":
      return [];
    case "select":
      return [node.condition, node.a, node.b];
    case "reduce":
      return [node.a];
    default:
      return "b" in node ? [node.a, node.b] : [node.a];
  }
}

/**
 * Whether a node has fewer values than there are elements and is no matter of
 * the step alone: code per element reads it instead of computing it.
 */
export function isSmall(program: Program, index: number): boolean {
  return program.small[index]!;
}

/** The nodes reachable from `wanted` without going past `given`. */
export function neededNodes(
  program: Program,
  wanted: readonly number[],
  given: ReadonlySet<number> = new Set(),
): Set<number> {
  const needed = new Set<number>();
  const visit = (index: number) => {
    if (needed.has(index)) return;
    needed.add(index);
    if (given.has(index) || isSmall(program, index)) return;
    for (const operand of operands(program.nodes[index]!)) visit(operand);
  };
  for (const index of wanted) visit(index);
  return needed;
}

/** Names of the inputs (`p`, `g`, old states) that the wanted nodes read. */
export function inputsOf(
  program: Program,
  wanted: readonly number[],
  given: ReadonlySet<number> = new Set(),
): Set<string> {
  const names = new Set<string>();
  for (const index of neededNodes(program, wanted, given)) {
    const node = program.nodes[index]!;
    if (node.op === "input" && !given.has(index) && !isSmall(program, index))
      names.add(node.name);
  }
  return names;
}

/** The small nodes that code for the wanted nodes reads. */
export function smallNodesOf(
  program: Program,
  wanted: readonly number[],
  given: ReadonlySet<number> = new Set(),
): number[] {
  return [...neededNodes(program, wanted, given)]
    .filter((index) => isSmall(program, index) && !given.has(index))
    .sort((a, b) => a - b);
}

/** The reductions over elements that a pass (from 0) takes. */
export function reductionsOf(program: Program, pass: number): number[] {
  return program.nodes.flatMap((node, index) =>
    node.op === "reduce" &&
    program.shapes[node.a] === "element" &&
    program.levels[node.a] === pass
      ? [index]
      : [],
  );
}

/**
 * What must be finite for an element to take part, beside its gradient and new
 * states: what reductions take of the gradient alone, such as its square.
 */
export function watchedNodes(program: Program): number[] {
  const operands = program.nodes.flatMap((node) =>
    node.op === "reduce" && program.shapes[node.a] === "element"
      ? [node.a]
      : [],
  );
  return [...new Set(operands)].filter((index) => {
    const inputs = inputsOf(program, [index]);
    return (
      program.levels[index] === 0 &&
      inputs.size === 1 &&
      inputs.has("g") &&
      program.nodes[index]!.op !== "input"
    );
  });
}

/** What a reduction is taken of. */
export function reducedNode(program: Program, reduction: number): number {
  return (program.nodes[reduction] as Node & { op: "reduce" }).a;
}
