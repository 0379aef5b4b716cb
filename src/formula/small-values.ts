/**
 * Values that are not per element: of a whole tensor, of its rows, of its
 * columns. They are few, so the host computes them, in float32, between the
 * passes over the elements.
 */
import { elementBinary, elementUnary } from "./arithmetic.ts";
import type { BinaryOp, CompareOp } from "./parse.ts";
import { isSmall, type Program, type Shape } from "./program.ts";
import { shapeLength, type Geometry } from "./small.ts";

/** Index into the values of a narrower shape, of an entry of a wider small one. */
function entryTo(
  from: Shape,
  to: Shape,
  { rows, columns }: Geometry,
): (entry: number) => number {
  if (from === to) return (i) => i;
  if (to === "one") return () => 0;
  // To a matrix, from its rows or columns.
  return from === "row"
    ? (i) => Math.floor(i / rows)
    : (i) => Math.floor(i / columns);
}

/** The small values of one tensor in one step, computed when first asked for. */
export class SmallValues {
  readonly #program: Program;
  readonly #geometry: Geometry;
  readonly #uniforms: Float32Array;
  readonly #states: ReadonlyMap<string, Float32Array>;
  readonly #values = new Map<number, Float32Array>();

  /** @param states values before the step of the states that are not per element. */
  constructor(
    program: Program,
    geometry: Geometry,
    uniforms: Float32Array,
    states: ReadonlyMap<string, Float32Array>,
  ) {
    this.#program = program;
    this.#geometry = geometry;
    this.#uniforms = uniforms;
    this.#states = states;
  }

  /** Sets the result of a reduction over elements. */
  set(node: number, values: Float32Array): void {
    this.#values.set(node, values);
  }

  get(index: number): Float32Array {
    let values = this.#values.get(index);
    if (!values) this.#values.set(index, (values = this.#compute(index)));
    return values;
  }

  /** The values of an output as its state keeps them. */
  output(name: string, shape: Shape): Float32Array {
    const node = this.#program.outputs.get(name)!;
    const values = this.get(node);
    const at = entryTo(shape, this.#shape(node), this.#geometry);
    return Float32Array.from(
      { length: shapeLength(shape, this.#geometry) },
      (_, i) => values[at(i)]!,
    );
  }

  #shape(index: number): Shape {
    return isSmall(this.#program, index) ? this.#program.shapes[index]! : "one";
  }

  #compute(index: number): Float32Array {
    const node = this.#program.nodes[index]!;
    const shape = this.#shape(index);
    const length = shapeLength(shape, this.#geometry);
    const operand = (a: number) => {
      const values = this.get(a);
      const at = entryTo(shape, this.#shape(a), this.#geometry);
      return (i: number) => values[at(i)]!;
    };
    const fill = (value: (i: number) => number) =>
      Float32Array.from({ length }, (_, i) => value(i));
    switch (node.op) {
      case "const":
        return Float32Array.of(node.value);
      case "uniform":
        return Float32Array.of(this.#uniforms[node.index]!);
      case "input":
        return this.#states.get(node.name)!;
      case "reduce":
        return this.#reduce(node.how, node.a);
      case "select": {
        const [condition, a, b] = [
          operand(node.condition),
          operand(node.a),
          operand(node.b),
        ];
        return fill((i) => (condition(i) !== 0 ? a(i) : b(i)));
      }
      default: {
        const a = operand(node.a);
        if (!("b" in node)) {
          const apply = elementUnary[node.op];
          return fill((i) => apply(a(i)));
        }
        const apply = elementBinary[node.op as BinaryOp | CompareOp];
        const b = operand(node.b);
        return fill((i) => apply(a(i), b(i)));
      }
    }
  }

  /** Of rows or columns, to one number a matrix. */
  #reduce(how: "sum" | "mean" | "max", a: number): Float32Array {
    const values = this.get(a);
    const { matrices } = this.#geometry;
    const each = values.length / matrices;
    return Float32Array.from({ length: matrices }, (_, m) =>
      reduceValues(how, values.subarray(m * each, (m + 1) * each)),
    );
  }
}

/** Sums in float64; the maximum of nothing is 0. */
export function reduceValues(
  how: "sum" | "mean" | "max",
  values: Float32Array,
): number {
  if (values.length === 0) return 0;
  if (how === "max") {
    const most = values.reduce((a, b) => (b > a ? b : a), -Infinity);
    return most === -Infinity ? 0 : most;
  }
  let sum = 0;
  for (const value of values) sum += value;
  return how === "mean" ? sum / values.length : sum;
}
