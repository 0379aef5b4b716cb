/** Scales that are corrected once the codes are known, see formats/quantize.ts. */
import { correctionUnit } from "../../formats/quantize.ts";
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import { f32x4, i32x4, v128, type Code } from "../../formula/instructions.ts";
import type { Vectors } from "../../formula/wasm.ts";
import { acrossLanes, gather, laneOffsets } from "./lanes.ts";
import type { Tables } from "./tables.ts";

/** Sums of x^2 and of x times what it decodes to, in the fixed point of a correction. */
export interface Correction {
  readonly squares: Local;
  readonly products: Local;
}

/** Adds 16 elements to the sums of their block's correction. */
export function addToCorrection(
  fn: FunctionBuilder,
  tables: Tables,
  codes: readonly Local[],
  x: Vectors,
  { squares, products }: Correction,
): void {
  const unit = f32x4.const(correctionUnit(tables.format.blockSize));
  const fixed = (product: Code) =>
    i32x4.trunc_sat_f32x4_s(f32x4.mul(product, unit));
  codes.forEach((code, i) => {
    const vector = x[i]!.get;
    const lanes = laneOffsets(fn, i32x4.shl(code.get, 2));
    const decoded = gather(tables.values, lanes);
    fn.emit(
      squares.set(i32x4.add(squares.get, fixed(f32x4.mul(vector, vector)))),
      products.set(i32x4.add(products.get, fixed(f32x4.mul(vector, decoded)))),
    );
  });
}

/**
 * A block's corrected scale in every lane, from the scale and the sums; see
 * formats/quantize.ts for when it stays as it is.
 */
export function emitCorrected(
  fn: FunctionBuilder,
  scale: Local,
  { squares, products }: Correction,
): Code {
  const total = (sum: Local) => {
    acrossLanes(fn, sum, i32x4.add);
    return f32x4.convert_i32x4_s(sum.get);
  };
  const ratio = f32x4.div(total(squares), total(products));
  const corrected = fn.let("v128", f32x4.mul(scale.get, ratio));
  const holds = v128.and(
    i32x4.gt_s(products.get, i32x4.const(0)),
    v128.and(
      i32x4.ge_s(corrected.get, i32x4.const(0x00800000)),
      i32x4.lt_s(corrected.get, i32x4.const(0x7f800000)),
    ),
  );
  return v128.bitselect(corrected.get, scale.get, holds);
}
