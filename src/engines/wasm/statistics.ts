/**
 * What a step may have to know of all gradients before it changes anything: the
 * sum of squares of the finite ones, in float64, and how many are not finite.
 */
import {
  ModuleBuilder,
  type FunctionBuilder,
  type Local,
} from "../../formula/assembler.ts";
import {
  doWhile,
  f64,
  f64x2,
  i32,
  i32x4,
  memoryCopy,
  swapHalves,
  v128,
  when,
  type Code,
} from "../../formula/instructions.ts";
import { task } from "./layout.ts";

const infiniteTwice = 0xff000000; // bits of Infinity, shifted left by one
/** Elements between two looks at whether all were finite. */
const runElements = 1024;

/** Sums of squares, two lanes of float64 each, and the count of what is not finite. */
interface Totals {
  readonly sums: readonly Local[];
  readonly bad: Local;
}

/** `statistics(task, scratch)`: fills the record's sum and nonFinite. */
export function buildStatistics(): ModuleBuilder {
  const module = new ModuleBuilder();
  const fn = module.function(["i32", "i32"]);
  const record = fn.parameter(0).get;
  const gradient = fn.let("i32", i32.load(record, task.gradient));
  const count = fn.let("i32", i32.load(record, task.count));
  const totals: Totals = {
    sums: [0, 1, 2, 3].map(() => fn.let("v128", f64x2.const(0))),
    bad: fn.let("i32", i32.const(0)),
  };
  takeRuns(fn, gradient, count, totals);
  takeGroups(fn, gradient, count, totals);
  takeRest(fn, gradient, count, totals);
  const [a, b, c, d] = totals.sums.map(({ get }) => get) as [
    Code,
    Code,
    Code,
    Code,
  ];
  const total = fn.let("v128", f64x2.add(f64x2.add(a, b), f64x2.add(c, d)));
  fn.emit(
    f64.store(
      record,
      f64.add(
        f64x2.extract_lane(total.get, 0),
        f64x2.extract_lane(total.get, 1),
      ),
      task.sum,
    ),
    i32.store(record, totals.bad.get, task.nonFinite),
  );
  module.export("statistics", fn);
  return module;
}

/** The two sums that vector `n` goes into: neighbours do not wait for each other. */
const pairOf = ({ sums }: Totals, n: number): readonly [Local, Local] =>
  n % 2 === 0 ? [sums[0]!, sums[1]!] : [sums[2]!, sums[3]!];

/**
 * Sixteen elements a turn. Whether all are finite is looked at once a run of
 * turns; one that has others is done again, with masks.
 */
function takeRuns(
  fn: FunctionBuilder,
  gradient: Local,
  count: Local,
  totals: Totals,
): void {
  const { sums, bad } = totals;
  const runs = fn.let(
    "i32",
    i32.shr_u(count.get, i32.const(Math.log2(runElements))),
  );
  const left = fn.local("i32");
  const worst = fn.local("v128");
  const saved = sums.map(() => fn.local("v128"));
  const eachTurn = (take: (at: Code, n: number) => void): Code => [
    ...left.set(i32.const(runElements / 16)),
    ...doWhile(
      fn.capture(() => {
        for (const n of [0, 1, 2, 3])
          take(i32.add(gradient.get, i32.const(16 * n)), n);
        fn.emit(gradient.bump(64));
      }),
      left.tee(i32.sub(left.get, i32.const(1))),
    ),
  ];
  const run = fn.capture(() => {
    fn.emit(
      worst.set(i32x4.const(0)),
      ...saved.map((copy, i) => copy.set(sums[i]!.get)),
      eachTurn((at, n) => {
        const value = fn.let("v128", v128.load(at));
        fn.emit(worst.set(i32x4.max_u(worst.get, i32x4.shl(value.get, 1))));
        sumSquares(fn, value, pairOf(totals, n));
      }),
      when(v128.any_true(i32x4.ge_u(worst.get, i32x4.const(infiniteTwice))), [
        ...gradient.bump(-4 * runElements),
        ...saved.flatMap((copy, i) => sums[i]!.set(copy.get)),
        ...eachTurn((at, n) => addSquares(fn, at, pairOf(totals, n), bad)),
      ]),
    );
  });
  fn.emit(
    when(runs.get, doWhile(run, runs.tee(i32.sub(runs.get, i32.const(1))))),
  );
}

/** What is left of whole groups of eight. */
function takeGroups(
  fn: FunctionBuilder,
  gradient: Local,
  count: Local,
  totals: Totals,
): void {
  const groups = fn.let(
    "i32",
    i32.shr_u(i32.and(count.get, i32.const(runElements - 1)), i32.const(3)),
  );
  const group = fn.capture(() => {
    takeEight(fn, gradient.get, totals);
    fn.emit(gradient.bump(32));
  });
  fn.emit(
    when(
      groups.get,
      doWhile(group, groups.tee(i32.sub(groups.get, i32.const(1)))),
    ),
  );
}

/** The last elements, in scratch, beside zeros. */
function takeRest(
  fn: FunctionBuilder,
  gradient: Local,
  count: Local,
  totals: Totals,
): void {
  const rest = fn.let("i32", i32.and(count.get, i32.const(7)));
  const scratch = fn.parameter(1).get;
  fn.emit(
    when(
      rest.get,
      fn.capture(() => {
        for (const offset of [0, 16])
          fn.emit(v128.store(scratch, i32x4.const(0), offset));
        fn.emit(
          memoryCopy(scratch, gradient.get, i32.shl(rest.get, i32.const(2))),
        );
        takeEight(fn, scratch, totals);
      }),
    ),
  );
}

function takeEight(fn: FunctionBuilder, at: Code, totals: Totals): void {
  addSquares(fn, at, pairOf(totals, 0), totals.bad);
  addSquares(fn, i32.add(at, i32.const(16)), pairOf(totals, 1), totals.bad);
}

/** Adds the squares of four elements, leaving out and counting what is not finite. */
function addSquares(
  fn: FunctionBuilder,
  at: Code,
  into: readonly [Local, Local],
  bad: Local,
): void {
  const value = fn.let("v128", v128.load(at));
  const notFinite = fn.let(
    "v128",
    i32x4.ge_u(i32x4.shl(value.get, 1), i32x4.const(infiniteTwice)),
  );
  fn.emit(
    bad.set(i32.add(bad.get, i32.popcnt(i32x4.bitmask(notFinite.get)))),
    value.set(v128.and(value.get, v128.not(notFinite.get))),
  );
  sumSquares(fn, value, into);
}

function sumSquares(
  fn: FunctionBuilder,
  value: Local,
  [low, high]: readonly [Local, Local],
): void {
  const halves: readonly (readonly [Local, Code])[] = [
    [low, value.get],
    [high, swapHalves(value.get)],
  ];
  for (const [sum, half] of halves) {
    const wide = fn.let("v128", f64x2.promote_low_f32x4(half));
    fn.emit(sum.set(f64x2.add(sum.get, f64x2.mul(wide.get, wide.get))));
  }
}
