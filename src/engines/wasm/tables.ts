/**
 * Tables of the formats in memory, at addresses that are immediates of the
 * instructions: an address in a register would cost an instruction a look-up.
 */
import { encodeTable, encodeWith } from "../../formats/encode.ts";
import type { Format, QuantizedFormat } from "../../formats/format.ts";
import { storedBits } from "../../formats/pack.ts";
import { makeCoder } from "../../formats/quantize.ts";
import type { Arena } from "./layout.ts";

/** Addresses of the tables of one format. */
export interface Tables {
  readonly format: QuantizedFormat;
  /** For each stored byte the values of all codes in it (1, 2 or 4 float32). */
  readonly decode: number;
  /** Codebook alone, float32 by code; only where scales are corrected. */
  readonly values: number;
  /** What stochastic rounding measures between, see formats/quantize.ts. */
  readonly marks: number;
  readonly inverseGaps: number;
  /** Only where the preconditioner is rounded. */
  readonly nextMarks: number;
  /** The add-with-carry table, or the thresholds when there is none. */
  readonly encode: number;
  /** Low bits that share an entry of the table; undefined: compare with all thresholds. */
  readonly shift: number | undefined;
  readonly thresholdCount: number;
  /** The code of a group of zeros, repeated to fill a byte. */
  readonly zeroByte: number;
  /** Whether the table codes a 0 otherwise than the zero code. */
  readonly fillZeros: boolean;
  /** What to write into a new memory. */
  readonly contents: readonly {
    readonly at: number;
    readonly bytes: Uint8Array;
  }[];
}

/** Plans the tables of a format. */
export function planTables(format: QuantizedFormat, arena: Arena): Tables {
  const coder = makeCoder(format);
  const { values } = format;
  const contents: { at: number; bytes: Uint8Array }[] = [];
  const place = (data: Float32Array | Int32Array): number => {
    const at = arena.take(data.byteLength);
    contents.push({
      at,
      bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
    });
    return at;
  };
  const width = storedBits(format.bits);
  const perByte = 8 / width;
  const decoded = new Float32Array(256 * perByte);
  for (let byte = 0; byte < 256; byte++)
    for (let k = 0; k < perByte; k++)
      decoded[byte * perByte + k] =
        values[(byte >> (k * width)) & (2 ** width - 1)] ?? 0;
  const table = encodeTable(coder.limits, format.signed);
  const stochastic = format.rounding !== "nearest";
  return {
    format,
    decode: place(decoded),
    values: format.correctScale ? place(values) : 0,
    marks: stochastic ? place(coder.marks) : 0,
    inverseGaps: stochastic ? place(coder.inverseGaps) : 0,
    nextMarks:
      format.rounding === "preconditioner" ? place(coder.nextMarks) : 0,
    encode: place(table?.entries ?? coder.limits),
    shift: table?.shift,
    thresholdCount: coder.limits.length,
    zeroByte: Array.from(
      { length: perByte },
      (_, k) => coder.zero << (k * width),
    ).reduce((byte, code) => byte | code, 0),
    fillZeros: encodeWith(coder.limits, 0) !== coder.zero,
    contents,
  };
}

/** Bytes that `elements` (a multiple of 16) take in a state's array. */
export const storedBytes = (format: Format, elements: number): number =>
  format.kind === "float"
    ? (format.bits / 8) * elements
    : (elements * storedBits(format.bits)) / 8;
