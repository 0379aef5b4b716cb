/** Between the lanes of a vector, and between lanes and tables. */
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import {
  f64x2,
  i32,
  i64,
  i64x2,
  i8x16,
  swapHalves,
  v128,
  type Code,
} from "../../formula/instructions.ts";

/** A look-up of four float32 at byte offsets `indices` from a table. */
export function gather(table: number, indices: readonly Code[]): Code {
  return indices
    .slice(1)
    .reduce<Code>(
      (vector, index, lane) => v128.load32_lane(index, vector, lane + 1, table),
      v128.load32_zero(indices[0]!, table),
    );
}

/**
 * The four lanes of a vector as i32. By way of two 64-bit words: on x64 that
 * takes half the extractions, and the first is a plain move as a float64.
 */
export function laneOffsets(fn: FunctionBuilder, vector: Code): Code[] {
  const offsets = fn.let("v128", vector);
  const low = fn.let(
    "i64",
    i64.reinterpret_f64(f64x2.extract_lane(offsets.get, 0)),
  );
  const high = fn.let("i64", i64x2.extract_lane(offsets.get, 1));
  const upper = (word: Local) =>
    i32.wrap_i64(i64.shr_u(word.get, i64.const(32n)));
  return [
    i32.wrap_i64(low.get),
    upper(low),
    i32.wrap_i64(high.get),
    upper(high),
  ];
}

/** Joins the four lanes, into all of them; in place. */
export function acrossLanes(
  fn: FunctionBuilder,
  x: Local,
  join: (a: Code, b: Code) => Code,
): void {
  const swapPairs = [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11];
  fn.emit(
    x.set(join(x.get, swapHalves(x.get))),
    x.set(join(x.get, i8x16.shuffle(x.get, x.get, swapPairs))),
  );
}
