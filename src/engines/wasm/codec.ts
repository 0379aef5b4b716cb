/** How the kernels read and write what is stored: codes, bfloat16 and float32. */
import type {
  FloatFormat,
  Format,
  QuantizedFormat,
} from "../../formats/format.ts";
import { storedBits } from "../../formats/pack.ts";
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import {
  i16x8,
  i32,
  i32x4,
  i64,
  i8x16,
  v128,
  type Code,
} from "../../formula/instructions.ts";
import type { Vectors } from "../../formula/wasm.ts";
import { addToCorrection, type Correction } from "./correction.ts";
import { gather, laneOffsets } from "./lanes.ts";
import { drawBits, roundUp, type Randomness } from "./rounding.ts";
import type { Tables } from "./tables.ts";

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
