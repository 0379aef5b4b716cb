/** What a file of tensors holds, in numbers: for people who ask what is in a checkpoint. */
import { fromBfloat16 } from "../formats/bfloat16.ts";
import {
  stateBytes,
  type Format,
  type QuantizedFormat,
} from "../formats/format.ts";
import { unpackCodes } from "../formats/pack.ts";
import { decodeTensor } from "../formats/quantize.ts";
import { valuesOf, type CheckpointState } from "../io/checkpoint.ts";
import { FileError } from "../io/fault.ts";
import type { Dtype, TensorArray } from "../io/safetensors.ts";
import { describeFormat } from "./layout.ts";

/** Of values as they are decoded. */
export interface ValueStatistics {
  /** How many there are. */
  readonly elements: number;
  /** Largest magnitude of what is finite. */
  readonly largest: number;
  /** Root of the mean square of what is finite. */
  readonly rms: number;
  /** Part of the elements that are 0. */
  readonly zeros: number;
  /** Elements that are not finite. */
  readonly nonFinite: number;
}

/** Of the codes of a quantized state. */
export interface CodeStatistics {
  /** How often each code occurs. */
  readonly histogram: readonly number[];
  /** What each code stands for, in units of the scale. */
  readonly codebook: readonly number[];
  /** Part of the elements that have one of the outermost codes; at least one a block does. */
  readonly saturated: number;
  /** Of the scales: how many, how many are 0, and of the others the range and the median. */
  readonly scales: {
    readonly count: number;
    readonly zero: number;
    readonly smallest: number;
    readonly median: number;
    readonly largest: number;
  };
  /**
   * What quantization is expected to have cost: the root mean square of an error
   * spread evenly over each code's share of the axis, in units of the values' rms.
   */
  readonly expectedError: number;
}

/** What is known of one stored state. */
export interface StateStatistics {
  /** Format in words. */
  readonly format: string;
  /** Bits of a code, 16 or 32. */
  readonly bits: number;
  /** Of codes and scales, or of plain values. */
  readonly bytes: number;
  /** Of the values that the stored form stands for. */
  readonly values: ValueStatistics;
  /** Only of quantized states. */
  readonly codes?: CodeStatistics;
}

/**
 * Reads a state and counts.
 *
 * @param shape of its parameter
 * @throws FileError for codes that the codebook does not have.
 */
export async function stateStatistics(
  { format, kind, read }: CheckpointState,
  shape: readonly number[],
): Promise<StateStatistics> {
  const stored = await read();
  const length = valuesOf(kind, shape);
  const head = {
    format: describeFormat(format),
    bits: format.bits,
    bytes: stateBytes(format, length, shape),
  };
  if (stored.kind === "float" || format.kind === "float")
    return { ...head, values: valueStatistics(floats(stored)) };
  const codes = unpackCodes(stored.codes, format.bits, length);
  const values = decodeTensor(format, codes, stored.scales, shape);
  const statistics = valueStatistics(values);
  return {
    ...head,
    values: statistics,
    codes: codeStatistics(format, codes, stored.scales, shape, statistics),
  };
}

const floats = (stored: Awaited<ReturnType<CheckpointState["read"]>>) =>
  stored.kind === "float" ? stored.values : new Float32Array();

function codeStatistics(
  format: QuantizedFormat,
  codes: Uint8Array,
  scales: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  values: ValueStatistics,
): CodeStatistics {
  const table = format.values;
  const histogram = new Array<number>(table.length).fill(0);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i]!;
    if (code >= table.length)
      throw new FileError(
        `a state has the code ${code}, and its codebook ${table.length} values`,
      );
    histogram[code]!++;
  }
  const outermost = Math.max(table.at(-1)!, -table[0]!);
  const ends = histogram.reduce(
    (sum, count, code) =>
      // A signed codebook may reach less far down than up.
      code === histogram.length - 1 ||
      (code === 0 && table[0]! < 0) ||
      Math.abs(table[code]!) === outermost
        ? sum + count
        : sum,
    0,
  );
  return {
    histogram,
    codebook: Array.from(table),
    saturated: ends / Math.max(1, codes.length),
    scales: scaleStatistics(scales),
    expectedError: expectedError(format, codes, scales, shape, values),
  };
}

function scaleStatistics(scales: Float32Array): CodeStatistics["scales"] {
  const living = scales.filter((scale) => scale > 0).sort();
  return {
    count: scales.length,
    zero: scales.length - living.length,
    smallest: living[0] ?? 0,
    median: living[living.length >> 1] ?? 0,
    largest: living.at(-1) ?? 0,
  };
}

function expectedError(
  format: QuantizedFormat,
  codes: Uint8Array,
  scales: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  { rms }: ValueStatistics,
): number {
  if (rms === 0) return 0;
  const shares = decodeTensor(
    { ...format, values: codeErrors(format) },
    codes,
    scales,
    shape,
  );
  let sum = 0;
  for (let i = 0; i < shares.length; i++) sum += shares[i]! * shares[i]!;
  return Math.sqrt(sum / Math.max(1, codes.length)) / rms;
}

/** Of each code, the root mean square error when x is spread evenly over what is rounded to it. */
function codeErrors({
  values,
  signed,
}: QuantizedFormat): Float32Array<ArrayBuffer> {
  const middle = (i: number) => (values[i - 1]! + values[i]!) / 2;
  return values.map((value, i) => {
    const low = (i === 0 ? (signed ? -1 : 0) : middle(i)) - value;
    const high = (i === values.length - 1 ? 1 : middle(i + 1)) - value;
    return high > low
      ? Math.sqrt((high ** 3 - low ** 3) / (3 * (high - low)))
      : 0;
  });
}

/** Counts over plain numbers, as a tensor that no optimizer wrote has them. */
export function valueStatistics(values: ArrayLike<number>): ValueStatistics {
  let largest = 0;
  let squares = 0;
  let zeros = 0;
  let nonFinite = 0;
  const elements = values.length;
  for (let i = 0; i < elements; i++) {
    const value = values[i]!;
    const magnitude = Math.abs(value);
    if (value === 0) zeros++;
    else if (!(magnitude < Infinity)) nonFinite++;
    else {
      if (magnitude > largest) largest = magnitude;
      squares += value * value;
    }
  }
  return {
    elements,
    largest,
    rms: Math.sqrt(squares / Math.max(1, elements - nonFinite)),
    zeros: zeros / Math.max(1, elements),
    nonFinite,
  };
}

/** A tensor's data as numbers; undefined for FP8, whose scale is elsewhere. */
export function numbersOf(
  dtype: Dtype,
  data: TensorArray,
): ArrayLike<number> | undefined {
  switch (dtype) {
    case "BF16":
      return Float32Array.from(data as Uint16Array, fromBfloat16);
    case "F16":
      return Float32Array.from(data as Uint16Array, fromFloat16);
    case "F8_E4M3":
    case "F8_E5M2":
      return undefined;
    case "I64":
    case "U64":
      return Float64Array.from(data as BigInt64Array, Number);
    default:
      return data as Float32Array;
  }
}

/** IEEE 754 binary16 from its bits. */
function fromFloat16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent === 0
    ? sign * fraction * 2 ** -24
    : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Bytes that a state takes, without reading it. */
export const bytesOfState = (
  format: Format,
  kind: CheckpointState["kind"],
  shape: readonly number[],
): number => stateBytes(format, valuesOf(kind, shape), shape);
