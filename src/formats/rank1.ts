/**
 * Rank-1 scales (paper 2, section 4.2 and algorithm 4): one largest magnitude for
 * each index of each axis; an element's scale is the least of its axes'. They
 * are stored one axis after the other.
 */

/** How many scales a shape has. */
export const rank1Count = (shape: readonly number[]): number =>
  shape.reduce((sum, n) => sum + n, 0);

/** Calls back with the index into the scales of every axis of every element, in order. */
function walk(
  shape: readonly number[],
  visit: (element: number, places: readonly number[]) => void,
): void {
  const starts: number[] = [];
  let start = 0;
  for (const n of shape) {
    starts.push(start);
    start += n;
  }
  const size = shape.reduce((product, n) => product * n, 1);
  const places = [...starts];
  for (let element = 0; element < size; element++) {
    visit(element, places);
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      if (++places[axis]! < starts[axis]! + shape[axis]!) break;
      places[axis] = starts[axis]!;
    }
  }
}

/** The scales of a tensor. */
export function rank1Scales(
  values: Float32Array,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  const scales = new Float32Array(rank1Count(shape));
  walk(shape, (element, places) => {
    const magnitude = Math.abs(values[element]!);
    for (const place of places)
      if (!(magnitude <= scales[place]!)) scales[place] = magnitude;
  });
  return scales;
}

/** The scale of every element. */
export function rank1Spread(
  scales: Float32Array,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  const size = shape.reduce((product, n) => product * n, 1);
  const spread = new Float32Array(size);
  walk(shape, (element, places) => {
    let least = Infinity;
    for (const place of places)
      if (scales[place]! < least) least = scales[place]!;
    spread[element] = least;
  });
  return spread;
}

/**
 * The scales of all axes but the last, from the largest magnitude of each row
 * (the elements that differ in the last axis alone).
 */
export function leadingScales(
  rows: Float32Array,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  return rank1Scales(rows, shape.slice(0, -1));
}

/** The least scale of all axes but the last, of each row. */
export const leadingSpread = (
  scales: Float32Array,
  shape: readonly number[],
): Float32Array<ArrayBuffer> => rank1Spread(scales, shape.slice(0, -1));
