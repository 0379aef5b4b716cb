/**
 * The codebook (k + 1) / 2^bits as arithmetic in a shader: no table, no
 * look-ups. Dynamic maps stay with tables: see bench/gpu/notes.md.
 */
import type { QuantizedFormat } from "../../formats/format.ts";

/** Whether a codebook is (k + 1) / 2^bits, rounded to nearest. */
export function isSteps({ bits, values, rounding }: QuantizedFormat): boolean {
  return (
    rounding === "nearest" &&
    values.length === 2 ** bits &&
    values.every((value, k) => value === (k + 1) / 2 ** bits)
  );
}

/** Bits of 2^23: from here to 2^24 an ulp is 1, and the low bits are an integer. */
const integerBits = 0x4b000000;

/**
 * `decode_<name>(bits: u32) -> vec4f` and `encode_<name>(x: vec4f, index: u32)
 * -> u32`, four codes of a width. The low bits of 2^23 + k are k: no
 * conversion, which would run at a quarter of the rate; and the upper bits of
 * four such numbers go with one subtraction.
 */
export function stepFunctions(
  name: string,
  bits: number,
  width: number,
): string {
  const shift = [0, 1, 2, 3].map((i) => i * width);
  return `
fn decode_${name}(bits: u32) -> vec4f {
  let codes = vec4u(${shift.map((by) => (by ? `bits >> ${by}u` : "bits")).join(", ")}) & vec4u(${2 ** width - 1}u);
  return fma(bitcast<vec4f>(codes | vec4u(${integerBits}u)), vec4f(${2 ** -bits}), vec4f(${-(2 ** 23 - 1) / 2 ** bits}));
}
fn encode_${name}(x: vec4f, index: u32) -> u32 {
  // 2^-24 less, so that what lies in the middle takes the lower code.
  let n = max(fma(x, vec4f(${2 ** bits}.0), vec4f(${-(2 ** (bits - 24))})), vec4f(1.0));
  let codes = bitcast<vec4u>(n + 8388607.0);
  return ${packIntegers("codes", width)};
}`;
}

/** Four integers, each the bits of 2^23 + k, to a word of their k. */
export function packIntegers(codes: string, width: number): string {
  const shift = [0, 1, 2, 3].map((i) => i * width);
  const upper = shift.reduce(
    (sum, by) => sum + (BigInt(integerBits) << BigInt(by)),
    0n,
  );
  return `${shift.map((by, i) => (by ? `${codes}[${i}] * ${2 ** by}u` : `${codes}.x`)).join(" + ")} - ${BigInt.asUintN(32, upper)}u`;
}

/** The code of a value, as the shader finds it; for tests. */
export function encodeStep(bits: number, x: number): number {
  const { fround, max } = Math;
  const scaled = fround(x * 2 ** bits - 2 ** (bits - 24));
  return fround(max(1, scaled) + 8388607) - 8388608;
}
