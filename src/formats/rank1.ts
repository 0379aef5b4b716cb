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

/** Rows and columns of the matrix that tiles are cut from. */
function tileGeometry(shape: readonly number[], side: number) {
  const columns = shape.at(-1) ?? 1;
  const rows =
    columns === 0 ? 0 : shape.reduce((product, n) => product * n, 1) / columns;
  const across = Math.ceil(columns / side);
  return { rows, columns, across, down: Math.ceil(rows / side) };
}

/**
 * How many scales a shape has in tiles: one a row of each tile, in the order of
 * rows, then one a column of each tile, in the order of tiles' rows.
 */
export function tileCount(shape: readonly number[], side: number): number {
  const { rows, columns, across, down } = tileGeometry(shape, side);
  return rows * across + down * columns;
}

/** How many of them are rows'. */
export function tileRowCount(shape: readonly number[], side: number): number {
  const { rows, across } = tileGeometry(shape, side);
  return rows * across;
}

/**
 * Lengths of the two lists that kernels read of a state: the least scale of all
 * axes but the last by row and the last axis' scales; or rows' and columns' scales
 * of tiles.
 */
export function twoLists(
  { scale, blockSize }: { readonly scale: string; readonly blockSize: number },
  shape: readonly number[],
): { rows: number; last: number } {
  if (scale !== "tile")
    return {
      rows: shape.slice(0, -1).reduce((product, n) => product * n, 1),
      last: shape.at(-1) ?? 1,
    };
  const rows = tileRowCount(shape, blockSize);
  return { rows, last: tileCount(shape, blockSize) - rows };
}

/** Places of an element's two scales. */
function tilePlaces(
  shape: readonly number[],
  side: number,
): (element: number) => readonly [row: number, column: number] {
  const { rows, columns, across } = tileGeometry(shape, side);
  return (element) => {
    const row = Math.floor(element / columns);
    const column = element % columns;
    return [
      row * across + Math.floor(column / side),
      rows * across + Math.floor(row / side) * columns + column,
    ];
  };
}

/**
 * Rank-1 scales inside tiles of side x side: 4-bit Muon-GRASP's grid
 * normalization (openreview g2l9bg9DWx), which paper 2 leaves as future work.
 */
export function tileScales(
  values: Float32Array,
  shape: readonly number[],
  side: number,
): Float32Array<ArrayBuffer> {
  const scales = new Float32Array(tileCount(shape, side));
  const places = tilePlaces(shape, side);
  values.forEach((value, element) => {
    const magnitude = Math.abs(value);
    for (const place of places(element))
      if (!(magnitude <= scales[place]!)) scales[place] = magnitude;
  });
  return scales;
}

/** The scale of every element. */
export function tileSpread(
  scales: Float32Array,
  shape: readonly number[],
  side: number,
): Float32Array<ArrayBuffer> {
  const size = shape.reduce((product, n) => product * n, 1);
  const places = tilePlaces(shape, side);
  return Float32Array.from({ length: size }, (_, element) => {
    const [row, column] = places(element);
    return Math.min(scales[row]!, scales[column]!);
  });
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
