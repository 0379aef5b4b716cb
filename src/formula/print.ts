/** How a back end writes a program down: node by node, each once and in order. */
import {
  isCompare,
  type BinaryOp,
  type CompareOp,
  type UnaryOp,
} from "./parse.ts";
import { isSmall, neededNodes, type Program, type Shape } from "./program.ts";

/**
 * A back end: how to write each kind of node down. `T` is whatever stands for
 * a value there: a row of float32 numbers, a WGSL expression, a Wasm local.
 */
export interface Backend<T> {
  constant(value: number): T;
  uniform(index: number): T;
  input(name: string): T;
  unary(op: UnaryOp, a: T): T;
  binary(op: BinaryOp, a: T, b: T): T;
  compare(op: CompareOp, a: T, b: T): T;
  select(condition: T, a: T, b: T): T;
  /**
   * The value for an element of a node that is not per element; needed for
   * programs with reductions or with states that are not per element.
   */
  small?(index: number, shape: Shape): T;
}

/**
 * Prints the nodes that `wanted` needs, each once and in order.
 *
 * @param given values already at hand, by node; they are not computed again
 * (a second phase that reads a new state back instead of recomputing it).
 * @returns the values of the wanted nodes.
 */
export function print<T>(
  program: Program,
  wanted: readonly number[],
  backend: Backend<T>,
  given: ReadonlyMap<number, T> = new Map(),
): T[] {
  const values = new Map<number, T>(given);
  const needed = neededNodes(program, wanted, new Set(given.keys()));
  program.nodes.forEach((node, index) => {
    if (!needed.has(index) || values.has(index)) return;
    const at = (operand: number) => values.get(operand)!;
    let value: T;
    if (isSmall(program, index)) {
      values.set(index, backend.small!(index, program.shapes[index]!));
      return;
    }
    switch (node.op) {
      case "reduce":
        throw new Error(`${program.owner}: a reduction is not per element`);
      case "const":
        value = backend.constant(node.value);
        break;
      case "uniform":
        value = backend.uniform(node.index);
        break;
      case "input":
        value = backend.input(node.name);
        break;
      case "select":
        // A small comparison was stored as 1 or 0: make it a condition again.
        value = backend.select(
          isSmall(program, node.condition)
            ? backend.compare("ne", at(node.condition), backend.constant(0))
            : at(node.condition),
          at(node.a),
          at(node.b),
        );
        break;
      default:
        if (!("b" in node)) value = backend.unary(node.op, at(node.a));
        else if (isCompare(node.op))
          value = backend.compare(node.op, at(node.a), at(node.b));
        else value = backend.binary(node.op, at(node.a), at(node.b));
    }
    values.set(index, value);
  });
  return wanted.map((index) => values.get(index)!);
}
