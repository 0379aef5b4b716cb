import { randomKey, uniform } from "../formats/random.ts";

/** Largest magnitude of Xavier-uniform values for a matrix of this shape. */
const xavierBound = (rows: number, columns: number): number =>
  Math.sqrt(6 / (rows + columns));

/**
 * A matrix of numbers uniform in (-bound, bound), row by row (Glorot and Bengio,
 * 2010). The same seed gives the same matrix everywhere.
 */
export function xavierUniform(
  rows: number,
  columns: number,
  seed: number,
): Float32Array<ArrayBuffer> {
  const bound = xavierBound(rows, columns);
  const key = randomKey(seed);
  const values = new Float32Array(rows * columns);
  for (let i = 0; i < values.length; i++)
    // Half a step up, so that the numbers lie evenly around zero.
    values[i] = bound * (2 * (uniform(key, i) + 2 ** -25) - 1);
  return values;
}
