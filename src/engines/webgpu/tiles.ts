/**
 * Where an element's two scales are with rank-1 scales, of the whole tensor or
 * inside tiles; as WGSL indices into the two lists of a state.
 */
import type { QuantizedFormat } from "../../formats/format.ts";

const across = (columns: string, side: number) =>
  `((${columns} + ${side - 1}u) >> ${Math.log2(side)}u)`;

/** Of an element, or of four in a row that begin at a multiple of four. */
export const leadIndex = (
  { scale, blockSize }: QuantizedFormat,
  row: string,
  column: string,
): string =>
  scale === "rank1"
    ? row
    : `${row} * ${across("here.columns", blockSize)} + ((${column}) >> ${Math.log2(blockSize)}u)`;

export const lastIndex = (
  { scale, blockSize }: QuantizedFormat,
  row: string,
  column: string,
): string =>
  scale === "rank1"
    ? column
    : `((${row}) >> ${Math.log2(blockSize)}u) * here.columns + ${column}`;

/** The least scales of the four elements of `cells`, the lists being at `lead` and `last`. */
export function leastScales(
  { scale, blockSize }: QuantizedFormat,
  lead: string,
  last: string,
  cells: string,
): string {
  if (scale === "rank1")
    return `min(small_row(${lead}, ${cells}.row, ${cells}), small_column(${last}, ${cells}.column, ${cells}))`;
  const log = `vec4u(${Math.log2(blockSize)}u)`;
  const row = `${cells}.row * ${across("here.columns", blockSize)} + (${cells}.column >> ${log})`;
  const column = `(${cells}.row >> ${log}) * here.columns + ${cells}.column`;
  // Four elements of one row may be of two tiles.
  return `min(gather(${lead} + ${row}), small_column(${last}, ${column}, ${cells}))`;
}
