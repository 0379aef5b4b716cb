/**
 * From a value in [-1, 1] to its code, exactly, by table instead of search.
 *
 * The thresholds between codes are found first, as order-preserving integers of
 * float32 bits; the table is built from them, and so carries every tie rule
 * and the sign rule of bitsandbytes without knowing it.
 */
const bitsView = /* @__PURE__ */ new Int32Array(1);
const floatView = /* @__PURE__ */ new Float32Array(bitsView.buffer);

/** The bits of a float32, as a signed 32-bit integer. */
export function floatBits(x: number): number {
  floatView[0] = x;
  return bitsView[0]!;
}

/** The float32 with these bits. */
export function bitsFloat(bits: number): number {
  bitsView[0] = bits;
  return floatView[0]!;
}

/** Order-preserving integer of a float32: ... -0 is -1, +0 is 0 ... */
export const orderedBits = (x: number): number => {
  const bits = floatBits(x);
  return bits >= 0 ? bits : -(bits & 0x7fffffff) - 1;
};

/** Which neighbour a value is coded by. */
export type Rounding =
  /** The nearest entry; a value on the midpoint takes the lower one. */
  | "nearest"
  /** The nearest, but never one of the other sign: bitsandbytes' rule for m. */
  | "nearest-keep-sign"
  /** The largest entry not above the value; what stochastic rounding starts from. */
  | "down";

/**
 * thresholds[k] is the {@link orderedBits} of the smallest float32 whose code
 * is greater than k. There is one less than there are codes.
 */
export function thresholds(
  codebook: Float32Array,
  rounding: Rounding,
): Int32Array<ArrayBuffer> {
  const result = new Int32Array(Math.max(0, codebook.length - 1));
  for (let k = 0; k < result.length; k++) {
    const lower = codebook[k]!;
    const upper = codebook[k + 1]!;
    if (rounding === "down") {
      result[k] = orderedBits(upper === 0 ? -0 : upper);
      continue;
    }
    // In float32: the sum of two float32 is rounded once, halving is exact.
    const midpoint = Math.fround(Math.fround(lower + upper) / 2);
    result[k] = orderedBits(midpoint === 0 ? 0 : midpoint) + 1;
    if (rounding === "nearest-keep-sign") {
      // A negative value must not become 0 or more, -0 included; a positive
      // value that rounds to +0 already has its sign there.
      if (lower < 0 && upper >= 0) result[k] = 0;
    }
  }
  return result;
}

/** The code of a value, by bisection over the thresholds; NaN gets code 0. */
export function encodeWith(limits: Int32Array, x: number): number {
  if (x !== x) return 0;
  const ordered = orderedBits(x);
  let low = 0;
  let high = limits.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (limits[middle]! <= ordered) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** A table for {@link encodeByTable}. */
export interface EncodeTable {
  /** One entry for every value of the upper bits of a float32. */
  readonly entries: Int32Array<ArrayBuffer>;
  /** How many low bits of a float32 share an entry. */
  readonly shift: number;
  /** Whether the sum may be negative, so that its magnitude must be taken. */
  readonly signed: boolean;
}

const oneBits = 0x3f800000;

/**
 * The add-with-carry table: code(x) = |(bits(x) + entries[bits(x) >>> shift]) >> shift|
 * with wrapping addition and arithmetic shift, exact for every float32 in
 * [-1, 1] ([0, 1] unsigned) and saturating beyond.
 *
 * A bucket of 2^shift floats holds at most one threshold. Its entry puts the
 * code of the bucket's small-magnitude end into the upper bits and places the
 * lower bits so that the addition carries just when x reaches the threshold.
 * On the negative side codes are counted as negative numbers, since magnitude
 * and code run in opposite directions there.
 *
 * @returns undefined when two thresholds are so close that no table of a
 * reasonable size separates them: in codebooks made from data, and with
 * rounding down where an entry is there twice (fp8's zeros, 2-bit linear).
 */
export function encodeTable(
  limits: Int32Array,
  signed: boolean,
  /** Largest table: 2^15 entries serve all named codebooks. */
  smallestShift = signed ? 17 : 16,
): EncodeTable | undefined {
  for (let shift = signed ? 17 : 16; shift >= smallestShift; shift--) {
    const entries = tryTable(limits, signed, shift);
    if (entries) return { entries, shift, signed };
  }
  return undefined;
}

function tryTable(
  limits: Int32Array,
  signed: boolean,
  shift: number,
): Int32Array<ArrayBuffer> | undefined {
  const width = 2 ** shift;
  const half = 2 ** (31 - shift);
  const entries = new Int32Array(2 * half);
  const lastBucket = oneBits >>> shift;
  const top = limits.length;
  const codeAt = (ordered: number) => {
    let low = 0;
    let high = top;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (limits[middle]! <= ordered) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const entry = (code: number, carryAt: number, index: number) =>
    (code * width + width - carryAt - index * width) | 0;

  for (let bucket = 0; bucket < half; bucket++) {
    const first = bucket * width;
    if (bucket > lastBucket) {
      entries[bucket] = entry(top, width, bucket);
      entries[half + bucket] = entry(0, width, half + bucket);
      continue;
    }
    const last = Math.min(first + width - 1, oneBits + 8);
    const low = codeAt(first);
    const high = codeAt(last);
    if (high - low > 1) return undefined;
    const carryAt = high > low ? limits[low]! - first : width;
    entries[bucket] = entry(low, carryAt, bucket);
    if (!signed) {
      // An unsigned state that a formula makes negative is coded as its lowest.
      entries[half + bucket] = entry(0, width, half + bucket);
      continue;
    }
    // Magnitude bits b of a negative x have the ordered integer -b - 1.
    const small = codeAt(-first - 1);
    const large = codeAt(-last - 1);
    if (small - large > 1) return undefined;
    const fallAt = small > large ? -limits[large]! - first : width;
    entries[half + bucket] = entry(-small, fallAt, half + bucket);
  }
  return entries;
}

/** The code of a value through an {@link EncodeTable}. */
export function encodeByTable(table: EncodeTable, x: number): number {
  const bits = floatBits(x);
  return Math.abs(
    ((bits + table.entries[bits >>> table.shift]!) | 0) >> table.shift,
  );
}
