/** The careful path: superblocks in which something is not finite, and the last one. */
import type { Format } from "../../formats/format.ts";
import { storedBits } from "../../formats/pack.ts";
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import {
  i32,
  i32x4,
  memoryCopy,
  memoryFill,
  when,
  type Code,
} from "../../formula/instructions.ts";
import type { KernelPlan } from "./kernel-plan.ts";
import { task } from "./layout.ts";
import { loadConstants, field, type Pointers } from "./operands.ts";
import { phaseA, type Aim, type Careful } from "./phase-a.ts";
import { phaseB } from "./phase-b.ts";

/** The last superblock when it is not full: staged in scratch, and masked. */
export function tail(
  plan: KernelPlan,
  fn: FunctionBuilder,
  careful: FunctionBuilder,
  at: Pointers,
  scratch: Local,
): void {
  const rest = fn.let(
    "i32",
    i32.and(field(fn, task.count), i32.const(plan.size - 1)),
  );
  const { stage } = plan;
  const here = (offset: number) =>
    i32.add(fn.parameter(1).get, i32.const(offset));
  const pieces = piecesOf(plan, at, rest);
  fn.emit(
    when(
      rest.get,
      fn.capture(() => {
        fn.emit(
          memoryFill(
            here(stage.parameter),
            i32.const(0),
            i32.const(stage.end - stage.parameter),
          ),
        );
        for (const { real, staged, bytes } of pieces)
          fn.emit(memoryCopy(here(staged), real.get, bytes));
        const staged: Pointers = {
          parameter: fn.let("i32", here(stage.parameter)),
          gradient: fn.let("i32", here(stage.gradient)),
          codes: stage.codes.map((offset) => fn.let("i32", here(offset))),
          scales: plan.spec.formats.map((format, s) =>
            format.kind === "quantized" && format.scale === "block"
              ? fn.let("i32", here(stage.scales[s]!))
              : at.scales[s]!,
          ),
          first: at.first,
        };
        callCareful(plan, fn, careful, staged, scratch, rest.get);
        for (const { real, staged: copy, bytes, back } of pieces)
          if (back) fn.emit(memoryCopy(real.get, here(copy), bytes));
      }),
    ),
  );
}

/** What is staged of one superblock. */
interface StagedPiece {
  readonly real: Local;
  /** Offset in scratch. */
  readonly staged: number;
  readonly bytes: Code;
  /** Whether it is written, and goes back. */
  readonly back: boolean;
}

/** @param rest elements of the superblock that there are. */
function piecesOf(
  { spec, stage }: KernelPlan,
  at: Pointers,
  rest: Local,
): StagedPiece[] {
  const times = (log: number) => i32.shl(rest.get, i32.const(log));
  const over = (log: number) =>
    i32.shr_u(i32.add(rest.get, i32.const(2 ** log - 1)), i32.const(log));
  const ofState = (format: Format, s: number): StagedPiece[] => {
    const codes = {
      real: at.codes[s]!,
      staged: stage.codes[s]!,
      bytes:
        format.kind === "float"
          ? times(Math.log2(format.bits / 8))
          : over(Math.log2(8 / storedBits(format.bits))),
      back: true,
    };
    if (format.kind === "float" || format.scale !== "block") return [codes];
    return [
      codes,
      {
        real: at.scales[s]!,
        staged: stage.scales[s]!,
        bytes: i32.shl(over(Math.log2(format.blockSize)), i32.const(2)),
        back: true,
      },
    ];
  };
  const { parameter, gradient } = at;
  const bytes = times(2);
  return [
    { real: parameter, staged: stage.parameter, bytes, back: true },
    { real: gradient, staged: stage.gradient, bytes, back: false },
    ...spec.formats.flatMap(ofState),
  ];
}

/** One superblock with masks: (task, scratch, parameter, gradient, first, valid, codes..., scales...). */
export function carefulFunction(plan: KernelPlan, aim: Aim): FunctionBuilder {
  const { formats } = plan.spec;
  const n = formats.length;
  const fn = plan.module.function(
    Array.from({ length: 6 + 2 * n }, () => "i32" as const),
  );
  const constants = loadConstants(plan, fn);
  const at: Pointers = {
    parameter: fn.parameter(2),
    gradient: fn.parameter(3),
    first: fn.parameter(4),
    codes: formats.map((_, s) => fn.parameter(6 + s)),
    scales: formats.map((_, s) => fn.parameter(6 + n + s)),
  };
  const scratch = fn.parameter(1);
  const careful: Careful = {
    valid: fn.let("v128", i32x4.splat(fn.parameter(5).get)),
    count: fn.let("i32", i32.const(0)),
  };
  phaseA(plan, fn, constants, at, scratch, careful, aim);
  if (aim.kind === "pass")
    plan.reducer.accumulate(fn, aim.reductions, {
      scratch,
      first: at.first,
      valid: fn.parameter(5),
    });
  if (aim.kind === "measure")
    plan.reducer.accumulate(
      fn,
      plan.rank1.flatMap(({ reductions }) => reductions),
      { scratch, first: at.first, valid: fn.parameter(5) },
    );
  if (aim.kind === "update") {
    phaseB(plan, fn, constants, at, scratch, careful);
    const record = fn.parameter(0).get;
    fn.emit(
      i32.store(
        record,
        i32.add(i32.load(record, task.nonFinite), careful.count.get),
        task.nonFinite,
      ),
    );
  }
  return fn;
}

export function callCareful(
  plan: KernelPlan,
  fn: FunctionBuilder,
  careful: FunctionBuilder,
  at: Pointers,
  scratch: Local,
  valid: Code,
): void {
  fn.emit(
    fn.call(
      careful,
      fn.parameter(0).get,
      scratch.get,
      at.parameter.get,
      at.gradient.get,
      at.first.get,
      valid,
      ...at.codes.map((one) => one.get),
      ...at.scales.map((one) => one.get),
    ),
  );
}
