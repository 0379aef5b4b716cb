/**
 * Formats as plain data, so that a file says how each number is stored and no
 * reader has to assume it.
 */
import {
  codebook,
  codebookNames,
  type CodebookName,
} from "../formats/codebook.ts";
import {
  float32,
  resolveFormat,
  scaleCount,
  type Format,
  type FormatOptions,
} from "../formats/format.ts";
import { codeBytes, storedBits } from "../formats/pack.ts";
import { FileError } from "./fault.ts";
import { isCount, isRecord } from "./json.ts";
import type { Dtype, TensorEntry } from "./safetensors.ts";

/** How codes lie in bytes; there is one order so far, see formats/pack.ts. */
const PACKING = "first in low bits";

/**
 * A format as JSON: every key of it, how its codes are packed, and the place of
 * its codebook's values in a list that formats share.
 */
export function formatData(
  format: Format,
  codebooks: Float32Array<ArrayBuffer>[],
): Record<string, unknown> {
  if (format.kind === "float") return { ...format };
  const { values, correctScale, ...rest } = format;
  let place = codebooks.findIndex((one) => sameBits(one, values));
  if (place < 0) place = codebooks.push(values) - 1;
  return {
    ...rest,
    ...(correctScale ? { correctScale } : {}),
    values: place,
    codeBits: storedBits(format.bits),
    packing: PACKING,
  };
}

/**
 * The inverse of {@link formatData}. A key this version does not know is an
 * error: whoever wrote it meant it.
 *
 * @throws FileError
 */
export function formatFromData(
  data: unknown,
  codebooks: readonly Float32Array<ArrayBuffer>[],
): Format {
  if (!isRecord(data)) throw new FileError("a format is not a JSON object");
  const { kind, ...rest } = data;
  try {
    if (kind === "float") return checkFloat(rest);
    if (kind !== "quantized")
      throw new TypeError(`unknown kind ${JSON.stringify(kind)}`);
    const { values: place, codeBits, packing, codebook: name, ...own } = rest;
    const values = isCount(place) ? codebooks[place] : undefined;
    if (!values) throw new TypeError("its codebook is not in the file");
    const known = knownName(name, own, values);
    const format = resolveFormat(
      {
        ...(own as FormatOptions),
        codebook: known === "custom" ? values : known,
      },
      own.signed === false ? "unsigned" : "signed",
    );
    if (format.kind !== "quantized")
      throw new TypeError(`${String(own.bits)} bits are not quantized`);
    if (codeBits !== storedBits(format.bits) || packing !== PACKING)
      throw new TypeError(
        `codes of ${String(codeBits)} bits, packed '${String(packing)}'; this version reads '${PACKING}'`,
      );
    checkComplete(own, format);
    return format;
  } catch (error) {
    if (error instanceof FileError) throw error;
    if (!(error instanceof TypeError || error instanceof RangeError))
      throw error;
    throw new FileError(
      `a format that this version cannot read: ${error.message.replace(/^format: /, "")}`,
      { cause: error },
    );
  }
}

function checkFloat(rest: Record<string, unknown>): Format {
  const { bits, rounding } = rest;
  const format = resolveFormat(rest as FormatOptions);
  if (format.kind !== "float" || format.bits !== bits)
    throw new TypeError(`plain numbers of ${String(bits)} bits`);
  if (rounding !== format.rounding)
    throw new TypeError(`the rounding '${String(rounding)}'`);
  return format.bits === 32 ? float32 : format;
}

/** Younger than the first files, and only written when set: absent means false. */
const younger = ["correctScale"];

/** Nothing is left to a default, which might change. */
function checkComplete(
  given: Record<string, unknown>,
  format: Format & { kind: "quantized" },
): void {
  for (const key of Object.keys(format))
    if (
      !["kind", "values", "codebook", ...younger].includes(key) &&
      !(key in given)
    )
      throw new TypeError(`it does not say its ${key}`);
}

/** The codebook's name where its values are what the name means today. */
function knownName(
  name: unknown,
  { bits, signed }: Record<string, unknown>,
  values: Float32Array,
): CodebookName | "custom" {
  if (!codebookNames.includes(name as CodebookName)) return "custom";
  try {
    const today = codebook(name as CodebookName, { bits, signed } as object);
    if (sameBits(today, values)) return name as CodebookName;
  } catch {
    // It does not come in these bits, or with this sign.
  }
  return "custom";
}

/** Whether two tables hold the same float32 values, -0 and 0 apart. */
function sameBits(a: Float32Array, b: Float32Array): boolean {
  return a.length === b.length && a.every((value, i) => Object.is(value, b[i]));
}

/** What decides how values are coded from now on, not what stored codes mean. */
const codingOnly = ["rounding", "keepSign", "correctScale", "codebook"];

/**
 * Whether what is stored in one format can be taken over as it is by another:
 * all that gives codes and scales their meaning is the same.
 */
export function sameStorage(a: Format, b: Format): boolean {
  const left = meaning(a);
  const right = meaning(b);
  const keys = new Set([...Object.keys(left), ...Object.keys(right)]);
  return [...keys].every((key) => {
    const [x, y] = [left[key], right[key]];
    return x instanceof Float32Array && y instanceof Float32Array
      ? sameBits(x, y)
      : x === y;
  });
}

function meaning(format: Format): Record<string, unknown> {
  const entries = Object.entries(format).filter(
    ([key]) => !codingOnly.includes(key),
  );
  const all: Record<string, unknown> = Object.fromEntries(entries);
  // Without blocks or tiles their size means nothing.
  if (format.kind === "quantized" && !/block|tile/.test(format.scale))
    delete all.blockSize;
  return all;
}

/** A part of a state's stored form as a tensor of a file. */
export interface StoredPart extends TensorEntry {
  /** Ending of the tensor's name: `.codes`, `.scales`, or nothing for plain numbers. */
  readonly suffix: "" | ".codes" | ".scales";
}

/**
 * The tensors that a state of `length` values takes in a file.
 *
 * @param shape of the parameter
 */
export function storedParts(
  format: Format,
  length: number,
  shape: readonly number[],
): StoredPart[] {
  if (format.kind === "float") {
    const size = shape.reduce((product, n) => product * n, 1);
    const dtype: Dtype = format.bits === 16 ? "BF16" : "F32";
    // A value a row, or one alone, is a list.
    return [{ suffix: "", dtype, shape: length === size ? shape : [length] }];
  }
  return [
    {
      suffix: ".scales",
      dtype: "F32",
      shape: [scaleCount(format, length, shape)],
    },
    { suffix: ".codes", dtype: "U8", shape: [codeBytes(format.bits, length)] },
  ];
}
