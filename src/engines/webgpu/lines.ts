/**
 * Encoding by lines: between two thresholds a code is the nearest integer to a
 * line, and so it is wherever thresholds are equally spaced. A small table over
 * sign, exponent and upper mantissa bits of x gives a slope and an offset, and
 *
 *   code = round(slope * x + offset)
 *
 * takes one look-up, one fused multiply-add and one addition that rounds, 6
 * instructions in all, where the table of encode.ts takes 14 to 18. A step was
 * bound by instructions, not by look-ups: see bench/gpu/notes.md.
 *
 * A threshold lies within {@link tolerance} ulp of where it should: as far as a
 * device's division 1 / scale, by which x is made, may be off anyway.
 */
import { bitsFloat, encodeWith, floatBits } from "../../formats/encode.ts";
import { leastMagnitude } from "./encode.ts";
import { packIntegers } from "./steps.ts";

export interface LineTable {
  readonly kind: "lines";
  /** Slope and offset of each part. */
  readonly pairs: Float32Array<ArrayBuffer>;
  /** x is multiplied by this, a power of two, so that small exponents are left. */
  readonly scale: number;
  /**
   * The part of x: (bits + (bits >>> fold) + start) >>> shift, masked, which
   * brings the sign down to the exponent. Unsigned: max(bits + start, 0) >>> shift.
   */
  readonly fold: number | undefined;
  readonly shift: number;
  readonly start: number;
  /** Added to what the line gives. */
  readonly bias: number;
}

/** In ulp of x; see also {@link slackAt}. */
const tolerance = 3;
/** Upper mantissa bits of x that may choose the part. */
const mantissaBits = [1, 3];
/** Where parts may begin, as a fraction of their length. */
const starts = 64;
/** Parts: with more, look-ups in different banks took longer than the instructions saved. */
const most = 512;
const octave = 23;
const one = 0x3f800000;
/** 2^23: from here on an ulp is 1, and an addition rounds to an integer. */
const integers = 8388608;
const { fround } = Math;

const known = /* @__PURE__ */ new Map<string, LineTable | undefined>();

/**
 * The smallest table there is for these thresholds, or undefined. Looking for
 * one takes some 10 ms, so that each is looked for once.
 */
export function lineTable(
  limits: Int32Array,
  signed: boolean,
): LineTable | undefined {
  const key = `${signed} ${limits.join()}`;
  if (!known.has(key)) known.set(key, findTable(limits, signed));
  return known.get(key);
}

function findTable(limits: Int32Array, signed: boolean): LineTable | undefined {
  const tiny = bitsFloat(1);
  // Zeros have no part of their own.
  if (encodeWith(limits, 0) !== encodeWith(limits, tiny)) return undefined;
  if (signed && encodeWith(limits, -0) !== encodeWith(limits, -tiny))
    return undefined;
  for (const bits of mantissaBits)
    for (let i = 0; i < starts; i++) {
      const start = (2 ** (octave - bits) / starts) * i;
      const table = tryTable(limits, signed, bits, start);
      if (table) return table;
    }
  return undefined;
}

function tryTable(
  limits: Int32Array,
  signed: boolean,
  bits: number,
  start: number,
): LineTable | undefined {
  const lowest = leastMagnitude(limits) >>> octave;
  // Exponent 0, where a device may take numbers for 0, lies below an octave
  // without a threshold: parts need not begin where octaves do.
  const octaves = (one >>> octave) - lowest + 2;
  let exponentBits = Math.ceil(Math.log2(octaves + 1));
  const shift = octave - bits;
  const indexOf = (magnitude: number) => {
    const folded = signed ? Math.floor(magnitude / 2 ** (8 - exponentBits)) : 0;
    return Math.floor((magnitude + folded + start) / 2 ** shift);
  };
  // A scale and x may be an ulp or two off: numbers of little more than 1 are top as well.
  const lastOf = (top: number) => top * 2 ** octave + 16;
  const fits = (top: number) =>
    indexOf(lastOf(top)) < 2 ** (exponentBits + bits);
  while (!fits(octaves)) exponentBits++;
  // As large exponents as there is room for: slopes are as large as numbers are small.
  let top = octaves;
  while (fits(top + 1)) top++;
  const last = lastOf(top);
  const down = (one >>> octave) - top;
  const half = 2 ** (exponentBits + bits);
  if (exponentBits > 7 || half * (signed ? 2 : 1) > most) return undefined;
  // Lines near 0 are exact: the upper codes lie densest among the numbers there are.
  const bias = (limits.length + 1) >> (signed ? 1 : 2);
  const pairs = new Float32Array(2 * half * (signed ? 2 : 1));
  for (const sign of signed ? [1, -1] : [1])
    // From the top, where thresholds are least regular.
    for (let end = last + 1; end > 0;) {
      const part = indexOf(end - 1);
      const first = firstOf(indexOf, part, end);
      const line = fitLine(limits, sign, first, end - 1, down, bias);
      if (!line) return undefined;
      pairs.set(
        [line.slope * 2 ** down, line.offset],
        2 * (part + (sign < 0 ? half : 0)),
      );
      end = first;
    }
  return {
    kind: "lines",
    pairs,
    scale: 2 ** -down,
    fold: signed ? 8 - exponentBits : undefined,
    shift,
    start,
    bias,
  };
}

/** The least magnitude of a part, at most `end`. */
function firstOf(
  indexOf: (magnitude: number) => number,
  part: number,
  end: number,
): number {
  let low = 0;
  let high = end;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (indexOf(middle) >= part) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** From scaled magnitudes first to last, of a sign. */
function fitLine(
  limits: Int32Array,
  sign: number,
  first: number,
  last: number,
  down: number,
  bias: number,
): { slope: number; offset: number } | undefined {
  const unscaled = (magnitude: number) =>
    magnitude < 2 ** octave ? 0 : magnitude + down * 2 ** octave;
  const near = unscaled(first);
  const far = last < 2 ** octave ? bitsOfOctave(down) : unscaled(last);
  const [low, high] = sign > 0 ? [near, far] : [-far - 1, -near - 1];
  const lowCode = encodeWith(limits, ordered(low));
  const highCode = encodeWith(limits, ordered(high));
  const inside = limits.subarray(lowCode, highCode);
  if (inside.length === 0) return { slope: 0, offset: lowCode - bias };
  // Where x counts as 0 a line has no slope.
  if (first < 2 ** octave) return undefined;
  const middles = Array.from(
    inside,
    (limit) => (ordered(limit) + ordered(limit - 1)) / 2,
  );
  // A single threshold takes any line that is steep enough.
  const slope =
    inside.length === 1
      ? Math.min(
          0.9 /
            Math.max(ordered(high) - middles[0]!, middles[0]! - ordered(low)),
          2 ** (126 - down),
        )
      : slopeOf(middles);
  if (fround(slope * 2 ** down) === Infinity) return undefined;
  const x = (middles[0]! + middles.at(-1)!) / 2;
  const y = lowCode - bias + inside.length / 2;
  const slopeBits = floatBits(fround(slope));
  for (let i = 0; i < 40; i++) {
    const turned = bitsFloat(slopeBits + (i % 2 ? -1 : 1) * ((i + 1) >> 1));
    const offset = fround(y - turned * x);
    const code = (at: number) =>
      fround(fround(turned * ordered(at) + offset) + (integers + bias)) -
      integers;
    const right = inside.every((limit, j) => {
      const off = slackAt(limits, lowCode + j);
      return (
        code(limit + off) > lowCode + j && code(limit - 1 - off) <= lowCode + j
      );
    });
    if (right && code(low) >= lowCode && code(high) <= highCode)
      return { slope: turned, offset };
  }
  return undefined;
}

/** How far a threshold may be off, in ulp: a millionth of the codes' distance where that is more. */
function slackAt(limits: Int32Array, k: number): number {
  const at = (i: number) => ordered(limits[i]!);
  const gap = Math.min(
    k > 0 ? at(k) - at(k - 1) : Infinity,
    k + 1 < limits.length ? at(k + 1) - at(k) : Infinity,
  );
  const ulp = Math.abs(ordered(limits[k]! + 1) - at(k));
  return Math.max(tolerance, Math.min(64, Math.floor((gap / ulp) * 2 ** -20)));
}

/** The last number of the octave that counts as 0. */
const bitsOfOctave = (down: number) => (down + 1) * 2 ** octave - 1;

/** The number with this ordered integer, see formats/encode.ts. */
const ordered = (integer: number): number =>
  bitsFloat(integer >= 0 ? integer : (-integer - 1) | 0x80000000);

/** Thresholds a code apart: the slope of the line that fits them best. */
function slopeOf(middles: readonly number[]): number {
  const mean = middles.reduce((a, b) => a + b) / middles.length;
  const center = (middles.length - 1) / 2;
  let products = 0;
  let squares = 0;
  middles.forEach((x, j) => {
    products += (x - mean) * (j - center);
    squares += (x - mean) ** 2;
  });
  return products / squares;
}

/** The part of a scaled x. */
function partOf({ pairs, fold, shift, start }: LineTable, x: number): number {
  const bits = floatBits(x);
  const moved =
    fold === undefined
      ? Math.max(bits + start, 0)
      : bits + start + (bits >>> fold);
  return (moved >>> shift) & (pairs.length / 2 - 1);
}

/**
 * `encode_<name>(x: vec4f, index: u32) -> u32`: four codes of scaled numbers,
 * from the table `lines_<name>`.
 */
export function lineFunction(
  name: string,
  width: number,
  { pairs, fold, shift, start, bias }: LineTable,
): string {
  const moved =
    fold === undefined
      ? `vec4u(max(bitcast<vec4i>(x) + vec4i(${start}), vec4i(0)))`
      : `bits + (bits >> vec4u(${fold}u)) + vec4u(${start}u)`;
  const each = [0, 1, 2, 3];
  return `
fn encode_${name}(x: vec4f, index: u32) -> u32 {
  ${fold === undefined ? "" : "let bits = bitcast<vec4u>(x);"}
  let part = (${moved}) >> vec4u(${shift}u);
${each.map((i) => `  let line${i} = lines_${name}[part[${i}] % ${pairs.length / 2}u];`).join("\n")}
  let y = fma(vec4f(${each.map((i) => `line${i}.x`).join(", ")}), x, vec4f(${each.map((i) => `line${i}.y`).join(", ")}));
  let codes = bitcast<vec4u>(y + vec4f(${integers + bias}.0));
  return ${packIntegers("codes", width)};
}`;
}

/** The code of a value, as a shader finds it; for tests. */
export function encodeByLines(table: LineTable, x: number): number {
  const scaled = fround(x * table.scale);
  const part = partOf(table, scaled);
  const line = fround(
    table.pairs[2 * part]! * scaled + table.pairs[2 * part + 1]!,
  );
  return fround(line + (integers + table.bias)) - integers;
}
