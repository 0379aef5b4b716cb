import { quantileCodebook } from "./codebook.ts";
import { encodeWith, thresholds, type Rounding } from "./encode.ts";
import {
  resolveFormat,
  scaleCount,
  zeroCode,
  type FormatOptions,
  type QuantizedFormat,
} from "./format.ts";
import { packCodes, unpackCodes } from "./pack.ts";
import { randomKey, uniform } from "./random.ts";

/** The smallest scale that counts; below it (subnormal, or 0) a group is all zeros. */
export const smallestScale = 2 ** -126;

/** The factor that takes a group's values into [-1, 1]: 1 / scale in float32, or 0. */
export function inverseScale(scale: number): number {
  return scale >= smallestScale ? Math.fround(1 / scale) : 0;
}

/** Precomputed for a format: how its values are coded. */
export interface Coder {
  readonly format: QuantizedFormat;
  readonly limits: Int32Array<ArrayBuffer>;
  readonly zero: number;
  /** 1 / (distance to the next entry) by code, for stochastic rounding; 0 at the top. */
  readonly inverseGaps: Float32Array<ArrayBuffer>;
}

/** How the thresholds of a format are set. */
export function roundingOf(format: QuantizedFormat): Rounding {
  if (format.rounding === "stochastic") return "down";
  return format.keepSign ? "nearest-keep-sign" : "nearest";
}

export function makeCoder(format: QuantizedFormat): Coder {
  const { values } = format;
  return {
    format,
    limits: thresholds(values, roundingOf(format)),
    zero: zeroCode(format),
    inverseGaps: Float32Array.from(values, (value, i) => {
      const gap = i + 1 < values.length ? values[i + 1]! - value : 0;
      return gap > 0 ? 1 / gap : 0;
    }),
  };
}

/**
 * Codes one group that shares a scale, one code a byte.
 *
 * x = value * (1 / scale), both rounded to float32: one division a group. A
 * true quotient differs from it by at most one ulp, and GPUs do not round
 * divisions correctly either; this way all engines agree.
 *
 * @param firstIndex index in the tensor of the group's first element.
 * @param key for stochastic rounding, from {@link randomKey}.
 */
export function encodeGroup(
  coder: Coder,
  values: Float32Array,
  scale: number,
  codes: Uint8Array,
  firstIndex: number,
  key: number,
): void {
  const { format, limits, zero, inverseGaps } = coder;
  const inverse = inverseScale(scale);
  if (inverse === 0) {
    codes.fill(zero, 0, values.length);
    return;
  }
  for (let i = 0; i < values.length; i++) {
    const x = Math.fround(values[i]! * inverse);
    let code = encodeWith(limits, x);
    if (format.rounding === "stochastic") {
      const above = Math.fround(x - format.values[code]!);
      const chance = Math.fround(above * inverseGaps[code]!);
      if (uniform(key, firstIndex + i) < chance) code++;
    }
    codes[i] = code;
  }
}

/** Largest magnitude of the values, 0 for none; a NaN among them gives NaN. */
export function absmax(values: Float32Array): number {
  let largest = 0;
  for (const value of values) {
    const magnitude = Math.abs(value);
    if (!(magnitude <= largest)) largest = magnitude;
    if (magnitude !== magnitude) return NaN;
  }
  return largest;
}

/** A scale as it is stored: what does not count is 0. */
export function storedScale(largest: number): number {
  return largest < smallestScale ? 0 : largest;
}

export interface Quantized {
  /** Packed codes, see pack.ts. */
  readonly codes: Uint8Array<ArrayBuffer>;
  /** absmax of each block, or of the tensor. */
  readonly scales: Float32Array<ArrayBuffer>;
  /** Number of elements. */
  readonly length: number;
  readonly format: QuantizedFormat;
}

/** A {@link FormatOptions} that also knows the data-made codebook and a seed. */
export interface QuantizeOptions extends FormatOptions {
  /** Seed of stochastic rounding. Default 0. */
  readonly seed?: number;
}

/**
 * Quantizes a tensor: codes and scales.
 *
 * `codebook: "quantile"` estimates its values from x itself (paper 1, appendix).
 *
 * @param x any number of finite float32 values.
 * @throws RangeError when x has a value that is not finite, naming the first.
 */
export function quantize(
  x: ArrayLike<number>,
  options: QuantizeOptions = {},
): Quantized {
  const data = x instanceof Float32Array ? x : Float32Array.from(x);
  const bad = data.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0)
    throw new RangeError(
      `quantize: element ${bad} is ${data[bad]}; only finite values can be quantized`,
    );
  const { seed = 0, ...rest } = options;
  const sign = rest.signed === false ? "unsigned" : "signed";
  const fromData = rest.codebook === "quantile";
  const format = resolveFormat(
    fromData ? { ...rest, codebook: "dynamic" } : rest,
    sign,
  );
  if (format.kind === "float")
    throw new RangeError(
      "quantize: bits must be 2 to 8; 16 and 32 bits are not quantized",
    );
  const scales = groupScales(data, format);
  const final = fromData ? withQuantiles(data, scales, format) : format;
  const coder = makeCoder(final);
  const codes = new Uint8Array(data.length);
  const size = groupSize(final, data.length);
  const key = randomKey(seed);
  for (let i = 0, start = 0; start < data.length; i++, start += size)
    encodeGroup(
      coder,
      data.subarray(start, start + size),
      scales[i]!,
      codes.subarray(start, start + size),
      start,
      key,
    );
  return {
    codes: packCodes(codes, final.bits),
    scales,
    length: data.length,
    format: final,
  };
}

/** The inverse of {@link quantize}, up to the rounding: codebook value times scale. */
export function dequantize({
  codes,
  scales,
  length,
  format,
}: Quantized): Float32Array<ArrayBuffer> {
  const size = groupSize(format, length);
  const expected = scaleCount(format, length);
  if (scales.length !== expected)
    throw new RangeError(
      `dequantize: ${length} elements have ${expected} scales, given ${scales.length}`,
    );
  const out = new Float32Array(length);
  decodeInto(
    format,
    unpackCodes(codes, format.bits, length),
    scales,
    size,
    out,
  );
  return out;
}

/** Decodes one code a byte: codebook value times the scale of its group. */
export function decodeInto(
  format: QuantizedFormat,
  codes: Uint8Array,
  scales: Float32Array,
  size: number,
  out: Float32Array,
): void {
  const { values } = format;
  for (let i = 0; i < out.length; i++)
    out[i] = values[codes[i]!]! * scales[Math.floor(i / size)]!;
}

/** Elements that share a scale. */
export function groupSize(format: QuantizedFormat, length: number): number {
  return format.scale === "tensor" ? Math.max(1, length) : format.blockSize;
}

/** The scales of a tensor's groups. */
export function groupScales(
  data: Float32Array,
  format: QuantizedFormat,
): Float32Array<ArrayBuffer> {
  const size = groupSize(format, data.length);
  return Float32Array.from(
    { length: scaleCount(format, data.length) },
    (_, i) => storedScale(absmax(data.subarray(i * size, (i + 1) * size))),
  );
}

function withQuantiles(
  data: Float32Array,
  scales: Float32Array,
  format: QuantizedFormat,
): QuantizedFormat {
  const size = groupSize(format, data.length);
  const normalized = Float32Array.from(
    data,
    (value, i) => value * inverseScale(scales[Math.floor(i / size)]!),
  );
  const values = quantileCodebook(normalized, { bits: format.bits });
  return { ...format, codebook: "custom", values };
}
