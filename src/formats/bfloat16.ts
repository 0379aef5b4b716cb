/**
 * bfloat16: the upper half of a float32. Sixteen-bit state keeps the range of
 * float32 and 8 bits of precision: the choice that cannot go wrong.
 */
import { bitsFloat, floatBits } from "./encode.ts";
import { hash } from "./random.ts";

/** The nearest bfloat16, ties to the even one, as its 16 bits. */
export function toBfloat16(value: number): number {
  const bits = floatBits(value) >>> 0;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

/** One of the two neighbours, the farther the less likely; see random.ts. */
export function toBfloat16Stochastic(
  value: number,
  key: number,
  index: number,
): number {
  const bits = floatBits(value) >>> 0;
  return ((bits + (hash(key, index) >>> 16)) >>> 16) & 0xffff;
}

export const fromBfloat16 = (bits: number): number => bitsFloat(bits << 16);
