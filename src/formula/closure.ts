import { elementBinary, elementUnary } from "./arithmetic.ts";
import { print, type Backend } from "./print.ts";
import type { Program } from "./program.ts";

/**
 * Runs nodes of a program on rows of elements. Rows are Float32Array, so every result is
 * rounded to float32 as the other back ends round it; for + - * / and sqrt the
 * detour through float64 gives the same float32.
 *
 * @param inputs rows for `p`, `g` and every state that the program reads.
 * @param uniforms from {@link Program.uniforms}.
 * @param length elements to compute.
 * @param small rows for the nodes that are not per element, spread over the elements.
 * @returns a row for each node asked for; they belong to the closure and are
 * overwritten by the next call.
 */
export type Closure = (
  inputs: ReadonlyMap<string, Float32Array>,
  uniforms: Float32Array,
  length: number,
  small?: ReadonlyMap<number, Float32Array>,
) => readonly Float32Array[];

interface Frame {
  inputs: ReadonlyMap<string, Float32Array>;
  uniforms: Float32Array;
  length: number;
  small: ReadonlyMap<number, Float32Array>;
}
type Row = Float32Array<ArrayBuffer>;
/** A value of this back end: makes sure its row is filled, and returns it. */
type Cell = { row: Row };

/** The TypeScript back end: no eval, one small loop per operation. */
export function compileClosure(
  program: Program,
  wanted: readonly number[] = [...program.outputs.values()],
): Closure {
  const instructions: ((frame: Frame) => void)[] = [];
  let capacity = 0;
  const cells: Cell[] = [];
  const cell = (fill: (row: Row, frame: Frame) => void): Cell => {
    const made: Cell = { row: new Float32Array(0) };
    cells.push(made);
    instructions.push((frame) => fill(made.row, frame));
    return made;
  };
  const binary =
    (apply: (a: number, b: number) => number) => (a: Cell, b: Cell) =>
      cell((row, { length }) => {
        const x = a.row;
        const y = b.row;
        for (let i = 0; i < length; i++) row[i] = apply(x[i]!, y[i]!);
      });

  const backend: Backend<Cell> = {
    constant: (value) => cell((row, { length }) => row.fill(value, 0, length)),
    uniform: (index) =>
      cell((row, { uniforms, length }) =>
        row.fill(uniforms[index]!, 0, length),
      ),
    input: (name) =>
      cell((row, { inputs, length }) =>
        row.set(inputs.get(name)!.subarray(0, length)),
      ),
    unary: (op, a) => {
      const apply = elementUnary[op];
      return cell((row, { length }) => {
        const x = a.row;
        for (let i = 0; i < length; i++) row[i] = apply(x[i]!);
      });
    },
    binary: (op, a, b) => binary(elementBinary[op])(a, b),
    compare: (op, a, b) => binary(elementBinary[op])(a, b),
    select: (condition, a, b) =>
      cell((row, { length }) => {
        for (let i = 0; i < length; i++)
          row[i] = condition.row[i] !== 0 ? a.row[i]! : b.row[i]!;
      }),
    small: (index) =>
      cell((row, { small, length }) =>
        row.set(small.get(index)!.subarray(0, length)),
      ),
  };

  const results = print(program, wanted, backend);
  return (inputs, uniforms, length, small = new Map()) => {
    if (length > capacity) {
      capacity = length;
      for (const one of cells) one.row = new Float32Array(capacity);
    }
    const frame: Frame = { inputs, uniforms, length, small };
    for (const run of instructions) run(frame);
    return results.map(({ row }) => row);
  };
}
