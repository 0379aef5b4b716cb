/** What is not per element, in an update: where elements lie in their matrix, and reads by row and column. */
import type { Shape } from "../../formula/program.ts";
import type { KernelShape } from "./kernel.ts";
import { smallBinding } from "./operands.ts";

/** Where elements lie in their matrix, and what is not per element, for four of them. */
export function cellFunctions({ spec: { program } }: KernelShape): string {
  return `
@group(0) @binding(${smallBinding}) var<storage, read_write> smalls: array<vec4f>;
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
fn gather(at: vec4u) -> vec4f {
  return vec4f(smalls[at.x / 4u][at.x % 4u], smalls[at.y / 4u][at.y % 4u], smalls[at.z / 4u][at.z % 4u], smalls[at.w / 4u][at.w % 4u]);
}
fn small_one(at: u32) -> vec4f { return vec4f(smalls[at / 4u][at % 4u]); }
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

/** The value, for four elements, of a node that is not per element. */
export const smallValue = (k: number) => (index: number, kind: Shape) => {
  const at = `here.n${index}`;
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
