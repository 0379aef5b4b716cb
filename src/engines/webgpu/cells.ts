/** What is not per element, in an update: where elements lie in their matrix, and reads by row and column. */
import type { Shape } from "../../formula/program.ts";
import type { KernelShape } from "./kernel.ts";
import { smallBinding } from "./operands.ts";

/** Where elements lie in their matrix, and what is not per element, for four of them. */
export function cellFunctions(shape: KernelShape): string {
  return `
@group(0) @binding(${smallBinding}) var<storage, read> smalls: array<vec4f>;
fn gather(at: vec4u) -> vec4f {
  return vec4f(smalls[at.x / 4u][at.x % 4u], smalls[at.y / 4u][at.y % 4u], smalls[at.z / 4u][at.z % 4u], smalls[at.w / 4u][at.w % 4u]);
}
fn small_one(at: u32) -> vec4f { return vec4f(smalls[at / 4u][at % 4u]); }
${shape.oneRow ? oneRowFunctions(shape) : anyRowFunctions(shape)}`;
}

/** All that an invocation takes lies in one row, its first element in this column. */
function oneRowFunctions({ spec: { program } }: KernelShape): string {
  return `
struct Cells { matrix: u32, row: u32, column: u32 }
fn find_cells(quad: u32) -> Cells {
  let first = 4u * quad + here.index;
  var found: Cells;
  found.row = first / here.columns;
  found.column = first - found.row * here.columns;
  ${program.needsMatrix ? "if (here.matrices > 1u) { found.matrix = found.row / here.rows; }" : ""}
  return found;
}
/// Four columns; of a list that may begin anywhere.
fn small_columns(list: u32, column: u32) -> vec4f {
  let first = list + column;
  if (list % 4u == 0u) { return smalls[first / 4u]; }
  return gather(vec4u(first) + vec4u(0u, 1u, 2u, 3u));
}`;
}

function anyRowFunctions({ spec: { program } }: KernelShape): string {
  return `
struct Cells { matrix: vec4u, row: vec4u, column: vec4u, one_row: bool }
fn find_cells(quad: u32) -> Cells {
  let first = 4u * quad + here.index;
  let row = first / here.columns;
  var found: Cells;
  found.row = vec4u(row);
  found.column = vec4u(first - row * here.columns) + vec4u(0u, 1u, 2u, 3u);
  found.one_row = found.column.w < here.columns;
  if (!found.one_row) {
    let each = vec4u(first) + vec4u(0u, 1u, 2u, 3u);
    found.row = each / vec4u(here.columns);
    found.column = each - found.row * here.columns;
  }
  ${program.needsMatrix ? "if (here.matrices > 1u) { found.matrix = found.row / vec4u(here.rows); }" : ""}
  return found;
}
fn small_row(at: u32, row: vec4u, cells: Cells) -> vec4f {
  if (cells.one_row) { return small_one(at + row.x); }
  return gather(at + row);
}
fn small_column(at: u32, column: vec4u, cells: Cells) -> vec4f {
  let first = at + column.x;
  if (cells.one_row && first % 4u == 0u) { return smalls[first / 4u]; }
  return gather(at + column);
}`;
}

/** With all in one row, the column of the k-th quad. */
export const columnAt = ({ stride }: KernelShape, cells: string, k: number) =>
  k === 0 ? `${cells}.column` : `(${cells}.column + ${4 * k * (stride || 1)}u)`;

/** The value, for four elements, of a node that is not per element. */
export const smallValue =
  (shape: KernelShape, k: number) => (index: number, kind: Shape) => {
    const at = `here.n${index}`;
    if (shape.oneRow)
      switch (kind) {
        case "matrix":
          return `small_one(${at} + lane.cells.matrix)`;
        case "row":
          return `small_one(${at} + lane.cells.row)`;
        case "column":
          return `small_columns(${at}, lane.cells.matrix * here.columns + ${columnAt(shape, "lane.cells", k)})`;
        default:
          return `small_one(${at})`;
      }
    switch (kind) {
      case "matrix":
        return `small_row(${at}, cells${k}.matrix, cells${k})`;
      case "row":
        return `small_row(${at}, cells${k}.row, cells${k})`;
      case "column":
        return `small_column(${at}, cells${k}.matrix * here.columns + cells${k}.column, cells${k})`;
      default:
        return `small_one(${at})`;
    }
  };
