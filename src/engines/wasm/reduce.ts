/**
 * Reductions over elements: to one number in the task's record, or by row and
 * by column into arrays of float64.
 */
import type {
  FunctionBuilder,
  Local,
  ModuleBuilder,
} from "../../formula/assembler.ts";
import {
  f32x4,
  f64,
  f64x2,
  f32,
  i32,
  i32x4,
  swapHalves,
  v128,
  whileDo,
  type Code,
} from "../../formula/instructions.ts";
import {
  reducedNode,
  reductionsOf,
  type Program,
} from "../../formula/program.ts";
import { mostReductions, task } from "./layout.ts";
import { Segments, smallestSide } from "./segments.ts";

/** One reduction of a pass. */
export interface Reduction {
  readonly node: number;
  /** What it is taken of. */
  readonly operand: number;
  readonly maximum: boolean;
  /**
   * `last`: by index of the last axis, through all matrices. `tileRow` and
   * `tileColumn`: by row and by column of tiles.
   */
  readonly over: "all" | "row" | "column" | "last" | "tileRow" | "tileColumn";
  /** Side of the tiles. */
  readonly side?: number;
  /** Position in the pass. */
  readonly place: number;
  /** Offset in scratch of the row of its values, when taken by row or column. */
  readonly rowAt: number;
}

/** Variables that a reduction to one number gathers in. */
export type Totals = ReadonlyMap<number, readonly Local[]>;

export class Reducer {
  readonly #module: ModuleBuilder;
  readonly #takeRow: () => number;
  readonly #rows = new Map<string, number>();

  constructor(module: ModuleBuilder, takeRow: () => number) {
    this.#module = module;
    this.#takeRow = takeRow;
  }

  /** The reductions of a pass; those of the same values share a row of scratch. */
  plan(program: Program, pass: number): Reduction[] {
    const nodes = reductionsOf(program, pass);
    if (nodes.length > mostReductions)
      throw new RangeError(
        `${program.owner}: a pass takes at most ${mostReductions} reductions, the formula has ${nodes.length}`,
      );
    return nodes.map((node, place) => {
      const { how, over } = program.nodes[node] as {
        how: "sum" | "mean" | "max";
        over: Reduction["over"];
      };
      const operand = reducedNode(program, node);
      const maximum = how === "max";
      const key = `${operand} ${maximum}`;
      let rowAt = this.#rows.get(key);
      if (over !== "all" && rowAt === undefined)
        this.#rows.set(key, (rowAt = this.#takeRow()));
      return { node, operand, maximum, over, place, rowAt: rowAt ?? 0 };
    });
  }

  /** A row of scratch of its own, for values that are no node's. */
  takeRow(): number {
    return this.#takeRow();
  }

  begin(fn: FunctionBuilder, reductions: readonly Reduction[]): Totals {
    return new Map(
      reductions
        .filter(({ over }) => over === "all")
        .map(({ place, maximum }) => [
          place,
          maximum
            ? [fn.let("v128", f32x4.const(-Infinity))]
            : [0, 1].map(() => fn.let("v128", f64x2.const(0))),
        ]),
    );
  }

  /** Takes one vector of each reduced value. */
  take(
    fn: FunctionBuilder,
    reductions: readonly Reduction[],
    totals: Totals,
    {
      values,
      gradient,
      inside,
      row,
      offset,
    }: {
      /** By place. */
      readonly values: readonly Local[];
      /** Checked to be finite, if given. */
      readonly gradient: Local | undefined;
      readonly inside: Code;
      readonly row: Local;
      readonly offset: number;
    },
  ): void {
    const finite = (value: Local) =>
      v128.not(i32x4.ge_u(i32x4.shl(value.get, 1), i32x4.const(0xff000000)));
    const counts = fn.let(
      "v128",
      gradient ? v128.and(inside, finite(gradient)) : inside,
    );
    for (const { place, maximum, over, rowAt } of reductions) {
      const value = values[place]!;
      const mask = gradient ? v128.and(counts.get, finite(value)) : counts.get;
      const taken = fn.let(
        "v128",
        maximum
          ? v128.bitselect(value.get, f32x4.const(-Infinity), mask)
          : v128.and(value.get, mask),
      );
      if (over !== "all") {
        fn.emit(v128.store(row.get, taken.get, rowAt + offset));
        continue;
      }
      const [low, high] = totals.get(place)!;
      if (maximum) {
        fn.emit(low!.set(f32x4.pmax(low!.get, taken.get)));
        continue;
      }
      fn.emit(
        low!.set(f64x2.add(low!.get, f64x2.promote_low_f32x4(taken.get))),
        high!.set(
          f64x2.add(high!.get, f64x2.promote_low_f32x4(swapHalves(taken.get))),
        ),
      );
    }
  }

  /** Adds the totals of a superblock to the task's results. */
  finish(
    fn: FunctionBuilder,
    reductions: readonly Reduction[],
    totals: Totals,
  ): void {
    const record = fn.parameter(0).get;
    for (const { place, maximum, over } of reductions) {
      if (over !== "all") continue;
      const at = task.results + 8 * place;
      const [low, high] = totals.get(place)!;
      const sum = fn.let(
        "v128",
        maximum
          ? f64x2.pmax(
              f64x2.promote_low_f32x4(low!.get),
              f64x2.promote_low_f32x4(swapHalves(low!.get)),
            )
          : f64x2.add(low!.get, high!.get),
      );
      const join = maximum ? f64.max : f64.add;
      fn.emit(
        f64.store(
          record,
          join(
            f64.load(record, at),
            join(
              f64x2.extract_lane(sum.get, 0),
              f64x2.extract_lane(sum.get, 1),
            ),
          ),
          at,
        ),
      );
    }
  }

  /** After phase A of a superblock: its rows of values into the arrays by row and column. */
  accumulate(
    fn: FunctionBuilder,
    reductions: readonly Reduction[],
    {
      scratch,
      first,
      valid,
    }: {
      readonly scratch: Local;
      readonly first: Local;
      readonly valid: Local;
    },
  ): void {
    const mine = reductions.filter(({ over }) => over !== "all");
    if (mine.length === 0) return;
    const record = fn.parameter(0).get;
    const addresses = fn.let("i32", i32.load(record, task.accumulators));
    const segment = new Segments(fn, first, valid.get, smallestSide(mine));
    fn.emit(
      segment.loop(() => {
        const start = fn.let(
          "i32",
          i32.add(scratch.get, i32.shl(segment.done.get, i32.const(2))),
        );
        for (const { place, maximum, over, rowAt, side } of mine) {
          const index = segment.index(over, side);
          const oneRow = over === "row" || over === "tileRow";
          const target = i32.add(
            i32.load(addresses.get, 4 * place),
            i32.shl(index, i32.const(3)),
          );
          fn.emit(
            fn.call(
              oneRow
                ? this.#rowFunction(maximum)
                : this.#columnFunction(maximum),
              i32.add(start.get, i32.const(rowAt)),
              segment.length.get,
              target,
            ),
          );
        }
      }),
    );
  }

  /** (values, count, target): reduces the values into one float64. */
  #rowFunction = this.#once((fn, maximum) => {
    const [from, count, target] = [0, 1, 2].map((i) => fn.parameter(i)) as [
      Local,
      Local,
      Local,
    ];
    const join = maximum ? f64x2.pmax : f64x2.add;
    const neutral = f64x2.const(maximum ? -Infinity : 0);
    const low = fn.let("v128", neutral);
    const high = fn.let("v128", neutral);
    fn.emit(
      whileDo(
        i32.ge_s(count.get, i32.const(4)),
        fn.capture(() => {
          const value = fn.let("v128", v128.load(from.get));
          fn.emit(
            low.set(join(low.get, f64x2.promote_low_f32x4(value.get))),
            high.set(
              join(high.get, f64x2.promote_low_f32x4(swapHalves(value.get))),
            ),
            from.bump(16),
            count.bump(-4),
          );
        }),
      ),
      low.set(join(low.get, high.get)),
    );
    const scalar = maximum ? f64.max : f64.add;
    const total = fn.let(
      "f64",
      scalar(f64x2.extract_lane(low.get, 0), f64x2.extract_lane(low.get, 1)),
    );
    fn.emit(
      whileDo(i32.gt_s(count.get, i32.const(0)), [
        ...total.set(scalar(total.get, f64.promote_f32(f32.load(from.get)))),
        ...from.bump(4),
        ...count.bump(-1),
      ]),
      f64.store(target.get, scalar(f64.load(target.get), total.get)),
    );
  });

  /** (values, count, target): each value into the float64 beside the one before. */
  #columnFunction = this.#once((fn, maximum) => {
    const [from, count, target] = [0, 1, 2].map((i) => fn.parameter(i)) as [
      Local,
      Local,
      Local,
    ];
    const join = maximum ? f64x2.pmax : f64x2.add;
    const scalar = maximum ? f64.max : f64.add;
    fn.emit(
      whileDo(i32.ge_s(count.get, i32.const(2)), [
        ...v128.store(
          target.get,
          join(
            v128.load(target.get),
            f64x2.promote_low_f32x4(v128.load64_zero(from.get)),
          ),
        ),
        ...from.bump(8),
        ...target.bump(16),
        ...count.bump(-2),
      ]),
      whileDo(i32.gt_s(count.get, i32.const(0)), [
        ...f64.store(
          target.get,
          scalar(f64.load(target.get), f64.promote_f32(f32.load(from.get))),
        ),
        ...count.bump(-1),
      ]),
    );
  });

  /** A function for sums and one for maxima, each made when first needed. */
  #once(
    write: (fn: FunctionBuilder, maximum: boolean) => void,
  ): (maximum: boolean) => FunctionBuilder {
    const made = new Map<boolean, FunctionBuilder>();
    return (maximum) => {
      let fn = made.get(maximum);
      if (!fn) {
        fn = this.#module.function(["i32", "i32", "i32"]);
        made.set(maximum, fn);
        write(fn, maximum);
      }
      return fn;
    };
  }
}
