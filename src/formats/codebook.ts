/**
 * Codebooks: sorted float32 tables from code to value in [-1, 1] ([0, 1] when
 * unsigned). All of them are made here from their definition, and tests hold
 * them to tables recorded from the Python libraries.
 */

/** Codebooks that are defined by a name; `quantile` needs data, see {@link quantileCodebook}. */
export const codebookNames = [
  "dynamic",
  "dynamic-nozero",
  "linear",
  "linear-nozero",
  "power-2",
  "power-3",
  "log",
  "nf4",
  "fp4",
  "fp8-e4m3",
  "fp8-e5m2",
] as const;
/** A name of {@link codebookNames}. */
export type CodebookName = (typeof codebookNames)[number];

export interface CodebookOptions {
  /** Bits of a code, 2..8. Default 8 (4 for nf4 and fp4, whose width is fixed). */
  readonly bits?: number;
  /** Whether values have both signs. Default true, but for log. */
  readonly signed?: boolean;
}

const f32 = (x: number) => Math.fround(x);

/** Which bits a codebook comes in, and whether it has an unsigned form. */
const families: Readonly<
  Record<
    CodebookName,
    {
      readonly bits: readonly [number, number];
      readonly signs: "both" | "signed" | "unsigned";
      readonly make: (bits: number, signed: boolean) => number[];
    }
  >
> = {
  dynamic: { bits: [2, 8], signs: "both", make: dynamic },
  "dynamic-nozero": {
    bits: [2, 8],
    signs: "both",
    make: (bits, signed) =>
      dynamic(bits, signed).filter((value) => value !== 0),
  },
  linear: { bits: [2, 8], signs: "both", make: linear },
  "linear-nozero": { bits: [2, 8], signs: "both", make: linearNozero },
  "power-2": { bits: [2, 8], signs: "both", make: powers(2) },
  "power-3": { bits: [2, 8], signs: "both", make: powers(3) },
  log: { bits: [2, 8], signs: "unsigned", make: logarithmic },
  nf4: { bits: [4, 4], signs: "signed", make: () => [...nf4] },
  fp4: { bits: [4, 4], signs: "signed", make: fp4 },
  "fp8-e4m3": { bits: [8, 8], signs: "signed", make: () => fp8(4, 3) },
  "fp8-e5m2": { bits: [8, 8], signs: "signed", make: () => fp8(5, 2) },
};

/**
 * A codebook by name; docs/formats.md says where each comes from.
 *
 * @param options Default: the most bits it comes in, with a sign where it has one.
 * @returns at most 2^bits float32 values, ascending.
 * @throws TypeError for an unknown name, RangeError for bits or signs that the
 * codebook does not come in.
 */
export function codebook(
  name: CodebookName | (string & {}),
  { bits, signed: given }: CodebookOptions = {},
): Float32Array<ArrayBuffer> {
  const family = families[name as CodebookName];
  if (!Object.hasOwn(families, name) || !family)
    throw new TypeError(
      name === "quantile"
        ? "codebook: 'quantile' is estimated from data; pass { codebook: quantileCodebook(sample) } instead of its name"
        : `codebook: unknown codebook '${name}'; there are ${codebookNames.join(", ")}`,
    );
  const [low, high] = family.bits;
  const width = bits ?? high;
  if (!Number.isInteger(width) || width < low || width > high)
    throw new RangeError(
      `codebook: '${name}' comes in ${low === high ? low : `${low} to ${high}`} bits, given ${String(width)}`,
    );
  const signed = given ?? family.signs !== "unsigned";
  if (signed && family.signs === "unsigned")
    throw new RangeError(
      `codebook: '${name}' is unsigned only; use dynamic, nf4 or linear-nozero for a state with a sign`,
    );
  if (!signed && family.signs === "signed")
    throw new RangeError(
      `codebook: '${name}' is signed only; use dynamic, linear-nozero or dynamic-nozero for a state without a sign`,
    );
  return Float32Array.from(family.make(width, signed)).sort();
}

/**
 * torch.linspace in float32, symmetric about the middle and with a fused
 * multiply-add; the recorded codebooks come from it, to the last bit.
 */
function linspace(start: number, end: number, count: number): number[] {
  const step = f32(f32(f32(end) - f32(start)) / f32(count - 1));
  return Array.from({ length: count }, (_, i) =>
    i < count >> 1
      ? f32(f32(start) + step * i)
      : f32(f32(end) - step * (count - 1 - i)),
  );
}

/**
 * Dynamic (tree) map of paper 1, section 1.3, as bitsandbytes' create_dynamic_map
 * makes it; at 4 bits it equals the dynamic exponent map of paper 2.
 */
function dynamic(bits: number, signed: boolean): number[] {
  const exponents = bits - 1;
  const values = [0, 1];
  for (let i = 0; i < exponents; i++) {
    const edges = linspace(0.1, 1, 2 ** (signed ? i : i + 1) + 1);
    const scale = f32(10 ** (i - exponents + 1));
    for (let j = 0; j + 1 < edges.length; j++) {
      const value = f32(scale * f32(f32(edges[j]! + edges[j + 1]!) / 2));
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  return values;
}

/**
 * bitsandbytes' create_linear_map: when signed, 2^bits - 1 points from -1 to 1
 * with a zero inserted below the middle one (which float32 leaves a hair above 0).
 */
function linear(bits: number, signed: boolean): number[] {
  if (!signed) return linspace(0, 1, 2 ** bits);
  const points = linspace(-1, 1, 2 ** bits - 1);
  points.splice(points.length >> 1, 0, 0);
  return points;
}

/** Paper 2, section 4.1: (k + 1) / 2^bits, so that 0 is not a value. */
function linearNozero(bits: number, signed: boolean): number[] {
  if (!signed)
    return Array.from({ length: 2 ** bits }, (_, k) => (k + 1) / 2 ** bits);
  const half = linearNozero(bits - 1, false);
  return [...half, ...half.map((value) => -value)];
}

/**
 * Powers of evenly spaced points, without a zero, as in paper 2's code:
 * ((k + 1) / 2^bits)^p, and when signed sign(x) |x|^p of 2^bits points from -1
 * to 1. With p = 1 the unsigned one is linear-nozero.
 */
function powers(p: number) {
  return (bits: number, signed: boolean): number[] =>
    signed
      ? linspace(-1, 1, 2 ** bits).map((x) => Math.sign(x) * Math.abs(x) ** p)
      : linearNozero(bits, false).map((x) => x ** p);
}

/** The smallest value of the logarithmic map: at 2 bits its values are decades. */
const smallestLog = 1e-3;

/**
 * Evenly spaced on a logarithmic scale, without a zero: SOLO's map (arXiv
 * 2505.00347), alpha^k with alpha^(2^bits - 1) = 1e-3. SOLO takes alpha from a
 * quantile of each block and stores it beside the scale; here it is fixed, which
 * needs no second number a block. See docs/formats.md.
 */
function logarithmic(bits: number): number[] {
  const top = 2 ** bits - 1;
  return Array.from(
    { length: top + 1 },
    (_, k) => smallestLog ** ((top - k) / top),
  );
}

/** NormalFloat4, QLoRA (arXiv 2305.14314), appendix E. */
const nf4 = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
  -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
  0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
  0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
  0.7229568362236023, 1.0,
];

/** bitsandbytes' 4-bit float: sign, 2 exponent bits, 1 fraction bit, over 12. */
function fp4(): number[] {
  const half = [0.0625, 2, 3, 4, 6, 8, 12].map((value) => value / 12);
  return [0, ...half, ...half.map((value) => -value)];
}

/**
 * bitsandbytes' create_fp8_map, signed: every exponent pattern is a number
 * (none is kept for infinities), the largest value is scaled to 1, and the
 * subnormals lie where that function puts them. Its two zeros are both kept.
 */
function fp8(exponentBits: number, fractionBits: number): number[] {
  const bias = 2 ** (exponentBits - 1);
  const fractions = 2 ** fractionBits;
  const values: number[] = [];
  for (let exponent = 0; exponent < 2 ** exponentBits; exponent++)
    for (let fraction = 0; fraction < fractions; fraction++) {
      const value =
        exponent === 0
          ? (fraction / fractions) * 2 ** (1 - bias)
          : (1 + fraction / fractions) * 2 ** (bias + 2 - exponent);
      values.push(value, -value);
    }
  const largest = Math.max(...values);
  // Both zeros count as +0: a codebook has one zero value, here at two codes.
  return values.map((value) => (value === 0 ? 0 : f32(value / largest)));
}

/**
 * Quantiles of the data as a codebook (paper 1, appendix; bitsandbytes'
 * estimate_quantiles): the mean over chunks of 4096 elements of each chunk's
 * sample quantiles, divided by the largest magnitude.
 *
 * @param bits 2..8; default 8.
 * @param offset trimmed at each end, as a fraction; default 1 / 2^(bits + 1).
 * @throws RangeError when there are fewer finite elements than codes.
 */
export function quantileCodebook(
  data: ArrayLike<number>,
  {
    bits = 8,
    offset = 1 / 2 ** (bits + 1),
  }: { bits?: number; offset?: number } = {},
): Float32Array<ArrayBuffer> {
  const count = 2 ** bits;
  if (!Number.isInteger(bits) || bits < 2 || bits > 8)
    throw new RangeError(
      `quantileCodebook: bits must be 2 to 8, given ${bits}`,
    );
  const values = Float32Array.from(data);
  if (values.length < count || !values.every(Number.isFinite))
    throw new RangeError(
      `quantileCodebook: needs at least ${count} finite values, given ${values.length}${values.every(Number.isFinite) ? "" : " with some not finite"}`,
    );
  const chunkSize = Math.min(4096, values.length);
  const chunks = Math.floor(values.length / chunkSize);
  const sums = new Float64Array(count);
  for (let c = 0; c < chunks; c++) {
    const chunk = values.slice(c * chunkSize, (c + 1) * chunkSize).sort();
    for (let q = 0; q < count; q++) {
      const rank = offset + (q * (1 - 2 * offset)) / (count - 1);
      sums[q]! += chunk[Math.round(rank * (chunkSize - 1))]!;
    }
  }
  const largest = sums.reduce((max, sum) => Math.max(max, Math.abs(sum)), 0);
  return Float32Array.from(sums, (sum) =>
    largest > 0 ? sum / largest : 0,
  ).sort();
}
