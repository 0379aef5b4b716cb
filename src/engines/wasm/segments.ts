/** A superblock cut at the ends of rows, and of tiles. */
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import { i32, when, whileDo, type Code } from "../../formula/instructions.ts";
import { task } from "./layout.ts";

/** Where segments must end, beside the ends of rows; undefined: nowhere. */
export const smallestSide = (
  list: readonly { readonly side?: number }[],
): number | undefined =>
  list.reduce<number | undefined>(
    (least, { side }) =>
      side !== undefined && !(side >= (least ?? Infinity)) ? side : least,
    undefined,
  );

/** A walk through a run of elements, row by row; the record tells the geometry. */
export class Segments {
  /** Elements before this segment. */
  readonly done: Local;
  /** Elements of this segment. */
  readonly length: Local;
  /** Index of the row, counted through all matrices. */
  readonly row: Local;
  readonly #fn: FunctionBuilder;
  /** Its first column. */
  readonly column: Local;
  readonly #columns: Local;
  readonly #rows: Local;
  readonly #count: Local;
  readonly #side: number | undefined;

  /**
   * @param first index in the tensor of the first element.
   * @param count elements in all.
   * @param side segments end at columns that are multiples of it.
   */
  constructor(
    fn: FunctionBuilder,
    first: Local,
    count: Code,
    side: number | undefined,
  ) {
    this.#side = side;
    const record = fn.parameter(0).get;
    this.#fn = fn;
    this.#columns = fn.let("i32", i32.load(record, task.columns));
    this.#rows = fn.let("i32", i32.load(record, task.rows));
    this.#count = fn.let("i32", count);
    this.row = fn.let("i32", i32.div_u(first.get, this.#columns.get));
    this.column = fn.let(
      "i32",
      i32.sub(first.get, i32.mul(this.row.get, this.#columns.get)),
    );
    this.done = fn.let("i32", i32.const(0));
    this.length = fn.local("i32");
  }

  /** Index of the matrix that the row is in. */
  matrix(): Code {
    return i32.div_u(this.row.get, this.#rows.get);
  }

  /** Index of the segment's first column, counted through all matrices. */
  columnIndex(): Code {
    return i32.add(i32.mul(this.matrix(), this.#columns.get), this.column.get);
  }

  /** Where a segment's value, or its first column's, is in a list of this kind. */
  index(
    over:
      "row" | "column" | "matrix" | "last" | "tileRow" | "tileColumn" | "all",
    side = 1,
  ): Code {
    const tile = (index: Local) =>
      i32.shr_u(index.get, i32.const(Math.log2(side)));
    switch (over) {
      case "row":
        return this.row.get;
      case "column":
        return this.columnIndex();
      case "last":
        return this.column.get;
      case "tileRow": {
        const across = i32.shr_u(
          i32.add(this.#columns.get, i32.const(side - 1)),
          i32.const(Math.log2(side)),
        );
        return i32.add(i32.mul(this.row.get, across), tile(this.column));
      }
      case "tileColumn":
        return i32.add(
          i32.mul(tile(this.row), this.#columns.get),
          this.column.get,
        );
      default:
        return this.matrix();
    }
  }

  loop(body: () => void): Code {
    const fn = this.#fn;
    const left = i32.sub(this.#count.get, this.done.get);
    const inRow = i32.sub(this.#columns.get, this.column.get);
    if (this.#side !== undefined) return this.#loopInTiles(body, this.#side);
    return whileDo(
      i32.lt_u(this.done.get, this.#count.get),
      fn.capture(() => {
        fn.emit(
          this.length.set(i32.select(inRow, left, i32.lt_u(inRow, left))),
        );
        body();
        fn.emit(
          this.done.set(i32.add(this.done.get, this.length.get)),
          this.row.bump(1),
          this.column.set(i32.const(0)),
        );
      }),
    );
  }

  #loopInTiles(body: () => void, side: number): Code {
    const fn = this.#fn;
    const { length, column, done } = this;
    const left = i32.sub(this.#count.get, done.get);
    const inRow = i32.sub(this.#columns.get, column.get);
    const inTile = i32.sub(
      i32.const(side),
      i32.and(column.get, i32.const(side - 1)),
    );
    const least = (other: Code) =>
      length.set(i32.select(length.get, other, i32.lt_u(length.get, other)));
    return whileDo(
      i32.lt_u(done.get, this.#count.get),
      fn.capture(() => {
        fn.emit(length.set(inTile), least(inRow), least(left));
        body();
        fn.emit(
          done.set(i32.add(done.get, length.get)),
          column.set(i32.add(column.get, length.get)),
          when(i32.ge_u(column.get, this.#columns.get), [
            ...this.row.bump(1),
            ...column.set(i32.const(0)),
          ]),
        );
      }),
    );
  }
}
