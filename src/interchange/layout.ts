/** What the layouts share: what one is, and how codes and tables become formats. */
import type { StoredState } from "../engines/engine.ts";
import {
  codebook,
  codebookNames,
  type CodebookName,
} from "../formats/codebook.ts";
import {
  describeFormat as describe,
  float32,
  resolveFormat,
  type Format,
  type QuantizedFormat,
  type ScaleKind,
} from "../formats/format.ts";
import type { Dtype, TensorArray } from "../io/safetensors.ts";
import { FileError } from "../io/fault.ts";
import { isFp8 } from "./fp8.ts";
import { readFloats, type Parameter, type TensorSource } from "./fields.ts";

/** Whose file it is. */
export const layoutNames = [
  "lowbit",
  "bitsandbytes",
  "torchao",
  "lpmm",
  "float32",
] as const;
/** A name of {@link layoutNames}. */
export type LayoutName = (typeof layoutNames)[number];

/** One state of one parameter. */
export interface StateValue {
  readonly format: Format;
  /** Values: the parameter's elements, or its rows or columns. */
  readonly length: number;
  /** A copy of the stored form; codes are packed as formats/pack.ts has it. */
  read(): Promise<StoredState>;
}

/** What a layout gets to read a parameter. */
export interface ReadContext {
  readonly source: TensorSource;
  /** Our name of the optimizer. */
  readonly optimizer: string;
  /** From the metadata or the caller, where known. */
  readonly shape: readonly number[] | undefined;
}

/** What a parameter was found to have. */
export interface ReadParameter {
  readonly shape: readonly number[];
  readonly states: Readonly<Record<string, StateValue>>;
  readonly notes?: readonly string[];
}

/** A state that wants to be written. */
export interface FitInput {
  readonly optimizer: string;
  readonly state: string;
  readonly format: Format;
  readonly shape: readonly number[];
  /** What the user asked for: bits of a code, 32, or FP8. */
  readonly bits: TargetBits | undefined;
}

/** Bits of a code (2 to 8), 32 for float32, or `fp8` for float8_e4m3 in codes of 8 bits. */
export type TargetBits = number | "fp8";

/** A tensor of the file to write. */
export interface PlannedTensor {
  readonly key: string;
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** From the stored states of the parameter, in the formats of the plan. */
  data(states: Readonly<Record<string, StoredState>>): TensorArray;
}

/** How one library lays out an optimizer's state; `lowbit` itself is not one of them. */
export interface Layout {
  readonly name: Exclude<LayoutName, "lowbit">;
  /** For people. */
  readonly title: string;
  /** Widths that `bits` may ask for. */
  readonly bits: readonly TargetBits[];
  /** @throws FileError for what does not fit together. */
  read(parameter: Parameter, context: ReadContext): Promise<ReadParameter>;
  /**
   * The format in which this layout holds a state: the state's own where it
   * can, so that nothing is lost.
   *
   * @throws FileError when the library has no such optimizer.
   */
  fit(input: FitInput): Format;
  /** The tensors of one parameter, but for its step. */
  plan(
    prefix: string,
    optimizer: string,
    shape: readonly number[],
    formats: Readonly<Record<string, Format>>,
  ): PlannedTensor[];
  /** Dtype of a parameter's count of steps. */
  readonly step: "I64" | "F32";
}

/** What a table of values is: a codebook of ours by name, or a custom one. */
export function formatOfTable(
  name: string,
  values: Float32Array,
  {
    bits,
    scale = "block",
    blockSize,
  }: { bits: number; scale?: ScaleKind; blockSize: number },
): QuantizedFormat {
  const known = knownTable(values, bits);
  const signed = known?.signed ?? values.some((value) => value < 0);
  try {
    return resolveFormat(
      { bits, scale, blockSize, signed, codebook: known?.name ?? values },
      signed ? "signed" : "unsigned",
    ) as QuantizedFormat;
  } catch (error) {
    throw new FileError(`'${name}': ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function knownTable(
  values: Float32Array,
  bits: number,
): { name: CodebookName; signed: boolean } | undefined {
  for (const name of codebookNames)
    for (const signed of [true, false]) {
      let table: Float32Array;
      try {
        table = codebook(name, { bits, signed });
      } catch {
        continue; // not in these bits, or not unsigned
      }
      if (table.length === values.length && near(table, values))
        return { name, signed };
    }
  return undefined;
}

/** Equal up to the last bit, which depends on who computed the table. */
const near = (a: Float32Array, b: Float32Array) =>
  a.every((value, i) => Math.abs(value - b[i]!) <= 1.2e-7 * Math.abs(value));

/**
 * The block size that gives `length` elements so many scales: the first of
 * `sizes` that does.
 *
 * @throws FileError when none does.
 */
export function blockSizeOf(
  name: string,
  length: number,
  scales: number,
  sizes: readonly number[],
): number {
  const size = sizes.find((block) => Math.ceil(length / block) === scales);
  if (size === undefined)
    throw new FileError(
      `'${name}' has ${scales} scales for ${length} elements, and blocks of ${sizes.join(" or ")} elements would have ${sizes.map((block) => Math.ceil(length / block)).join(" or ")}`,
    );
  return size;
}

/** A state in float32 or bfloat16. */
export function floatValue(
  source: TensorSource,
  name: string,
  length: number,
): StateValue {
  const { dtype } = source.tensors.get(name)!;
  if (!["F32", "BF16", "F64"].includes(dtype))
    throw new FileError(`'${name}' must be F32, BF16 or F64, and is ${dtype}`);
  return {
    format:
      dtype === "BF16"
        ? { kind: "float", bits: 16, rounding: "nearest" }
        : float32,
    length,
    read: async () => ({
      kind: "float",
      values: await readFloats(source, name, length),
    }),
  };
}

/** A state of codes: `codes` gives them packed in our order. */
export function codedValue(
  format: QuantizedFormat,
  length: number,
  codes: () => Promise<Uint8Array<ArrayBuffer>>,
  scales: () => Promise<Float32Array<ArrayBuffer>>,
): StateValue {
  return {
    format,
    length,
    read: async () => ({
      kind: "quantized",
      codes: await codes(),
      scales: await scales(),
    }),
  };
}

/** The values of a state that a layout writes as float32. */
export function floatsOf(stored: StoredState): Float32Array<ArrayBuffer> {
  if (stored.kind !== "float")
    throw new Error("a plan of float32 was given codes");
  return stored.values;
}

export function codesOf(
  stored: StoredState,
): Extract<StoredState, { kind: "quantized" }> {
  if (stored.kind !== "quantized")
    throw new Error("a plan of codes was given float32");
  return stored;
}

/** A tensor of float32 values. */
export const plannedFloats = (
  key: string,
  shape: readonly number[],
  data: PlannedTensor["data"],
): PlannedTensor => ({ key, dtype: "F32", shape, data });

/** A table that is the same for all parameters. */
export const plannedTable = (
  key: string,
  { values }: QuantizedFormat,
): PlannedTensor => plannedFloats(key, [values.length], () => values);

/** Two codes a byte, the other one first. */
export const swapNibbles = (packed: Uint8Array): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(packed, (byte) => (byte >> 4) | (byte << 4));

/** A format in words, with FP8 by its name. */
export const describeFormat = (format: Format): string =>
  describe(format).replace(
    "custom",
    format.kind === "quantized" && isFp8(format) ? "FP8 (e4m3fn)" : "custom",
  );

/** `[2, 3]` for people. */
const shapeText = (shape: readonly number[]) => `[${shape.join(", ")}]`;

/** The shape that a tensor has in the file, or what else is known to hold as many. */
export function chooseShape(
  name: string,
  found: readonly number[],
  known: readonly number[] | undefined,
): readonly number[] {
  if (known === undefined) return found;
  if (sizeOf(known) !== sizeOf(found))
    throw new FileError(
      `'${name}' is of shape ${shapeText(found)}, and ${shapeText(known)} was said of it`,
    );
  return known;
}

export const sizeOf = (shape: readonly number[]): number =>
  shape.reduce((product, n) => product * n, 1);

/** Of a state `row`, all axes but the last; of `col`, all but the one before it. */
export const smallShape = (state: string, shape: readonly number[]) =>
  state === "row"
    ? shape.slice(0, -1)
    : state === "col"
      ? [...shape.slice(0, -2), ...shape.slice(-1)]
      : shape;
