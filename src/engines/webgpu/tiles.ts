/**
 * Where an element's two scales are with rank-1 scales, of the whole tensor or
 * inside tiles; as WGSL indices into the two lists of a state.
 */
import type { QuantizedFormat } from "../../formats/format.ts";
import { columnAt } from "./cells.ts";
import type { KernelShape } from "./kernel.ts";

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

/** The scales of an invocation's elements, for each quad the least of a row's and the columns'. */
export interface Rank1Scales {
  /** Statements that come first. */
  readonly before: string;
  /** The k-th quad's, a vec4f. */
  readonly of: (k: number) => string;
  /** No scale's bits are larger than these; undefined where that is not known. */
  readonly most?: string;
}

/**
 * @param which the scales before the step, or after it.
 * @param cells where the k-th quad lies, see cells.ts.
 */
export function rank1Scales(
  shape: KernelShape,
  format: QuantizedFormat,
  name: string,
  which: "old" | "next",
  cells: (k: number) => string,
): Rank1Scales {
  const next = which === "next" ? "_next" : "";
  const lead = `here.${name}${next}_lead`;
  const last = `here.${name}${next}_last`;
  if (!shape.oneRow)
    return {
      before: "",
      of: (k) => leastScales(format, lead, last, cells(k)),
    };
  const at = (k: number) =>
    [`${cells(k)}.row`, columnAt(shape, cells(k), k)] as const;
  const columns = (k: number) =>
    `small_columns(${last}, ${lastIndex(format, ...at(k))})`;
  const row = (k: number) =>
    `small_one(${lead} + ${leadIndex(format, ...at(k))})`;
  if (format.scale === "tile")
    return { before: "", of: (k) => `min(${row(k)}, ${columns(k)})` };
  return {
    before: `  let lead_${name} = ${row(0)};`,
    of: (k) => `min(lead_${name}, ${columns(k)})`,
    most: `bitcast<u32>(lead_${name}.x)`,
  };
}

/** The least scales of the four elements of `cells`, the lists being at `lead` and `last`. */
function leastScales(
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
