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
import { rank1Scales, rank1Spread, tileScales, tileSpread } from "./rank1.ts";

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
  /**
   * Codebook entries as stochastic rounding measures distances between them:
   * themselves, or their roots when the preconditioner is rounded.
   */
  readonly marks: Float32Array<ArrayBuffer>;
  /** 1 / (distance to the next mark) by code; 0 at the top. */
  readonly inverseGaps: Float32Array<ArrayBuffer>;
  /** The next mark by code; its own at the top. */
  readonly nextMarks: Float32Array<ArrayBuffer>;
}

/** How the thresholds of a format are set. */
export function roundingOf(format: QuantizedFormat): Rounding {
  if (format.rounding !== "nearest") return "down";
  return format.keepSign ? "nearest-keep-sign" : "nearest";
}

export function makeCoder(format: QuantizedFormat): Coder {
  const { values } = format;
  const marks =
    format.rounding === "preconditioner" ? values.map(Math.sqrt) : values;
  return {
    format,
    limits: thresholds(values, roundingOf(format)),
    zero: zeroCode(format),
    marks,
    inverseGaps: Float32Array.from(marks, (mark, i) => {
      const gap = i + 1 < marks.length ? marks[i + 1]! - mark : 0;
      return gap > 0 ? 1 / gap : 0;
    }),
    nextMarks: marks.map((mark, i) => marks[i + 1] ?? mark),
  };
}

/**
 * The probability of the entry above, for x between the entry `code` and the next.
 *
 * `preconditioner` (ZIP-SR, "Rounding in Preconditioner Space"): unbiased in
 * h(v) = 1 / (sqrt(v) + floor), so that p(above) = (h(a) - h(v)) / (h(a) - h(b))
 * between entries a and b. With r the roots of a, v, b and e the floor, all over
 * the root of the scale, that is (r_v - r_a) / (r_b - r_a) * (r_b + e) / (r_v + e).
 */
function chanceAbove(
  { format, marks, inverseGaps, nextMarks }: Coder,
  code: number,
  x: number,
  inverse: number,
  floor: number,
): number {
  const { fround } = Math;
  const plain = (place: number) =>
    fround(fround(place - marks[code]!) * inverseGaps[code]!);
  if (format.rounding === "stochastic") return plain(x);
  const root = fround(Math.sqrt(Math.max(0, x)));
  const e = fround(floor * fround(Math.sqrt(inverse)));
  const part = fround(
    fround(nextMarks[code]! + e) / Math.max(fround(root + e), smallestScale),
  );
  return fround(plain(root) * part);
}

/**
 * Codes a tensor, one code a byte.
 *
 * x = value * (1 / scale), both rounded to float32: one division a group. A
 * true quotient differs from it by at most one ulp, and GPUs do not round
 * divisions correctly either; this way all engines agree.
 *
 * @param key for stochastic rounding, from {@link randomKey}.
 * @param floor for rounding the preconditioner: eps in the unit of the state's root.
 */
export function encodeTensor(
  coder: Coder,
  values: Float32Array,
  scales: Float32Array,
  shape: readonly number[],
  key: number,
  floor = 0,
): Uint8Array<ArrayBuffer> {
  const { format, limits, zero } = coder;
  const scaleOf = elementScale(format, scales, values.length, shape);
  const nearest = format.rounding === "nearest";
  const codeOf = (i: number): number => {
    const inverse = inverseScale(scaleOf(i));
    // Blocks of zeros; with rank-1 scales 0 is coded as any other value.
    if (inverse === 0 && !isRankOne(format)) return zero;
    const x = Math.fround(values[i]! * inverse);
    const code = encodeWith(limits, x);
    if (nearest) return code;
    const chance = chanceAbove(coder, code, x, inverse, floor);
    return uniform(key, i) < chance ? code + 1 : code;
  };
  // Loops: Uint8Array.from takes ten times as long, and files have many elements.
  const codes = new Uint8Array(values.length);
  for (let i = 0; i < codes.length; i++) codes[i] = codeOf(i);
  return codes;
}

/** Whether an element's scale is the least of several. */
export const isRankOne = ({ scale }: QuantizedFormat): boolean =>
  scale === "rank1" || scale === "tile";

/** Codes, one a byte, and scales of a tensor as they are stored. */
export function encodeState(
  coder: Coder,
  values: Float32Array,
  shape: readonly number[],
  key: number,
  floor = 0,
): {
  codes: Uint8Array<ArrayBuffer>;
  scales: Float32Array<ArrayBuffer>;
} {
  const scales = tensorScales(values, coder.format, shape);
  const codes = encodeTensor(coder, values, scales, shape, key, floor);
  return {
    codes,
    scales: coder.format.correctScale
      ? correctScales(coder.format, values, codes, scales)
      : scales,
  };
}

/** Fixed point in which the sums of a correction are taken: a block's fit 31 bits. */
export const correctionUnit = (blockSize: number): number =>
  2 ** 30 / blockSize;

/**
 * Block scales times |x|^2 / <x, decoded x>: ZE-EDEN ("Rounding in
 * Preconditioner Space"), after which the decoded block's product with x is
 * |x|^2. The sums are taken of integers, so that no order of adding matters.
 */
function correctScales(
  { values: entries, blockSize }: QuantizedFormat,
  values: Float32Array,
  codes: Uint8Array,
  scales: Float32Array,
): Float32Array<ArrayBuffer> {
  const { fround } = Math;
  const unit = correctionUnit(blockSize);
  return Float32Array.from(scales, (scale, block) => {
    const inverse = inverseScale(scale);
    const end = Math.min(values.length, (block + 1) * blockSize);
    let squares = 0;
    let products = 0;
    for (let i = block * blockSize; i < end; i++) {
      const x = fround(values[i]! * inverse);
      squares += (fround(x * x) * unit) | 0;
      products += (fround(x * entries[codes[i]!]!) * unit) | 0;
    }
    if (!(products > 0)) return scale;
    const corrected = fround(
      scale * fround(fround(squares) / fround(products)),
    );
    return corrected >= smallestScale && corrected < Infinity
      ? corrected
      : scale;
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
  const { values } = format;
  const decoded = new Float32Array(codes.length);
  for (let i = 0; i < codes.length; i++)
    decoded[i] = values[codes[i]!]! * scaleOf(i);
  return decoded;
}

/** The scale of an element. */
export function elementScale(
  format: QuantizedFormat,
  scales: Float32Array,
  length: number,
  shape: readonly number[],
): (i: number) => number {
  if (isRankOne(format)) {
    const spread =
      format.scale === "rank1"
        ? rank1Spread(scales, shape)
        : tileSpread(scales, shape, format.blockSize);
    return (i) => spread[i]!;
  }
  const size = groupSize(format, length);
  return (i) => scales[Math.floor(i / size)]!;
}

/** Largest magnitude of the values, 0 for none; a NaN among them gives NaN. */
function absmax(values: Float32Array): number {
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

/** A quantized tensor: codes, scales, and what they mean. */
export interface Quantized {
  /** Packed codes, see pack.ts. */
  readonly codes: Uint8Array<ArrayBuffer>;
  /** absmax of each block, or of the tensor. */
  readonly scales: Float32Array<ArrayBuffer>;
  /** Number of elements. */
  readonly length: number;
  /** Shape of the tensor; one axis where none was given. */
  readonly shape: readonly number[];
  /** How codes and scales are to be read. */
  readonly format: QuantizedFormat;
}

/** A {@link FormatOptions} that also knows the data-made codebook and a seed. */
export interface QuantizeOptions extends FormatOptions {
  /** Seed of stochastic rounding. Default 0. */
  readonly seed?: number;
  /** For rounding `preconditioner`: what is added to the root of x. Default 0. */
  readonly eps?: number;
  /** Shape of the tensor, for rank-1 scales. Default: one axis. */
  readonly shape?: readonly number[];
}

/**
 * Quantizes a tensor: codes and scales.
 *
 * `codebook: "quantile"` estimates its values from x itself (paper 1, appendix).
 *
 * @param x any number of finite float32 values.
 * @param options Default: 8 bits, dynamic with a sign, an absmax for 256 elements,
 * rounded to nearest.
 * @throws TypeError or RangeError for a format that cannot be; RangeError when x has a value that is not finite, naming the first.
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
  const { seed = 0, eps = 0, shape = [data.length], ...rest } = options;
  if (!(eps >= 0 && eps < Infinity))
    throw new RangeError(
      `quantize: eps must be finite, 0 or more, given ${String(eps)}`,
    );
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
  const final = fromData ? withQuantiles(data, format, shape) : format;
  const { codes, scales } = encodeState(
    makeCoder(final),
    data,
    shape,
    randomKey(seed),
    Math.fround(eps),
  );
  return {
    codes: packCodes(codes, final.bits),
    scales,
    length: data.length,
    shape: [...shape],
    format: final,
  };
}

/**
 * The inverse of {@link quantize}, up to the rounding: codebook value times scale.
 *
 * @returns `length` values, in the order of the tensor's elements.
 * @throws RangeError when there are not as many scales as the format asks for.
 */
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
function groupSize(format: QuantizedFormat, length: number): number {
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
  if (format.scale === "tile")
    return tileScales(data, shape, format.blockSize).map(storedScale);
  const size = groupSize(format, data.length);
  return Float32Array.from(
    { length: scaleCount(format, data.length) },
    (_, i) => storedScale(absmax(data.subarray(i * size, (i + 1) * size))),
  );
}

function withQuantiles(
  data: Float32Array,
  format: QuantizedFormat,
  shape: readonly number[],
): QuantizedFormat {
  const scales = tensorScales(data, format, shape);
  const scaleOf = elementScale(format, scales, data.length, shape);
  const normalized = Float32Array.from(
    data,
    (value, i) => value * inverseScale(scaleOf(i)),
  );
  const values = quantileCodebook(normalized, { bits: format.bits });
  return { ...format, codebook: "custom", values };
}
