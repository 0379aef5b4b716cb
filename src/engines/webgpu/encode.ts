/**
 * Encoding by table in a shader: the add-with-carry table of formats/encode.ts
 * made small enough for workgroup memory.
 *
 * A table over the upper bits of a float32 that separates 8-bit codes has 2^15
 * entries, and its live part still 11 KiB a state: read from a storage buffer
 * it held the step at 90 % of copy bandwidth, in workgroup memory it left no
 * room for other workgroups and took 3 times as long. But only the octaves in
 * which codes lie dense need many entries. Here each octave (and sign) has a
 * shift of its own, and a first small table gives it: some 400 entries a state,
 * and still exact for every float32.
 */
import { encodeWith, bitsFloat, floatBits } from "../../formats/encode.ts";

/** Both tables, as a shader reads them. */
export interface OctaveTable {
  readonly kind: "octaves";
  /**
   * One for each octave, positive then negative: (offset << 5) | shift. The
   * entry of magnitude bits b is `entries[offset + (b >> shift)]`. As a pair of
   * words it took longer: reads of workgroup memory are what a step waits for.
   */
  readonly octaves: Int32Array<ArrayBuffer>;
  /** code(x) = |(b + entry) >> 23|, with b the magnitude bits of x. */
  readonly entries: Int32Array<ArrayBuffer>;
  /** Biased exponent of the lowest octave; smaller magnitudes count as its start. */
  readonly lowest: number;
  /** Octaves of one sign. */
  readonly count: number;
  /** When every octave has the same shift, and the first table is not needed. */
  readonly shift: number | undefined;
  readonly signed: boolean;
  /** Codes of +0 and -0 where they differ from those of the smallest numbers of their sign. */
  readonly zero: number | undefined;
  readonly negativeZero: number | undefined;
}

/** Where thresholds lie too close for a table: found by bisection in the shader. */
export interface SearchTable {
  readonly kind: "search";
  /** Ordered bits, see formats/encode.ts. */
  readonly limits: Int32Array<ArrayBuffer>;
}

export type ShaderTable = OctaveTable | SearchTable;

const octaveBits = 23;
const topExponent = 127; // of 1.0
/** Finer than this, and the table would be larger than a search is slow. */
const smallestShift = 13;
/** With at most this many entries a uniform table is smaller than two tables are slow. */
const fewEntries = 512;

/** The smallest table that is exact for these thresholds. */
export function shaderTable(limits: Int32Array, signed: boolean): ShaderTable {
  const lowest = lowestOctave(limits);
  const halves = signed ? [0, 1] : [0];
  const octaves = halves.flatMap((half) =>
    Array.from({ length: topExponent - lowest + 1 }, (_, i) =>
      coarsestOctave(limits, half, lowest + i),
    ),
  );
  if (octaves.some((octave) => octave === undefined))
    return { kind: "search", limits: Int32Array.from(limits) };
  const shifts = octaves.map((octave) => octave!.shift);
  const finest = Math.min(...shifts);
  // Every octave has as many entries as the finest needs, 1.0 has one.
  const perHalf = ((topExponent - lowest) << (octaveBits - finest)) + 1;
  const uniform = perHalf * halves.length <= fewEntries;
  const entries: number[] = [];
  const packed = octaves.map((octave, i) => {
    const exponent = lowest + (i % (topExponent - lowest + 1));
    const half = i < topExponent - lowest + 1 ? 0 : 1;
    const { shift, values } = uniform
      ? makeOctave(limits, half, exponent, finest)!
      : octave!;
    const offset = entries.length - ((exponent << octaveBits) >>> shift);
    entries.push(...values);
    return (offset << 5) | shift;
  });
  const tiny = bitsFloat(lowest << octaveBits);
  const special = (zero: number, near: number) => {
    const code = encodeWith(limits, zero);
    return code === encodeWith(limits, near) ? undefined : code;
  };
  return {
    kind: "octaves",
    octaves: Int32Array.from(packed),
    entries: Int32Array.from(entries),
    lowest,
    count: topExponent - lowest + 1,
    shift: uniform ? finest : undefined,
    signed,
    zero: special(0, tiny),
    negativeZero: signed ? special(-0, -tiny) : undefined,
  };
}

/** The octave below the smallest threshold that is not at zero. */
const lowestOctave = (limits: Int32Array): number =>
  Math.max(1, (leastMagnitude(limits) >>> octaveBits) - 1);

/** Bits of the least magnitude of a threshold, at most 1; thresholds beside 0 do not count. */
export function leastMagnitude(limits: Int32Array): number {
  let least = floatBits(1);
  for (const limit of limits) {
    const magnitude = limit >= 0 ? limit : -limit - 1;
    if (magnitude > 1 && magnitude < least) least = magnitude;
  }
  return least;
}

function coarsestOctave(limits: Int32Array, half: number, exponent: number) {
  for (let shift = octaveBits; shift >= smallestShift; shift--) {
    const octave = makeOctave(limits, half, exponent, shift);
    if (octave) return octave;
  }
  return undefined;
}

/** The entries of an octave, or undefined when an entry would hold two thresholds. */
function makeOctave(
  limits: Int32Array,
  half: number,
  exponent: number,
  shift: number,
): { shift: number; values: number[] } | undefined {
  // Magnitudes above 1 share the entry of 1.
  const count = exponent === topExponent ? 1 : 2 ** (octaveBits - shift);
  const values: number[] = [];
  for (let k = 0; k < count; k++) {
    const start = exponent * 2 ** octaveBits + k * 2 ** shift;
    const last = exponent === topExponent ? start : start + 2 ** shift - 1;
    const low = codeAt(limits, half === 0 ? start : -start - 1);
    const high = codeAt(limits, half === 0 ? last : -last - 1);
    if (Math.abs(high - low) > 1) return undefined;
    // Negative codes are counted as negative numbers: with growing magnitude
    // the sum then grows by a carry on both sides.
    const field = half === 0 ? low : -low;
    const carryAt =
      low === high
        ? start + 2 ** octaveBits
        : half === 0
          ? limits[low]!
          : -limits[high]!;
    values.push(((field + 1) * 2 ** octaveBits - carryAt) | 0);
  }
  return { shift, values };
}

function codeAt(limits: Int32Array, ordered: number): number {
  let low = 0;
  let high = limits.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (limits[middle]! <= ordered) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Words that a table takes. */
export function tableWords(table: ShaderTable): number[] {
  if (table.kind === "search") return [...table.limits];
  return table.shift === undefined
    ? [...table.octaves, ...table.entries]
    : [...table.entries];
}

/**
 * `fn <name>(x: f32) -> u32`, the code of a value. Magnitude and lower limit
 * are one float operation, since integers run at half the rate.
 *
 * @param at index of the table's first word; `entry(i)` reads a word as i32.
 */
export function encodeFunction(
  name: string,
  table: ShaderTable,
  at: number,
): string {
  if (table.kind === "search") return searchFunction(name, table, at);
  const { lowest, count, shift, signed, entries } = table;
  // An unsigned state that a formula makes negative is coded as its lowest.
  const low = `0x1p${lowest - 127}f`;
  const magnitude = `bitcast<u32>(max(${signed ? "abs(x)" : "x"}, ${low}))`;
  const half = (size: number) =>
    signed ? ` + (bitcast<u32>(x) >> 31u) * ${size}u` : "";
  const lookup =
    shift === undefined
      ? `
  let octave = entry(${at}u + (magnitude >> 23u) - ${lowest}u${half(count)});
  let found = entry(${at + table.octaves.length}u + u32(i32(magnitude >> u32(octave & 31)) + (octave >> 5u)));`
      : `
  let found = entry(${at}u + (magnitude >> ${shift}u) - ${(lowest << octaveBits) >>> shift}u${half(entries.length / 2)});`;
  return `fn ${name}(x: f32) -> u32 {
  let magnitude = ${magnitude};${lookup}
  let code = u32(${signed ? "abs((bitcast<i32>(magnitude) + found) >> 23u)" : "(bitcast<i32>(magnitude) + found) >> 23u"});
  return ${withZeros("code", table)};
}`;
}

function withZeros(code: string, { zero, negativeZero }: OctaveTable): string {
  if (zero !== undefined)
    code = `select(${code}, ${zero}u, bitcast<u32>(x) == 0u)`;
  if (negativeZero !== undefined)
    code = `select(${code}, ${negativeZero}u, bitcast<u32>(x) == 0x80000000u)`;
  return code;
}

function searchFunction(name: string, { limits }: SearchTable, at: number) {
  return `fn ${name}(x: f32) -> u32 {
  let bits = bitcast<i32>(x);
  let ordered = select(-(bits & 0x7fffffff) - 1, bits, bits >= 0);
  var low = 0u;
  var high = ${limits.length}u;
  while (low < high) {
    let middle = (low + high) / 2u;
    if (entry(${at}u + middle) <= ordered) { low = middle + 1u; } else { high = middle; }
  }
  return low;
}`;
}

/** The code through a table, as the shader finds it; for tests. */
export function encodeInShader(table: ShaderTable, x: number): number {
  if (table.kind === "search") return encodeWith(table.limits, x);
  const bits = floatBits(x);
  const negative = table.signed && bits < 0 ? 1 : 0;
  const positive = !table.signed && bits < 0 ? 0 : bits & 0x7fffffff;
  const magnitude = Math.min(
    Math.max(positive, table.lowest * 2 ** octaveBits),
    topExponent * 2 ** octaveBits,
  );
  const octave =
    table.octaves[
      (magnitude >>> octaveBits) - table.lowest + negative * table.count
    ]!;
  const found = table.entries[(magnitude >>> (octave & 31)) + (octave >> 5)]!;
  if (bits === 0 && table.zero !== undefined) return table.zero;
  if (Object.is(x, -0) && table.negativeZero !== undefined)
    return table.negativeZero;
  return Math.abs(((magnitude + found) | 0) >> octaveBits);
}
