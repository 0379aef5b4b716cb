/** Values of rows and columns, spread over a superblock in scratch; and the loops inside one. */
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import {
  doWhile,
  f32x4,
  i32,
  v128,
  type Code,
} from "../../formula/instructions.ts";
import type { Vectors } from "../../formula/wasm.ts";
import type { BlockState, KernelPlan } from "./kernel-plan.ts";
import { task } from "./layout.ts";
import { field, type Constants } from "./operands.ts";
import { Segments, smallestSide } from "./segments.ts";

export function smallVectors(
  plan: KernelPlan,
  fn: FunctionBuilder,
  constants: Constants,
  node: number,
  row: Local,
  side: readonly number[],
): Vectors {
  const single = constants.single.get(node);
  if (single) return side.map(() => single);
  const offset = plan.spreadAt.get(node)!;
  return side.map((v) => fn.let("v128", v128.load(row.get, offset + 16 * v)));
}

/** The scale of four elements, or the inverse of the new one: the largest of the inverses. */
export function rank1Scale(
  plan: KernelPlan,
  s: number,
  which: "old" | "new",
  row: Local,
  v: number,
): Code | undefined {
  const state = plan.rank1.find((one) => one.s === s);
  if (!state) return undefined;
  const load = (offset: number) => v128.load(row.get, offset + 16 * v);
  return which === "old"
    ? f32x4.pmin(load(state.oldRow), load(state.oldLast))
    : f32x4.pmax(load(state.newRow), load(state.newLast));
}

/** Calls the function that spreads values of rows and columns over a superblock. */
export function spread(
  plan: KernelPlan,
  fn: FunctionBuilder,
  scratch: Local,
  first: Local,
): void {
  if (plan.spreads.length === 0) return;
  plan.spreader ??= makeSpreader(plan);
  fn.emit(fn.call(plan.spreader, fn.parameter(0).get, scratch.get, first.get));
}

/** spread(task, scratch, first): segment by segment, each inside one row. */
function makeSpreader(plan: KernelPlan): FunctionBuilder {
  const fn = plan.module.function(["i32", "i32", "i32"]);
  const [scratch, first] = [fn.parameter(1), fn.parameter(2)];
  const addresses = fn.let("i32", field(fn, task.small));
  const segment = new Segments(
    fn,
    first,
    i32.const(plan.size),
    smallestSide(plan.spreads),
  );
  fn.emit(
    segment.loop(() => {
      const target = fn.let(
        "i32",
        i32.add(scratch.get, i32.shl(segment.done.get, i32.const(2))),
      );
      for (const { offset, place, shape, side } of plan.spreads) {
        const base = i32.load(addresses.get, 4 * place);
        const at = (index: Code) => i32.add(base, i32.shl(index, i32.const(2)));
        const moving = ["column", "last", "tileColumn"].includes(shape);
        const source = fn.let("i32", at(segment.index(shape, side)));
        const to = fn.let("i32", target.get);
        const end = fn.let(
          "i32",
          i32.add(to.get, i32.shl(segment.length.get, i32.const(2))),
        );
        const value = moving
          ? v128.load(source.get)
          : fn.let("v128", v128.load32_splat(source.get)).get;
        fn.emit(
          doWhile(
            [
              ...v128.store(to.get, value, offset),
              ...to.bump(16),
              ...(moving ? source.bump(16) : []),
            ],
            i32.lt_u(to.get, end.get),
          ),
        );
      }
    }),
  );
  return fn;
}

/** Nested loops: turns of 16 elements inside blocks, small blocks inside large ones. */
export function blocks(
  plan: KernelPlan,
  fn: FunctionBuilder,
  turn: () => void,
  begin: (state: BlockState) => void,
  finish: (state: BlockState) => void,
): void {
  const sizes = [
    ...new Set([
      ...plan.block.map(({ format }) => format.blockSize),
      plan.size,
    ]),
  ].sort((a, b) => a - b);
  const level = (k: number): void => {
    const size = sizes[k]!;
    const mine = plan.block.filter(({ format }) => format.blockSize === size);
    mine.forEach(begin);
    if (k === 0) fn.repeat(size / 16, turn);
    else fn.repeat(size / sizes[k - 1]!, () => level(k - 1));
    mine.forEach(finish);
  };
  level(sizes.length - 1);
}
