/** The loops over superblocks, each a function of the kernel. */
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import {
  choose,
  doWhile,
  i32,
  i32x4,
  v128,
  when,
} from "../../formula/instructions.ts";
import { watchedNodes } from "../../formula/program.ts";
import { printWasm, type Vectors } from "../../formula/wasm.ts";
import { tail, callCareful } from "./careful.ts";
import { storedBytes } from "./tables.ts";
import { lanes, type KernelPlan } from "./kernel-plan.ts";
import { task } from "./layout.ts";
import {
  loadConstants,
  loadPointers,
  copyPointers,
  allPointers,
  advance,
  field,
  loadVectors,
  type Constants,
  type Pointers,
} from "./operands.ts";
import { infiniteTwice, phaseA } from "./phase-a.ts";
import { phaseB } from "./phase-b.ts";

export function blockLoop(
  plan: KernelPlan,
  careful: FunctionBuilder,
): FunctionBuilder {
  const fn = plan.module.function(["i32", "i32"]);
  const constants = loadConstants(plan, fn);
  const at = loadPointers(plan, fn);
  const before = copyPointers(plan, fn);
  const current = fn.let("i32", fn.parameter(1).get);
  const previous = fn.let("i32", i32.add(current.get, i32.const(plan.half)));
  const spare = fn.local("i32");
  const live = fn.let("i32", i32.const(0));
  const next = fn.local("i32");
  const left = fn.let(
    "i32",
    i32.shr_u(field(fn, task.count), i32.const(Math.log2(plan.size))),
  );
  const all = allPointers(at);
  const allBefore = allPointers(before);
  const turn = fn.capture(() => {
    const ahead = fn.capture(() => {
      touchAhead(plan, fn, at);
      const worst = phaseA(plan, fn, constants, at, current);
      fn.emit(next.set(i32.const(1)));
      if (plan.spec.check)
        fn.emit(
          when(
            v128.any_true(i32x4.ge_u(worst.get, i32x4.const(infiniteTwice))),
            fn.capture(() => {
              callCareful(plan, fn, careful, at, current, i32.const(plan.size));
              fn.emit(next.set(i32.const(0)));
            }),
          ),
        );
    });
    fn.emit(
      next.set(i32.const(0)),
      when(i32.gt_s(left.get, i32.const(0)), ahead),
    );
    fn.emit(
      when(
        live.get,
        fn.capture(() => phaseB(plan, fn, constants, before, previous)),
      ),
    );
    fn.emit(
      live.set(next.get),
      ...allBefore.map((pointer, i) => pointer.set(all[i]!.get)),
      spare.set(current.get),
      current.set(previous.get),
      previous.set(spare.get),
    );
    fn.emit(
      when(
        i32.gt_s(left.get, i32.const(0)),
        fn.capture(() => advance(plan, fn, at)),
      ),
    );
  });
  fn.emit(
    doWhile(
      turn,
      i32.ge_s(left.tee(i32.sub(left.get, i32.const(1))), i32.const(0)),
    ),
  );
  tail(plan, fn, careful, at, current);
  return fn;
}

/**
 * Reads a word of every cache line of the next superblock, all at once, so
 * that their misses overlap; one by one in the phases they would not.
 * Measured on one Xeon core from memory: 8-bit AdamW 3.6 -> 2.1 ns an element;
 * from cache it costs 4 %. Two or four superblocks ahead are no better, and
 * the float32 loop gains nothing: its reads are regular enough.
 */
function touchAhead(plan: KernelPlan, fn: FunctionBuilder, at: Pointers): void {
  const { formats } = plan.spec;
  const sum = fn.let("i32", i32.const(0));
  const touch = (pointer: Local, bytes: number) => {
    for (let line = 0; line < bytes; line += 64)
      fn.emit(sum.set(i32.xor(sum.get, i32.load(pointer.get, bytes + line))));
  };
  touch(at.gradient, 4 * plan.size);
  touch(at.parameter, 4 * plan.size);
  formats.forEach((format, s) =>
    touch(at.codes[s]!, storedBytes(format, plan.size)),
  );
  fn.emit(i32.store(fn.parameter(1).get, sum.get, plan.touched));
}

/** All states float32: no phases, sixteen elements at a time. */
export function floatLoop(
  plan: KernelPlan,
  careful: FunctionBuilder,
): FunctionBuilder {
  const fn = plan.module.function(["i32", "i32"]);
  const constants = loadConstants(plan, fn);
  const at = loadPointers(plan, fn);
  const scratch = fn.parameter(1);
  const left = fn.let("i32", i32.shr_u(field(fn, task.count), i32.const(4)));
  const body = fn.capture(() => {
    floatTurn(plan, fn, constants, at, () =>
      callCareful(plan, fn, careful, at, scratch, i32.const(16)),
    );
    advance(plan, fn, at);
  });
  fn.emit(
    when(left.get, doWhile(body, left.tee(i32.sub(left.get, i32.const(1))))),
  );
  tail(plan, fn, careful, at, scratch);
  return fn;
}

/** Sixteen elements. @param leaveOut what to do instead when some are not finite. */
function floatTurn(
  plan: KernelPlan,
  fn: FunctionBuilder,
  constants: Constants,
  at: Pointers,
  leaveOut: () => void,
): void {
  const { program, check } = plan.spec;
  const inputs = new Map<string, Vectors>();
  const pointerOf = (name: string) =>
    name === "p"
      ? at.parameter
      : name === "g"
        ? at.gradient
        : at.codes[plan.names.indexOf(name)]!;
  const input = (name: string) => {
    let vectors = inputs.get(name);
    if (!vectors) {
      const factor = name === "g" ? constants.factor : undefined;
      vectors = loadVectors(fn, pointerOf(name), lanes, factor);
      inputs.set(name, vectors);
    }
    return vectors;
  };
  const states = plan.watched();
  const [parameter, ...fresh] = printWasm(
    program,
    [
      program.outputs.get("p")!,
      ...states,
      ...(check ? watchedNodes(program) : []),
    ],
    4,
    fn,
    plan.math,
    {
      input,
      uniform: constants.uniform,
      small: (node) => lanes.map(() => constants.single.get(node)!),
    },
  );
  const write = fn.capture(() => {
    for (const v of lanes) {
      fn.emit(v128.store(at.parameter.get, parameter![v]!.get, 16 * v));
      states.forEach((_, s) =>
        fn.emit(v128.store(at.codes[s]!.get, fresh[s]![v]!.get, 16 * v)),
      );
    }
  });
  if (!check) return fn.emit(write);
  const watched = [...fresh, ...(plan.watchGradient ? [input("g")] : [])];
  const worst = watched
    .flat()
    .map((vector) => i32x4.shl(vector.get, 1))
    .reduce((a, b) => i32x4.max_u(a, b));
  const bad = v128.any_true(i32x4.ge_u(worst, i32x4.const(infiniteTwice)));
  fn.emit(choose(bad, fn.capture(leaveOut), write));
}

/** Measures with masks throughout: it is the rarer pass, and simple. */
export function measureLoop(
  plan: KernelPlan,
  careful: FunctionBuilder,
): FunctionBuilder {
  const fn = plan.module.function(["i32", "i32"]);
  const at = loadPointers(plan, fn);
  const scratch = fn.parameter(1);
  const left = fn.let(
    "i32",
    i32.shr_u(field(fn, task.count), i32.const(Math.log2(plan.size))),
  );
  const body = fn.capture(() => {
    callCareful(plan, fn, careful, at, scratch, i32.const(plan.size));
    advance(plan, fn, at);
  });
  fn.emit(
    when(left.get, doWhile(body, left.tee(i32.sub(left.get, i32.const(1))))),
  );
  tail(plan, fn, careful, at, scratch);
  return fn;
}
