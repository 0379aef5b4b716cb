/**
 * Corrected block scales (`correctScale`, formats/quantize.ts) in WGSL: the sums
 * of a block's correction are integers, so invocations add them up atomically
 * and in any order.
 */
import { correctionUnit } from "../../formats/quantize.ts";
import type { QuantizedState } from "./kernel.ts";

export const isCorrected = ({ format }: QuantizedState): boolean =>
  format.correctScale;

/**
 * The invocation's own sums, of x^2 and of x times what it decodes to, in fixed
 * point; and the scale that all of a block's make.
 */
export function correctionFunctions(state: QuantizedState): string {
  if (!isCorrected(state)) return "";
  const more = state.nextMarksAt === undefined ? "" : ", floor_e: vec4f";
  return `
var<private> sums_${state.name}: vec2i;
fn encode_and_add_${state.name}(x: vec4f, index: u32${more}) -> u32 {
  let bits = encode_${state.name}(x, index${more && ", floor_e"});
  let unit = ${correctionUnit(state.format.blockSize)}.0;
  sums_${state.name} += vec2i(
    dot(vec4i(x * x * unit), vec4i(1)),
    dot(vec4i(x * decode_${state.name}(bits) * unit), vec4i(1)),
  );
  return bits;
}
fn corrected_${state.name}(peak: u32, sums: vec2i) -> u32 {
  let scale = bitcast<u32>(bitcast<f32>(peak) * (f32(sums.x) / f32(max(sums.y, 1))));
  return select(peak, scale, sums.y > 0 && scale >= 0x00800000u && scale < 0x7f800000u);
}`;
}
