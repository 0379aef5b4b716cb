/**
 * Values that are not per element: how many a tensor has of them, for its matrices,
 * rows or columns, and which of them an element reads.
 */
import type { Shape } from "./program.ts";

/** A tensor's last two axes, and how many such matrices it holds. */
export interface Geometry {
  readonly matrices: number;
  readonly rows: number;
  readonly columns: number;
}

/** The geometry of a shape; fewer than two axes count as one row. */
export function geometryOf(shape: readonly number[]): Geometry {
  const columns = shape.at(-1) ?? 1;
  const rows = shape.at(-2) ?? 1;
  const matrices = shape.slice(0, -2).reduce((product, n) => product * n, 1);
  return { matrices, rows, columns };
}

/** How many values a shape has in a tensor. */
export function shapeLength(shape: Shape, geometry: Geometry): number {
  const { matrices, rows, columns } = geometry;
  switch (shape) {
    case "one":
      return 1;
    case "matrix":
      return matrices;
    case "row":
      return matrices * rows;
    case "column":
      return matrices * columns;
    case "element":
      return matrices * rows * columns;
  }
}

/** Index into the values of a shape, of the element at a flat index. */
export function elementTo(
  shape: Shape,
  { rows, columns }: Geometry,
): (element: number) => number {
  switch (shape) {
    case "one":
      return () => 0;
    case "matrix":
      return (i) => Math.floor(i / (rows * columns));
    case "row":
      return (i) => Math.floor(i / columns);
    case "column":
      return (i) => Math.floor(i / (rows * columns)) * columns + (i % columns);
    case "element":
      return (i) => i;
  }
}
