/**
 * How states are read from words and written to them, as operations of jax-js.
 *
 * What an operation gives is kept in memory where several kernels need it. Parts that
 * are cheaper to compute than to read, such as the scale of every element, are
 * therefore asked for anew wherever they are used: jax-js does not see that they
 * are the same, and makes each a part of the kernel that needs it.
 */
import { encodeTable, encodeWith, thresholds } from "../../formats/encode.ts";
import {
  scaleCount,
  zeroCode,
  type Format,
  type QuantizedFormat,
} from "../../formats/format.ts";
import { storedBits } from "../../formats/pack.ts";
import {
  makeCoder,
  roundingOf,
  smallestScale,
} from "../../formats/quantize.ts";
import { indexMultiplier } from "../../formats/random.ts";
import type { StatePiece } from "../../engines/engine.ts";
import type { Tensor } from "./contract.ts";
import {
  decodeByLines,
  decodingLines,
  encodeByLines,
  encodingLines,
} from "./lines.ts";
import type { Scope } from "./scope.ts";

/** A run of words that belong to a region, at a word offset. */
export interface Written {
  readonly at: number;
  readonly words: Tensor;
}

/** What a piece's words are computed with. */
export interface Coding {
  /** Of the tensor. */
  readonly shape: readonly number[];
  /** Codes by arithmetic where a codebook is made of lines, and not by look-ups. */
  readonly arithmetic: boolean;
}

/** The values of a state's piece, flat, float32. */
export function readPiece(
  scope: Scope,
  region: Tensor,
  format: Format,
  piece: StatePiece,
  { shape, arithmetic }: Coding,
): Tensor {
  const { length, codes, scales } = piece;
  const words = (bytes: number, count: number) =>
    scope.slice(region, bytes / 4, bytes / 4 + count);
  if (format.kind === "float") {
    if (format.bits === 32) return scope.asFloat(words(codes, length));
    const halves = unpack(
      scope,
      words(codes, Math.ceil(length / 2)),
      16,
      length,
    );
    return scope.asFloat(scope.shiftLeft(halves, scope.word(16)));
  }
  const width = storedBits(format.bits);
  const perWord = 32 / width;
  const packed = words(codes, Math.ceil(length / perWord));
  const index = scope.cast(unpack(scope, packed, width, length), "int32");
  const lines = arithmetic ? decodingLines(table(format)) : undefined;
  const values = lines
    ? decodeByLines(scope, scope.cast(index, "float32"), lines)
    : scope.take(scope.array(table(format)), index);
  const count = scaleCount(format, length, shape);
  const known = scope.asFloat(words(scales!, count));
  return scope.mul(values, spread(scope, known, format, length, shape));
}

/** A codebook of as many entries as there are codes. */
function table({ values, bits }: QuantizedFormat): Float32Array {
  const whole = new Float32Array(2 ** storedBits(bits));
  whole.fill(values.at(-1)!);
  whole.set(values);
  return whole;
}

/** Codes from words, one a value, the first `length` of them. */
function unpack(
  scope: Scope,
  words: Tensor,
  width: number,
  length: number,
): Tensor {
  const perWord = 32 / width;
  const count = words.shape[0]!;
  const shifts = scope.row(
    Array.from({ length: perWord }, (_, i) => i * width),
  );
  const codes = scope.and(
    scope.shiftRight(scope.reshape(words, [count, 1]), shifts),
    scope.word(2 ** width - 1),
  );
  return scope.slice(scope.reshape(codes, [count * perWord]), 0, length);
}

/** Words from codes. */
function pack(scope: Scope, codes: Tensor, width: number): Tensor {
  const perWord = 32 / width;
  const count = Math.ceil(codes.shape[0]! / perWord);
  // A sum of products: jax-js 0.1.25 cannot sum shifted words on WebGPU.
  const places = scope.row(
    Array.from({ length: perWord }, (_, i) => 2 ** (i * width)),
  );
  const padded = scope.padLast(codes, count * perWord);
  const placed = scope.mul(scope.reshape(padded, [count, perWord]), places);
  return scope.reshape(scope.sum(placed, 1), [count]);
}

/** The scale of every element. */
function spread(
  scope: Scope,
  scales: Tensor,
  format: QuantizedFormat,
  length: number,
  shape: readonly number[],
): Tensor {
  if (format.scale === "tensor") return scales;
  if (format.scale === "block") {
    const { blockSize } = format;
    const count = scales.shape[0]!;
    const column = scope.reshape(scales, [count, 1]);
    const wide = scope.broadcast(column, [count, blockSize]);
    return scope.slice(scope.reshape(wide, [count * blockSize]), 0, length);
  }
  let start = 0;
  const axes = shape.map((n, axis) => {
    const own = scope.slice(scales, start, start + n);
    start += n;
    return scope.reshape(
      own,
      shape.map((m, i) => (i === axis ? m : 1)),
    );
  });
  const least = axes.reduce((a, b) => scope.min(a, b));
  return scope.reshape(least, [length]);
}

/**
 * The words of a state's piece.
 *
 * @param values flat, float32.
 * @param key of stochastic rounding, a uint32 scalar.
 */
export function writePiece(
  scope: Scope,
  values: Tensor,
  format: Format,
  piece: StatePiece,
  { shape, arithmetic, key }: Coding & { readonly key: () => Tensor },
): Written[] {
  const { length, codes: at, start } = piece;
  if (format.kind === "float") {
    const bits = scope.asWord(values);
    if (format.bits === 32) return [{ at: at / 4, words: bits }];
    const added =
      format.rounding === "stochastic"
        ? scope.shiftRight(
            randomBits(scope, key(), start, length),
            scope.word(16),
          )
        : scope.add(
            scope.word(0x7fff),
            scope.and(scope.shiftRight(bits, scope.word(16)), scope.word(1)),
          );
    const halves = scope.shiftRight(scope.add(bits, added), scope.word(16));
    return [{ at: at / 4, words: pack(scope, halves, 16) }];
  }
  const found = largestOf(scope, values, format, length, shape);
  const scales = () => countedScales(scope, found);
  const each = () => spread(scope, scales(), format, length, shape);
  const inverted = (known: Tensor) =>
    scope.where(
      scope.gt(known, scope.float(0)),
      scope.reciprocal(known),
      scope.float(0),
    );
  // The least of several scales must be found first.
  const inverse = () =>
    format.scale === "rank1"
      ? inverted(each())
      : spread(scope, inverted(scales()), format, length, shape);
  const limits = thresholds(format.values, roundingOf(format));
  const x = () => scope.mul(values, inverse());
  const lines = arithmetic ? encodingLines(limits) : undefined;
  const nearest = lines
    ? encodeByLines(scope, x(), lines)
    : encode(scope, x, format, limits);
  const rounded =
    format.rounding === "nearest"
      ? nearest
      : roundUp(scope, x(), nearest, format, () =>
          randomBits(scope, key(), start, length),
        );
  // Groups of zeros; with rank-1 scales 0 is coded as any other value.
  const zero = zeroCode(format);
  const codes =
    format.scale === "rank1" ||
    (format.rounding === "nearest" && encodeWith(limits, 0) === zero)
      ? rounded
      : scope.where(
          scope.gt(each(), scope.float(0)),
          rounded,
          scope.word(zero),
        );
  return [
    { at: at / 4, words: pack(scope, codes, storedBits(format.bits)) },
    { at: piece.scales! / 4, words: scope.asWord(scales()) },
  ];
}

/** What counts as a scale: the smallest ones do not. */
const countedScales = (scope: Scope, largest: Tensor): Tensor =>
  scope.where(
    scope.lt(largest, scope.float(smallestScale)),
    scope.float(0),
    largest,
  );

/** Largest magnitudes: of blocks, of the tensor, of its rows and columns. */
function largestOf(
  scope: Scope,
  values: Tensor,
  format: QuantizedFormat,
  length: number,
  shape: readonly number[],
): Tensor {
  const magnitudes = scope.abs(values);
  if (format.scale === "rank1") {
    const whole = scope.reshape(magnitudes, shape);
    const axes = shape.map((n, axis) => {
      const others = shape.flatMap((_, i) => (i === axis ? [] : [i]));
      return scope.largest(whole, others, false);
    });
    return scope.concatenate(axes);
  }
  const size = format.scale === "tensor" ? length : format.blockSize;
  const count = Math.ceil(length / size);
  const blocks = scope.reshape(scope.padLast(magnitudes, count * size), [
    count,
    size,
  ]);
  return scope.largest(blocks, 1, false);
}

/** The code of each value, see formats/encode.ts; uint32. */
function encode(
  scope: Scope,
  x: () => Tensor,
  format: QuantizedFormat,
  limits: Int32Array,
): Tensor {
  const fast = encodeTable(limits, format.signed);
  const bits = () => scope.asWord(x());
  if (!fast) return search(scope, bits(), limits);
  const index = scope.cast(
    scope.shiftRight(bits(), scope.word(fast.shift)),
    "int32",
  );
  const entries = scope.array(new Uint32Array(fast.entries.buffer));
  const sum = wrap(scope, scope.add(bits(), scope.take(entries, index)));
  if (!fast.signed) return scope.shiftRight(sum, scope.word(fast.shift));
  // The magnitude of an arithmetic shift to the right, in unsigned words.
  const negative = scope.ge(sum, scope.word(0x80000000));
  const shifted = scope.shiftRight(sum, scope.word(fast.shift));
  const ofNegative = scope.sub(scope.word(2 ** (32 - fast.shift)), shifted);
  return scope.where(negative, ofNegative, shifted);
}

/** For codebooks whose entries lie too close for a table: by bisection. */
function search(scope: Scope, bits: Tensor, limits: Int32Array): Tensor {
  // As unsigned words in the order of the floats: ... -0 is 2^31 - 1, +0 is 2^31 ...
  const ordered = scope.where(
    scope.ge(bits, scope.word(0x80000000)),
    scope.sub(scope.word(0xffffffff), bits),
    scope.add(bits, scope.word(0x80000000)),
  );
  const steps = Math.ceil(Math.log2(limits.length + 1));
  const padded = new Uint32Array(2 ** steps).fill(0xffffffff);
  limits.forEach((limit, i) => (padded[i] = limit + 2 ** 31));
  const table = scope.array(padded);
  let low = scope.word(0);
  for (let step = 2 ** steps / 2; step >= 1; step /= 2) {
    const index = scope.cast(scope.add(low, scope.word(step - 1)), "int32");
    const limit = scope.take(table, index);
    const above = scope.both(
      scope.le(limit, ordered),
      scope.lt(limit, scope.word(0xffffffff)),
    );
    low = scope.where(above, scope.add(low, scope.word(step)), low);
  }
  return low;
}

/** Stochastic rounding: the entry above, by chance. */
function roundUp(
  scope: Scope,
  x: Tensor,
  codes: Tensor,
  format: QuantizedFormat,
  random: () => Tensor,
): Tensor {
  const { inverseGaps } = makeCoder(format);
  const index = scope.cast(codes, "int32");
  const above = scope.sub(x, scope.take(scope.array(table(format)), index));
  const gaps = new Float32Array(2 ** storedBits(format.bits));
  gaps.set(inverseGaps);
  const chance = scope.mul(above, scope.take(scope.array(gaps), index));
  const drawn = scope.mul(
    scope.cast(
      scope.cast(scope.shiftRight(random(), scope.word(8)), "int32"),
      "float32",
    ),
    scope.float(2 ** -24),
  );
  return scope.where(
    scope.lt(drawn, chance),
    scope.add(codes, scope.word(1)),
    codes,
  );
}

/** As formats/random.ts: 32 bits for each element. */
function randomBits(
  scope: Scope,
  key: Tensor,
  start: number,
  length: number,
): Tensor {
  const index = scope.add(scope.range(length), scope.word(start));
  return mixWords(
    scope,
    scope.xor(multiply(scope, index, indexMultiplier), key),
  );
}

/** The mixer of formats/random.ts. */
export function mixWords(scope: Scope, x: Tensor): Tensor {
  const fold = (value: Tensor, by: number) =>
    scope.xor(value, scope.shiftRight(value, scope.word(by)));
  const first = multiply(scope, fold(x, 16), 0x85ebca6b);
  return fold(multiply(scope, fold(first, 13), 0xc2b2ae35), 16);
}

/** The low 32 bits of a sum: jax-js's cpu backend computes words as float64. */
const wrap = (scope: Scope, x: Tensor): Tensor =>
  scope.and(x, scope.word(0xffffffff));

/** The low 32 bits of a product, from halves that stay exact in float64. */
function multiply(scope: Scope, x: Tensor, by: number): Tensor {
  const low = scope.and(x, scope.word(0xffff));
  const high = scope.shiftRight(x, scope.word(16));
  const factor = scope.word(by);
  const carried = scope.shiftLeft(
    scope.and(scope.mul(high, factor), scope.word(0xffff)),
    scope.word(16),
  );
  return wrap(scope, scope.add(scope.mul(low, factor), carried));
}
