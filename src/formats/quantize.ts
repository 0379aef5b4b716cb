import { quantileCodebook } from "./codebook.ts";
import { encodeWith, thresholds, type Rounding } from "./encode.ts";
import {
  formatFor,
  resolveFormat,
  scaleCount,
  zeroCode,
  type FormatOptions,
  type QuantizedFormat,
} from "./format.ts";
import { packCodes, unpackCodes } from "./pack.ts";
import { randomKey, uniform } from "./random.ts";
import { rank1Scales, rank1Spread } from "./rank1.ts";

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
 * Codes a tensor, one code a byte.
 *
 * x = value * (1 / scale), both rounded to float32: one division a group. A
 * true quotient differs from it by at most one ulp, and GPUs do not round
 * divisions correctly either; this way all engines agree.
 *
 * @param key for stochastic rounding, from {@link randomKey}.
 */
export function encodeTensor(
  { format, limits, zero, inverseGaps }: Coder,
  values: Float32Array,
  scales: Float32Array,
  shape: readonly number[],
  key: number,
): Uint8Array<ArrayBuffer> {
  const scaleOf = elementScale(format, scales, values.length, shape);
  return Uint8Array.from({ length: values.length }, (_, i) => {
    const inverse = inverseScale(scaleOf(i));
    // Blocks of zeros; with rank-1 scales 0 is coded as any other value.
    if (inverse === 0 && format.scale !== "rank1") return zero;
    const x = Math.fround(values[i]! * inverse);
    const code = encodeWith(limits, x);
    if (format.rounding === "nearest") return code;
    const above = Math.fround(x - format.values[code]!);
    const chance = Math.fround(above * inverseGaps[code]!);
    return uniform(key, i) < chance ? code + 1 : code;
  });
}

/** Decodes one code a byte: codebook value times the scale. */
export function decodeTensor(
  format: QuantizedFormat,
  codes: Uint8Array,
  scales: Float32Array,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  const scaleOf = elementScale(format, scales, codes.length, shape);
  return Float32Array.from(
    codes,
    (code, i) => format.values[code]! * scaleOf(i),
  );
}

/** The scale of an element. */
export function elementScale(
  format: QuantizedFormat,
  scales: Float32Array,
  length: number,
  shape: readonly number[],
): (i: number) => number {
  if (format.scale === "rank1") {
    const spread = rank1Spread(scales, shape);
    return (i) => spread[i]!;
  }
  const size = groupSize(format, length);
  return (i) => scales[Math.floor(i / size)]!;
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
  readonly shape: readonly number[];
  readonly format: QuantizedFormat;
}

/** A {@link FormatOptions} that also knows the data-made codebook and a seed. */
export interface QuantizeOptions extends FormatOptions {
  /** Seed of stochastic rounding. Default 0. */
  readonly seed?: number;
  /** Shape of the tensor, for rank-1 scales. Default: one axis. */
  readonly shape?: readonly number[];
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
  const { seed = 0, shape = [data.length], ...rest } = options;
  if (shape.reduce((product, n) => product * n, 1) !== data.length)
    throw new RangeError(
      `quantize: a shape of [${shape.join(", ")}] does not hold ${data.length} elements`,
    );
  const sign = rest.signed === false ? "unsigned" : "signed";
  const fromData = rest.codebook === "quantile";
  const format = formatFor(
    resolveFormat(fromData ? { ...rest, codebook: "dynamic" } : rest, sign),
    shape,
  );
  if (format.kind === "float")
    throw new RangeError(
      "quantize: bits must be 2 to 8; 16 and 32 bits are not quantized",
    );
  const scales = tensorScales(data, format, shape);
  const final = fromData ? withQuantiles(data, scales, format, shape) : format;
  const codes = encodeTensor(
    makeCoder(final),
    data,
    scales,
    shape,
    randomKey(seed),
  );
  return {
    codes: packCodes(codes, final.bits),
    scales,
    length: data.length,
    shape: [...shape],
    format: final,
  };
}

/** The inverse of {@link quantize}, up to the rounding: codebook value times scale. */
export function dequantize({
  codes,
  scales,
  length,
  format,
  shape = [length],
}: Omit<Quantized, "shape"> &
  Partial<Pick<Quantized, "shape">>): Float32Array<ArrayBuffer> {
  const expected = scaleCount(format, length, shape);
  if (scales.length !== expected)
    throw new RangeError(
      `dequantize: ${length} elements have ${expected} scales, given ${scales.length}`,
    );
  return decodeTensor(
    format,
    unpackCodes(codes, format.bits, length),
    scales,
    shape,
  );
}

/** Elements that share a scale. */
export function groupSize(format: QuantizedFormat, length: number): number {
  return format.scale === "tensor" ? Math.max(1, length) : format.blockSize;
}

/** The scales of a tensor. */
export function tensorScales(
  data: Float32Array,
  format: QuantizedFormat,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  if (format.scale === "rank1")
    return rank1Scales(data, shape).map(storedScale);
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
  shape: readonly number[],
): QuantizedFormat {
  const scaleOf = elementScale(format, scales, data.length, shape);
  const normalized = Float32Array.from(
    data,
    (value, i) => value * inverseScale(scaleOf(i)),
  );
  const values = quantileCodebook(normalized, { bits: format.bits });
  return { ...format, codebook: "custom", values };
}
