/** Numbers for tests: seeded random data, and distances between float32 arrays. */

/** Uniform in [0, 1) from a seed; mulberry32. */
export function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers from a seed. */
export function normals(
  length: number,
  seed: number,
  scale = 1,
): Float32Array<ArrayBuffer> {
  const random = randomSource(seed);
  const out = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    out[i] = scale * radius * Math.cos(2 * Math.PI * random());
  }
  return out;
}

/**
 * A gradient like those of the recordings: log-normal scales an element, some
 * elements that never receive any, and rare spikes.
 */
export function gradientAt(
  length: number,
  seed: number,
  step: number,
): Float32Array<ArrayBuffer> {
  // Most cases of a file take the same gradients.
  const key = `${length} ${seed} ${step}`;
  let made = gradients.get(key);
  if (!made) gradients.set(key, (made = makeGradient(length, seed, step)));
  return made.slice();
}

const gradients = new Map<string, Float32Array<ArrayBuffer>>();

function makeGradient(
  length: number,
  seed: number,
  step: number,
): Float32Array<ArrayBuffer> {
  const scales = normals(length, seed);
  const values = normals(length, seed * 7919 + step);
  const random = randomSource(seed + 17);
  return values.map((value, i) => {
    if (random() < 0.01) return 0;
    const spike = step % 7 === 2 && random() < 0.002 ? 200 : 1;
    return value * Math.exp(2 * scales[i]!) * 0.01 * spike;
  });
}

const view = new DataView(new ArrayBuffer(4));

/** An integer that grows with the float32; neighbours differ by 1, and -0 and +0 are equal. */
function ordinal(x: number): number {
  view.setFloat32(0, x);
  const bits = view.getInt32(0);
  return bits >= 0 ? bits : -(bits & 0x7fffffff);
}

/** How many float32 lie between two of them. */
export const ulps = (a: number, b: number): number =>
  Math.abs(ordinal(a) - ordinal(b));

/** The bits of an array, for comparisons that tell -0 from 0 and NaN from NaN. */
export const bitsOf = (values: Float32Array): Uint32Array =>
  new Uint32Array(values.slice().buffer);

/** How two arrays of codes differ. */
export function codeDistance(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
): { equal: number; furthest: number; at: number } {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} codes against ${expected.length}`);
  let different = 0;
  let furthest = 0;
  let at = -1;
  for (let i = 0; i < actual.length; i++) {
    const distance = Math.abs(actual[i]! - expected[i]!);
    if (distance > 0) different++;
    if (distance > furthest) [furthest, at] = [distance, i];
  }
  const equal = actual.length > 0 ? 1 - different / actual.length : 1;
  return { equal, furthest, at };
}

/** Largest |a - b| / |b| over elements, 0 / 0 counting as 0; Infinity where one is NaN. */
export function relativeDistance(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
): number {
  if (actual.length !== expected.length)
    throw new Error(`${actual.length} numbers against ${expected.length}`);
  let largest = 0;
  for (let i = 0; i < actual.length; i++) {
    const a = actual[i]!;
    const b = expected[i]!;
    if (Object.is(a, b) || a === b) continue;
    const distance = Math.abs(a - b) / Math.abs(b);
    largest = Math.max(largest, Number.isNaN(distance) ? Infinity : distance);
  }
  return largest;
}
