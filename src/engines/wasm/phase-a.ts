/** Phase A: decode, new states, largest magnitudes and scales. Writes nothing but scratch. */
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import {
  f32x4,
  i32,
  i32x4,
  v128,
  type Code,
} from "../../formula/instructions.ts";
import { inputsOf, watchedNodes } from "../../formula/program.ts";
import { printWasm, type Vectors } from "../../formula/wasm.ts";
import { emitDecode } from "./codec.ts";
import { storedBytes } from "./tables.ts";
import { type BlockState, type KernelPlan } from "./kernel-plan.ts";
import { taskState } from "./layout.ts";
import { acrossLanes } from "./lanes.ts";
import {
  loadVectors,
  stateField,
  type Pointers,
  type Constants,
} from "./operands.ts";
import type { Reduction, Totals } from "./reduce.ts";
import { rank1Scale, smallVectors, spread, blocks } from "./spreads.ts";

/** What a run through phase A is for. */
export type Aim =
  | { readonly kind: "update" | "measure" }
  | { readonly kind: "pass"; readonly reductions: readonly Reduction[] };

/** Masks of the careful path. */
export interface Careful {
  /** Number of elements that count, splat. */
  readonly valid: Local;
  /** Elements left out so far. */
  readonly count: Local;
}

/** Bits of infinity, shifted left by one. */
export const infiniteTwice = 0xff000000;
const smallestNormal = 0x00800000;

/** What a function of either phase goes by: its kernel, and where it is. */
export interface PhaseFrame {
  readonly plan: KernelPlan;
  readonly fn: FunctionBuilder;
  readonly constants: Constants;
  readonly careful: Careful | undefined;
  readonly gradient: Local;
  readonly parameter: Local;
  readonly codes: readonly Local[];
  readonly scales: readonly Local[];
  /** Where this turn's elements are in a row of scratch. */
  readonly row: Local;
  /** Where phase A writes the scales of the next block, and phase B reads them, by state. */
  readonly written: readonly Local[];
}

/** What the pieces of phase A share in one function: what is asked, and its variables. */
interface Frame extends PhaseFrame {
  readonly aim: Aim;
  /** Nodes to compute: the new states, what is watched beside them, and p if early; or what a pass reduces. */
  readonly wanted: readonly number[];
  readonly watchedCount: number;
  /** Inputs that these read. */
  readonly reads: ReadonlySet<string>;
  /** Largest bits (shifted left by one) of what is watched. */
  readonly worst: Local;
  /** The same of each state in its block. */
  readonly largest: readonly Local[];
  /** Old scale of each state. */
  readonly scale: readonly Local[];
  /** Index in the superblock of each lane; on the careful path. */
  readonly index: Local | undefined;
  readonly totals: Totals | undefined;
}

/**
 * New states into scratch, scales and their reciprocals beside them.
 *
 * @param aim `measure` only takes the largest magnitudes of tensor-wide states,
 * `pass` only reduces.
 * @returns the largest bits (shifted left by one) seen in what is watched.
 */
export function phaseA(
  plan: KernelPlan,
  fn: FunctionBuilder,
  constants: Constants,
  at: Pointers,
  scratch: Local,
  careful?: Careful,
  aim: Aim = { kind: "update" },
): Local {
  spread(plan, fn, scratch, at.first);
  const frame = makeFrame(plan, fn, constants, at, scratch, careful, aim);
  blocks(
    plan,
    fn,
    () => turn(frame),
    (state) => beginBlock(frame, state),
    (state) => finishBlock(frame, state),
  );
  if (aim.kind === "pass")
    plan.reducer.finish(fn, aim.reductions, frame.totals!);
  else finishSuperblock(frame);
  return frame.worst;
}

function makeFrame(
  plan: KernelPlan,
  fn: FunctionBuilder,
  constants: Constants,
  at: Pointers,
  scratch: Local,
  careful: Careful | undefined,
  aim: Aim,
): Frame {
  const { program, formats, check } = plan.spec;
  const watched = check && aim.kind === "update" ? watchedNodes(program) : [];
  const wanted =
    aim.kind === "pass"
      ? aim.reductions.map(({ operand }) => operand)
      : [
          ...plan.watched(),
          ...watched,
          ...(plan.early ? [program.outputs.get("p")!] : []),
        ];
  // Entries make their variables in this order, which is the module's.
  return {
    plan,
    fn,
    constants,
    careful,
    aim,
    wanted,
    watchedCount: watched.length,
    reads: inputsOf(program, wanted),
    gradient: fn.let("i32", at.gradient.get),
    parameter: fn.let("i32", at.parameter.get),
    codes: at.codes.map((pointer) => fn.let("i32", pointer.get)),
    row: fn.let("i32", scratch.get),
    scales: at.scales.map((pointer) => fn.let("i32", pointer.get)),
    written: formats.map(() => fn.let("i32", scratch.get)),
    worst: fn.let("v128", i32x4.const(0)),
    largest: formats.map(() => fn.let("v128", i32x4.const(0))),
    scale: formats.map((_, s) => constants.tensorScale[s] ?? fn.local("v128")),
    index: careful ? fn.let("v128", i32x4.const(0, 1, 2, 3)) : undefined,
    totals:
      aim.kind === "pass" ? plan.reducer.begin(fn, aim.reductions) : undefined,
  };
}

/** Sixteen elements. */
function turn(frame: Frame): void {
  const { plan, fn, gradient, parameter, codes, row, reads } = frame;
  const { formats, tables } = plan.spec;
  const decoded = formats.map((format, s) =>
    emitDecode(fn, format, tables[s], codes[s]!.get),
  );
  // Two vectors at a time: four would not fit the registers.
  for (const pair of [0, 2]) {
    const side = [pair, pair + 1];
    const inputs = readInputs(frame, decoded, side);
    const results = printWasm(
      plan.spec.program,
      frame.wanted,
      2,
      fn,
      plan.math,
      {
        input: (name) => inputs.get(name)!,
        uniform: frame.constants.uniform,
        small: (node) =>
          smallVectors(plan, fn, frame.constants, node, row, side),
      },
    );
    side.forEach((v, i) => {
      const one: Vector = {
        v,
        results: results.map((vectors) => vectors[i]!),
        input: (name) => inputs.get(name)![i]!,
      };
      if (frame.aim.kind === "pass") takeReduced(frame, frame.aim, one);
      else takeStates(frame, one);
    });
  }
  fn.emit(
    gradient.bump(64),
    ...(reads.has("p") ? [parameter.bump(64)] : []),
    ...codes.map((pointer, s) => pointer.bump(storedBytes(formats[s]!, 16))),
    row.bump(64),
  );
}

/** Old states, gradient and parameter, as far as they are read. */
function readInputs(
  { plan, fn, constants, careful, aim, reads, ...at }: Frame,
  decoded: readonly (readonly Code[])[],
  side: readonly number[],
): Map<string, Vectors> {
  const { formats, check } = plan.spec;
  const inputs = new Map<string, Vectors>();
  const masksStates = careful && aim.kind !== "pass";
  formats.forEach((format, s) => {
    const name = plan.names[s]!;
    if (!reads.has(name) && !masksStates) return;
    inputs.set(
      name,
      side.map((v) =>
        fn.let(
          "v128",
          format.kind === "float"
            ? decoded[s]![v]!
            : f32x4.mul(
                decoded[s]![v]!,
                rank1Scale(plan, s, "old", at.row, v) ?? at.scale[s]!.get,
              ),
        ),
      ),
    );
  });
  const watch = careful ? check : plan.watchGradient;
  if (reads.has("g") || watch)
    inputs.set("g", loadVectors(fn, at.gradient, side, constants.factor));
  if (reads.has("p")) inputs.set("p", loadVectors(fn, at.parameter, side));
  return inputs;
}

/** Four elements of a turn. */
interface Vector {
  /** Which of the turn's four vectors. */
  readonly v: number;
  /** Values of the frame's wanted nodes. */
  readonly results: readonly Local[];
  readonly input: (name: string) => Local;
}

function takeReduced(
  { plan, fn, careful, row, index, totals }: Frame,
  { reductions }: Aim & { kind: "pass" },
  { v, results, input }: Vector,
): void {
  plan.reducer.take(fn, reductions, totals!, {
    values: results,
    gradient: plan.spec.check ? input("g") : undefined,
    inside: i32x4.lt_s(index!.get, careful!.valid.get),
    row,
    offset: 16 * v,
  });
  fn.emit(index!.set(i32x4.add(index!.get, i32x4.const(4))));
}

/** New states, their magnitudes and what is watched. */
function takeStates(frame: Frame, vector: Vector): void {
  const { plan, fn, careful, row, worst, largest, index } = frame;
  const { v, results, input } = vector;
  const measure = frame.aim.kind === "measure";
  const stateCount = plan.names.length;
  let fresh = results.slice(0, stateCount);
  const others = results.slice(stateCount, stateCount + frame.watchedCount);
  const watch = (value: Local) =>
    fn.emit(worst.set(i32x4.max_u(worst.get, i32x4.shl(value.get, 1))));
  if (careful) fresh = mask(frame, careful, fresh, others, vector);
  else others.forEach(watch);
  for (const { s, reductions } of measure ? plan.rank1 : [])
    fn.emit(
      v128.store(
        row.get,
        f32x4.abs(fresh[s]!.get),
        reductions[0]!.rowAt + 16 * v,
      ),
    );
  fresh.forEach((value, s) => {
    if (!measure)
      fn.emit(v128.store(row.get, value.get, plan.rowAt[s]! + 16 * v));
    const twice = i32x4.shl(value.get, 1);
    fn.emit(largest[s]!.set(i32x4.max_u(largest[s]!.get, twice)));
  });
  if (plan.watchGradient && !careful) watch(input("g"));
  if (plan.early && !measure)
    fn.emit(
      v128.store(row.get, results.at(-1)!.get, plan.parameterRow + 16 * v),
    );
  if (index) fn.emit(index.set(i32x4.add(index.get, i32x4.const(4))));
}

/** Old values where an element is left out, 0 beyond the last; the mask into scratch. */
function mask(
  { plan, fn, index, row }: Frame,
  careful: Careful,
  fresh: readonly Local[],
  others: readonly Local[],
  { v, input }: Vector,
): Local[] {
  const inside = fn.let("v128", i32x4.lt_s(index!.get, careful.valid.get));
  const out = fn.let("v128", i32x4.const(0));
  if (plan.spec.check) {
    const notFinite = (value: Local) =>
      i32x4.ge_u(i32x4.shl(value.get, 1), i32x4.const(infiniteTwice));
    for (const value of [input("g"), ...fresh, ...others])
      fn.emit(out.set(v128.or(out.get, notFinite(value))));
    fn.emit(
      out.set(v128.and(out.get, inside.get)),
      careful.count.set(
        i32.add(careful.count.get, i32.popcnt(i32x4.bitmask(out.get))),
      ),
    );
  }
  fn.emit(v128.store(row.get, out.get, plan.maskRow + 16 * v));
  return fresh.map((value, s) =>
    fn.let(
      "v128",
      v128.and(
        inside.get,
        v128.bitselect(input(plan.names[s]!).get, value.get, out.get),
      ),
    ),
  );
}

function beginBlock({ fn, scale, scales, largest }: Frame, { s }: BlockState) {
  fn.emit(
    scale[s]!.set(v128.load32_splat(scales[s]!.get)),
    scales[s]!.bump(4),
    largest[s]!.set(i32x4.const(0)),
  );
}

/** The block's new scale and its reciprocal, into scratch. */
function finishBlock(frame: Frame, { s }: BlockState): void {
  const { plan, fn, written } = frame;
  const x = frame.largest[s]!;
  watchLargest(frame, x);
  if (frame.aim.kind !== "update") return;
  acrossLanes(fn, x, i32x4.max_u);
  const { value, inverse } = scaleOf(fn, x);
  const offset = plan.scaleAt[s]!;
  fn.emit(
    v128.store32_lane(written[s]!.get, value, 0, offset),
    v128.store32_lane(written[s]!.get, inverse, 0, offset + 4),
    written[s]!.bump(8),
  );
}

/** Of states whose scale is of more than a superblock: the largest magnitude, into the record. */
function finishSuperblock(frame: Frame): void {
  const { plan, fn, largest, aim } = frame;
  const record = fn.parameter(0).get;
  plan.spec.formats.forEach((format, s) => {
    if (format.kind === "quantized" && format.scale === "block") return;
    watchLargest(frame, largest[s]!);
    if (aim.kind !== "measure") return;
    if (format.kind !== "quantized" || format.scale !== "tensor") return;
    const offset = stateField(s, taskState.largest);
    const most = fn.let(
      "v128",
      i32x4.max_u(largest[s]!.get, v128.load32_splat(record, offset)),
    );
    acrossLanes(fn, most, i32x4.max_u);
    fn.emit(v128.store32_lane(record, most.get, 0, offset));
  });
}

/** What is not finite has the largest bits; the careful path has its masks. */
function watchLargest(
  { plan, fn, careful, worst }: Frame,
  largest: Local,
): void {
  if (plan.spec.check && !careful)
    fn.emit(worst.set(i32x4.max_u(worst.get, largest.get)));
}

/** Scale and its reciprocal from the largest bits shifted left by one; 0 and 0 below the normals. */
function scaleOf(
  fn: FunctionBuilder,
  twice: Local,
): { value: Code; inverse: Code } {
  const bits = fn.let("v128", i32x4.shr_u(twice.get, 1));
  const counts = fn.let(
    "v128",
    i32x4.ge_u(bits.get, i32x4.const(smallestNormal)),
  );
  return {
    value: v128.and(bits.get, counts.get),
    inverse: v128.and(f32x4.div(f32x4.const(1), bits.get), counts.get),
  };
}
