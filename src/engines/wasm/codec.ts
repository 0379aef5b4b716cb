/**
 * How the kernels read and write codes: tables in memory, at addresses that
 * are immediates of the instructions (an address in a register would cost an
 * instruction a look-up), and the instructions that go with them.
 */
import { encodeTable, encodeWith } from "../../formats/encode.ts";
import type {
  FloatFormat,
  Format,
  QuantizedFormat,
} from "../../formats/format.ts";
import { storedBits } from "../../formats/pack.ts";
import { correctionUnit, makeCoder } from "../../formats/quantize.ts";
import { indexMultiplier } from "../../formats/random.ts";
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import {
  f32x4,
  f64x2,
  i16x8,
  i32,
  i32x4,
  i64,
  i64x2,
  i8x16,
  v128,
  type Code,
} from "../../formula/instructions.ts";
import type { Vectors } from "../../formula/wasm.ts";
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

/** A look-up of four float32 at byte offsets `indices` from a table. */
function gather(table: number, indices: readonly Code[]): Code {
  return indices
    .slice(1)
    .reduce<Code>(
      (vector, index, lane) => v128.load32_lane(index, vector, lane + 1, table),
      v128.load32_zero(indices[0]!, table),
    );
}

/** Bits [from, from + width) of a 64-bit word, times 2^scale, as i32. */
function field(word: Local, from: number, width: number, scale: number): Code {
  const mask = i32.const((2 ** width - 1) * 2 ** scale);
  const shiftBy = from - scale;
  return i32.and(
    shiftBy < 0
      ? i32.shl(i32.wrap_i64(word.get), i32.const(-shiftBy))
      : i32.wrap_i64(
          shiftBy === 0
            ? word.get
            : i64.shr_u(word.get, i64.const(BigInt(shiftBy))),
        ),
    mask,
  );
}

/**
 * Reads 16 elements as four vectors: the codebook's values, not yet times the
 * scale; or the float32 values themselves.
 */
export function emitDecode(
  fn: FunctionBuilder,
  format: Format,
  tables: Tables | undefined,
  pointer: Code,
): Code[] {
  if (format.kind === "float")
    return [0, 1, 2, 3].map((vector) =>
      format.bits === 32
        ? v128.load(pointer, 16 * vector)
        : i32x4.shl(v128.load16x4_u(pointer, 8 * vector), 16),
    );
  const at = tables!.decode;
  switch (storedBits(format.bits)) {
    case 8: {
      const words = [0, 8].map((offset) =>
        fn.let("i64", i64.load(pointer, offset)),
      );
      return [0, 1, 2, 3].map((vector) =>
        gather(
          at,
          [0, 1, 2, 3].map((lane) =>
            field(words[vector >> 1]!, ((vector & 1) * 4 + lane) * 8, 8, 2),
          ),
        ),
      );
    }
    case 4: {
      const word = fn.let("i64", i64.load(pointer));
      const pair = (k: number) => field(word, 8 * k, 8, 3);
      return [0, 1, 2, 3].map((vector) =>
        v128.load64_lane(
          pair(2 * vector + 1),
          v128.load64_zero(pair(2 * vector), at),
          1,
          at,
        ),
      );
    }
    case 2: {
      const word = fn.let("i32", i32.load(pointer));
      return [0, 1, 2, 3].map((vector) =>
        v128.load(
          i32.and(
            vector === 0
              ? i32.shl(word.get, i32.const(4))
              : i32.shr_u(word.get, i32.const(8 * vector - 4)),
            i32.const(255 << 4),
          ),
          at,
        ),
      );
    }
  }
}

/** What stochastic rounding draws from: the key and the index of each lane, splat. */
export interface Randomness {
  readonly key: Local;
  /** Index of the element in lane 0..3 of the first of the four vectors. */
  readonly index: Local;
  /** For rounding the preconditioner: its floor over the root of each vector's scale. */
  readonly floors?: readonly Local[];
}

/** Sums of x^2 and of x times what it decodes to, in the fixed point of a correction. */
export interface Correction {
  readonly squares: Local;
  readonly products: Local;
}

/** Stores 16 values, given as four vectors of value * (1 / scale), as codes. */
export function emitEncode(
  fn: FunctionBuilder,
  tables: Tables,
  x: Vectors,
  pointer: Code,
  random: Randomness | undefined,
  correction?: Correction,
): void {
  const { format, shift } = tables;
  const whole = random ?? correction;
  let codes: Local[];
  if (shift === undefined) {
    codes = x.map((vector) => countThresholds(fn, tables, vector));
  } else {
    const sums = x.map((vector) => {
      const lanes = laneOffsets(
        fn,
        i32x4.shl(i32x4.shr_u(vector.get, shift), 2),
      );
      return fn.let(
        "v128",
        i32x4.add(gather(tables.encode, lanes), vector.get),
      );
    });
    codes = sums.map((sum) =>
      whole ? fn.let("v128", i32x4.abs(i32x4.shr_s(sum.get, shift))) : sum,
    );
    if (!whole) {
      const narrow = (a: Local, b: Local) => {
        const pair = i16x8.narrow_i32x4_s(
          i32x4.shr_s(a.get, shift),
          i32x4.shr_s(b.get, shift),
        );
        return format.signed ? i16x8.abs(pair) : pair;
      };
      emitPacked(
        fn,
        format,
        [narrow(codes[0]!, codes[1]!), narrow(codes[2]!, codes[3]!)],
        pointer,
      );
      return;
    }
  }
  if (random)
    codes = codes.map((code, i) => roundUp(fn, tables, code, x[i]!, random, i));
  if (correction) addToCorrection(fn, tables, codes, x, correction);
  const narrow = (a: Local, b: Local) => i16x8.narrow_i32x4_s(a.get, b.get);
  emitPacked(
    fn,
    format,
    [narrow(codes[0]!, codes[1]!), narrow(codes[2]!, codes[3]!)],
    pointer,
  );
}

/**
 * The four lanes of a vector as i32. By way of two 64-bit words: on x64 that
 * takes half the extractions, and the first is a plain move as a float64.
 */
function laneOffsets(fn: FunctionBuilder, vector: Code): Code[] {
  const offsets = fn.let("v128", vector);
  const low = fn.let(
    "i64",
    i64.reinterpret_f64(f64x2.extract_lane(offsets.get, 0)),
  );
  const high = fn.let("i64", i64x2.extract_lane(offsets.get, 1));
  const upper = (word: Local) =>
    i32.wrap_i64(i64.shr_u(word.get, i64.const(32n)));
  return [
    i32.wrap_i64(low.get),
    upper(low),
    i32.wrap_i64(high.get),
    upper(high),
  ];
}

/** How many thresholds are at or below each value: for codebooks that no table serves. */
function countThresholds(fn: FunctionBuilder, tables: Tables, x: Local): Local {
  // Float32 order as signed integer order: flip the magnitude of negatives.
  const ordered = fn.let(
    "v128",
    v128.xor(x.get, v128.and(i32x4.shr_s(x.get, 31), i32x4.const(0x7fffffff))),
  );
  const count = fn.let("v128", i32x4.const(0));
  const at = fn.let("i32", i32.const(tables.encode));
  fn.repeat(tables.thresholdCount, () => {
    fn.emit(
      count.set(
        i32x4.sub(
          count.get,
          i32x4.ge_s(ordered.get, v128.load32_splat(at.get)),
        ),
      ),
      at.bump(4),
    );
  });
  return count;
}

/** Stores 16 values as float32, or rounded to bfloat16. */
export function emitStore(
  fn: FunctionBuilder,
  format: FloatFormat,
  values: Vectors,
  pointer: Code,
  random: Randomness | undefined,
): void {
  if (format.bits === 32) {
    values.forEach((value, i) =>
      fn.emit(v128.store(pointer, value.get, 16 * i)),
    );
    return;
  }
  // Add what carries into the upper half, and keep that half.
  const halves = values.map((value, vector) => {
    const carry = random
      ? i32x4.shr_u(drawBits(fn, random, vector).get, 16)
      : i32x4.add(
          i32x4.const(0x7fff),
          v128.and(i32x4.shr_u(value.get, 16), i32x4.const(1)),
        );
    return fn.let("v128", i32x4.shr_u(i32x4.add(value.get, carry), 16));
  });
  for (const pair of [0, 2])
    fn.emit(
      v128.store(
        pointer,
        i16x8.narrow_i32x4_u(halves[pair]!.get, halves[pair + 1]!.get),
        8 * pair,
      ),
    );
}

/** 32 random bits for each lane of one of four vectors, see formats/random.ts. */
function drawBits(
  fn: FunctionBuilder,
  { key, index }: Randomness,
  vector: number,
): Local {
  const hash = fn.let(
    "v128",
    v128.xor(
      i32x4.mul(
        i32x4.add(index.get, i32x4.const(4 * vector)),
        i32x4.const(indexMultiplier),
      ),
      key.get,
    ),
  );
  const mixed = (by: number, factor: number) =>
    fn.emit(
      hash.set(
        i32x4.mul(
          v128.xor(hash.get, i32x4.shr_u(hash.get, by)),
          i32x4.const(factor),
        ),
      ),
    );
  mixed(16, 0x85ebca6b);
  mixed(13, 0xc2b2ae35);
  fn.emit(hash.set(v128.xor(hash.get, i32x4.shr_u(hash.get, 16))));
  return hash;
}

/** Adds 1 to a code with the probability that its value's place in the gap says. */
function roundUp(
  fn: FunctionBuilder,
  tables: Tables,
  code: Local,
  x: Local,
  random: Randomness,
  vector: number,
): Local {
  const lanes = laneOffsets(fn, i32x4.shl(code.get, 2));
  const plain = (place: Code) =>
    f32x4.mul(
      f32x4.sub(place, gather(tables.marks, lanes)),
      gather(tables.inverseGaps, lanes),
    );
  const floor = random.floors?.[vector];
  let chance: Local;
  if (floor) {
    const root = fn.let("v128", f32x4.sqrt(f32x4.pmax(f32x4.const(0), x.get)));
    const least = f32x4.const(2 ** -126);
    const below = f32x4.pmax(least, f32x4.add(root.get, floor.get));
    const above = f32x4.add(gather(tables.nextMarks, lanes), floor.get);
    chance = fn.let(
      "v128",
      f32x4.mul(plain(root.get), f32x4.div(above, below)),
    );
  } else chance = fn.let("v128", plain(x.get));
  const hash = drawBits(fn, random, vector);
  const drawn = f32x4.mul(
    f32x4.convert_i32x4_u(i32x4.shr_u(hash.get, 8)),
    f32x4.const(2 ** -24),
  );
  // A true comparison is -1.
  return fn.let("v128", i32x4.sub(code.get, f32x4.lt(drawn, chance.get)));
}

/** Adds 16 elements to the sums of their block's correction. */
function addToCorrection(
  fn: FunctionBuilder,
  tables: Tables,
  codes: readonly Local[],
  x: Vectors,
  { squares, products }: Correction,
): void {
  const unit = f32x4.const(correctionUnit(tables.format.blockSize));
  const fixed = (product: Code) =>
    i32x4.trunc_sat_f32x4_s(f32x4.mul(product, unit));
  codes.forEach((code, i) => {
    const vector = x[i]!.get;
    const lanes = laneOffsets(fn, i32x4.shl(code.get, 2));
    const decoded = gather(tables.values, lanes);
    fn.emit(
      squares.set(i32x4.add(squares.get, fixed(f32x4.mul(vector, vector)))),
      products.set(i32x4.add(products.get, fixed(f32x4.mul(vector, decoded)))),
    );
  });
}

/**
 * A block's corrected scale in every lane, from the scale and the sums; see
 * formats/quantize.ts for when it stays as it is.
 */
export function emitCorrected(
  fn: FunctionBuilder,
  scale: Local,
  { squares, products }: Correction,
): Code {
  const total = (sum: Local) => {
    for (const order of [
      [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7],
      [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11],
    ])
      fn.emit(
        sum.set(i32x4.add(sum.get, i8x16.shuffle(sum.get, sum.get, order))),
      );
    return f32x4.convert_i32x4_s(sum.get);
  };
  const ratio = f32x4.div(total(squares), total(products));
  const corrected = fn.let("v128", f32x4.mul(scale.get, ratio));
  const holds = v128.and(
    i32x4.gt_s(products.get, i32x4.const(0)),
    v128.and(
      i32x4.ge_s(corrected.get, i32x4.const(0x00800000)),
      i32x4.lt_s(corrected.get, i32x4.const(0x7f800000)),
    ),
  );
  return v128.bitselect(corrected.get, scale.get, holds);
}

/** Stores 16 codes, given as two vectors of 16-bit lanes, in the stored width. */
function emitPacked(
  fn: FunctionBuilder,
  format: QuantizedFormat,
  [low, high]: readonly [Code, Code],
  pointer: Code,
): void {
  const bytes = i8x16.narrow_i16x8_u(low, high);
  const width = storedBits(format.bits);
  if (width === 8) {
    fn.emit(v128.store(pointer, bytes));
    return;
  }
  // Joins neighbours: in each 16-bit lane, the second byte's code above the first's.
  const join = (codes: Code, by: number): Code => {
    const wide = fn.let("v128", codes);
    return v128.and(
      v128.or(wide.get, i16x8.shr_u(wide.get, 8 - by)),
      i32x4.const(0x00ff00ff),
    );
  };
  const halved = fn.let("v128", join(bytes, width));
  const packed = i8x16.narrow_i16x8_u(halved.get, halved.get);
  if (width === 4) {
    fn.emit(v128.store64_lane(pointer, packed, 0));
    return;
  }
  const quartered = fn.let("v128", join(packed, 2 * width));
  fn.emit(
    v128.store32_lane(
      pointer,
      i8x16.narrow_i16x8_u(quartered.get, quartered.get),
      0,
    ),
  );
}
