/**
 * Counter-based random numbers for stochastic rounding: a hash of (key, element
 * index), so that every engine draws the same number for the same element
 * whatever its order or number of threads. The mixer is the 32-bit finalizer of
 * MurmurHash3.
 */
export function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return (x ^ (x >>> 16)) >>> 0;
}

/** One key for each (seed, step, tensor, state); a 32-bit unsigned integer. */
export function randomKey(seed: number, ...counters: number[]): number {
  let key = mix((seed >>> 0) ^ 0x9e3779b9);
  for (const counter of counters)
    key = mix(key ^ mix((counter >>> 0) + 0x9e3779b9));
  return key;
}

/** Spreads neighbouring element indices before they are mixed. */
export const indexMultiplier = 0x9e3779b1;

/** 32 random bits for an element. */
export function hash(key: number, index: number): number {
  return mix(Math.imul(index, indexMultiplier) ^ key);
}

/** Uniform in [0, 1) with 24 bits, exact in float32. */
export function uniform(key: number, index: number): number {
  return (hash(key, index) >>> 8) * 2 ** -24;
}
