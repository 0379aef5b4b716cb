/**
 * What a step may have to know of all gradients before it changes anything: the
 * sum of squares of the finite ones, in float64, and how many are not finite.
 */
import {
  doWhile,
  f64,
  f64x2,
  i32,
  i32x4,
  i8x16,
  memoryCopy,
  ModuleBuilder,
  v128,
  when,
  type Code,
  type FunctionBuilder,
  type Local,
} from "../../formula/assembler.ts";
import { task } from "./layout.ts";

/** `statistics(task, scratch)`: fills the record's sum and nonFinite. */
export function buildStatistics(): ModuleBuilder {
  const module = new ModuleBuilder();
  const fn = module.function(["i32", "i32"]);
  const record = fn.parameter(0).get;
  const gradient = fn.let("i32", i32.load(record, task.gradient));
  const count = fn.let("i32", i32.load(record, task.count));
  const sums = [0, 1, 2, 3].map(() => fn.let("v128", f64x2.const(0)));
  const bad = fn.let("i32", i32.const(0));

  const groups = fn.let("i32", i32.shr_u(count.get, i32.const(3)));
  const body = fn.capture(() => {
    addSquares(fn, gradient.get, [sums[0]!, sums[1]!], bad);
    addSquares(
      fn,
      i32.add(gradient.get, i32.const(16)),
      [sums[2]!, sums[3]!],
      bad,
    );
    fn.emit(gradient.bump(32));
  });
  fn.emit(
    when(
      groups.get,
      doWhile(body, groups.tee(i32.sub(groups.get, i32.const(1)))),
    ),
  );
  // The last elements, in scratch, beside zeros.
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
        addSquares(fn, scratch, [sums[0]!, sums[1]!], bad);
        addSquares(
          fn,
          i32.add(scratch, i32.const(16)),
          [sums[2]!, sums[3]!],
          bad,
        );
      }),
    ),
  );
  const total = fn.let(
    "v128",
    f64x2.add(
      f64x2.add(sums[0]!.get, sums[1]!.get),
      f64x2.add(sums[2]!.get, sums[3]!.get),
    ),
  );
  fn.emit(
    f64.store(
      record,
      f64.add(
        f64x2.extract_lane(total.get, 0),
        f64x2.extract_lane(total.get, 1),
      ),
      task.sum,
    ),
    i32.store(record, bad.get, task.nonFinite),
  );
  module.export("statistics", fn);
  return module;
}

function addSquares(
  fn: FunctionBuilder,
  at: Code,
  [low, high]: readonly [Local, Local],
  bad: Local,
): void {
  const value = fn.let("v128", v128.load(at));
  const notFinite = fn.let(
    "v128",
    i32x4.ge_u(i32x4.shl(value.get, 1), i32x4.const(0xff000000)),
  );
  fn.emit(
    bad.set(i32.add(bad.get, i32.popcnt(i32x4.bitmask(notFinite.get)))),
    value.set(v128.and(value.get, v128.not(notFinite.get))),
  );
  const swap = [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7];
  const halves: readonly (readonly [Local, Code])[] = [
    [low, value.get],
    [high, i8x16.shuffle(value.get, value.get, swap)],
  ];
  for (const [sum, half] of halves) {
    const wide = fn.let("v128", f64x2.promote_low_f32x4(half));
    fn.emit(sum.set(f64x2.add(sum.get, f64x2.mul(wide.get, wide.get))));
  }
}
