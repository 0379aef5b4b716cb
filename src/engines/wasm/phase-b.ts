/** Phase B: the new parameter, and codes of the new states. */
import type { QuantizedFormat } from "../../formats/format.ts";
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import {
  f32x4,
  i32,
  i32x4,
  memoryFill,
  v128,
  when,
} from "../../formula/instructions.ts";
import { inputsOf } from "../../formula/program.ts";
import { printWasm, type Vectors } from "../../formula/wasm.ts";
import { emitCorrected, type Correction } from "./correction.ts";
import { emitEncode, emitStore } from "./codec.ts";
import { storedBytes } from "./tables.ts";
import type { Randomness } from "./rounding.ts";
import {
  lanes,
  isStochastic,
  type BlockState,
  type KernelPlan,
} from "./kernel-plan.ts";
import { loadVectors, type Pointers, type Constants } from "./operands.ts";
import type { Careful, PhaseFrame } from "./phase-a.ts";
import { rank1Scale, smallVectors, blocks } from "./spreads.ts";

/** What the pieces of phase B share in one function: its variables. */
interface Frame extends PhaseFrame {
  /** 1 / scale of each state. */
  readonly inverse: readonly Local[];
  /** Index in the tensor of each lane, for stochastic rounding. */
  readonly index: Local | undefined;
  readonly corrections: readonly (Correction | undefined)[];
  /** Inputs that the new parameter reads beside the new states. */
  readonly reads: ReadonlySet<string>;
}

/** New parameter and codes, from the new states in scratch. */
export function phaseB(
  plan: KernelPlan,
  fn: FunctionBuilder,
  constants: Constants,
  at: Pointers,
  scratch: Local,
  careful?: Careful,
): void {
  const frame = makeFrame(plan, fn, constants, at, scratch, careful);
  blocks(
    plan,
    fn,
    () => turn(frame),
    (state) => beginBlock(frame, state),
    ({ s, format }) => {
      fillZeros(frame, s, format, format.blockSize);
      correct(frame, s);
    },
  );
  for (const { s, format } of plan.tensor)
    fillZeros(frame, s, format, plan.size);
}

function makeFrame(
  plan: KernelPlan,
  fn: FunctionBuilder,
  constants: Constants,
  at: Pointers,
  scratch: Local,
  careful: Careful | undefined,
): Frame {
  const { program, formats } = plan.spec;
  return {
    plan,
    fn,
    constants,
    careful,
    parameter: fn.let("i32", at.parameter.get),
    gradient: fn.let("i32", at.gradient.get),
    codes: at.codes.map((pointer) => fn.let("i32", pointer.get)),
    scales: at.scales.map((pointer) => fn.let("i32", pointer.get)),
    row: fn.let("i32", scratch.get),
    written: formats.map(() => fn.let("i32", scratch.get)),
    inverse: formats.map(
      (_, s) => constants.tensorInverse[s] ?? fn.local("v128"),
    ),
    index: formats.some(isStochastic)
      ? fn.let(
          "v128",
          i32x4.add(i32x4.splat(at.first.get), i32x4.const(0, 1, 2, 3)),
        )
      : undefined,
    corrections: formats.map((format) =>
      format.kind === "quantized" && format.correctScale
        ? { squares: fn.local("v128"), products: fn.local("v128") }
        : undefined,
    ),
    reads: plan.early
      ? new Set(["p"])
      : inputsOf(program, [program.outputs.get("p")!], new Set(plan.watched())),
  };
}

/** Sixteen elements. */
function turn(frame: Frame): void {
  const { plan, fn, parameter, gradient, codes, row, index } = frame;
  const { formats } = plan.spec;
  const fresh = formats.map((_, s) => fromRow(frame, plan.rowAt[s]!));
  const updated = newParameter(frame, fresh);
  for (const v of lanes)
    fn.emit(v128.store(parameter.get, updated[v]!.get, 16 * v));
  formats.forEach((format, s) => {
    if (format.kind === "float")
      emitStore(fn, format, fresh[s]!, codes[s]!.get, randomOf(frame, s));
    else storeCodes(frame, s, fresh[s]!);
  });
  fn.emit(
    parameter.bump(64),
    ...(frame.reads.has("g") ? [gradient.bump(64)] : []),
    ...codes.map((pointer, s) => pointer.bump(storedBytes(formats[s]!, 16))),
    row.bump(64),
    ...(index ? [index.set(i32x4.add(index.get, i32x4.const(16)))] : []),
  );
}

const fromRow = ({ fn, row }: Frame, offset: number): Vectors =>
  lanes.map((v) => fn.let("v128", v128.load(row.get, offset + 16 * v)));

/** The old values where an element is left out. */
function newParameter(frame: Frame, fresh: readonly Vectors[]): Vectors {
  const { plan, fn, constants, careful, reads, row } = frame;
  const { program } = plan.spec;
  const old =
    reads.has("p") || careful
      ? loadVectors(fn, frame.parameter, lanes)
      : undefined;
  const g = reads.has("g")
    ? loadVectors(fn, frame.gradient, lanes, constants.factor)
    : undefined;
  const updated = plan.early
    ? fromRow(frame, plan.parameterRow)
    : printWasm(
        program,
        [program.outputs.get("p")!],
        4,
        fn,
        plan.math,
        {
          input: (name) => (name === "p" ? old! : g!),
          uniform: constants.uniform,
          small: (node) => smallVectors(plan, fn, constants, node, row, lanes),
        },
        new Map(plan.watched().map((node, s) => [node, fresh[s]!])),
      )[0]!;
  if (!careful) return updated;
  return updated.map((vector, v) =>
    fn.let(
      "v128",
      v128.bitselect(
        old![v]!.get,
        vector.get,
        v128.load(row.get, plan.maskRow + 16 * v),
      ),
    ),
  );
}

function storeCodes(frame: Frame, s: number, fresh: Vectors): void {
  const { plan, fn, constants, row } = frame;
  const inverses = lanes.map(
    (v) => rank1Scale(plan, s, "new", row, v) ?? frame.inverse[s]!.get,
  );
  const x = fresh.map((vector, v) =>
    fn.let("v128", f32x4.mul(vector.get, inverses[v]!)),
  );
  const random = randomOf(frame, s);
  const floor = constants.floors[s];
  emitEncode(
    fn,
    plan.spec.tables[s]!,
    x,
    frame.codes[s]!.get,
    random && floor
      ? {
          ...random,
          floors: inverses.map((one) =>
            fn.let("v128", f32x4.mul(floor.get, f32x4.sqrt(one))),
          ),
        }
      : random,
    frame.corrections[s],
  );
}

const randomOf = (
  { plan, constants, index }: Frame,
  s: number,
): Randomness | undefined =>
  isStochastic(plan.spec.formats[s]!)
    ? { key: constants.keys[s]!, index: index! }
    : undefined;

/** Takes the block's scale from phase A, and stores it. */
function beginBlock(frame: Frame, { s }: BlockState): void {
  const { plan, fn, scales, written, inverse, corrections } = frame;
  const offset = plan.scaleAt[s]!;
  fn.emit(
    v128.store32_lane(
      scales[s]!.get,
      v128.load32_zero(written[s]!.get, offset),
      0,
    ),
    inverse[s]!.set(v128.load32_splat(written[s]!.get, offset + 4)),
    scales[s]!.bump(4),
    written[s]!.bump(8),
  );
  for (const sum of Object.values(corrections[s] ?? {}))
    fn.emit((sum as Local).set(i32x4.const(0)));
}

function correct({ fn, scales, corrections }: Frame, s: number): void {
  const correction = corrections[s];
  if (!correction) return;
  // The scale was written when its block began.
  const at = fn.let("i32", i32.sub(scales[s]!.get, i32.const(4)));
  const scale = fn.let("v128", v128.load32_splat(at.get));
  fn.emit(v128.store32_lane(at.get, emitCorrected(fn, scale, correction), 0));
}

/** The code of a group with scale 0, where the table gives another. */
function fillZeros(
  { plan, fn, codes, inverse }: Frame,
  s: number,
  format: QuantizedFormat,
  elements: number,
): void {
  const table = plan.spec.tables[s]!;
  if (!table.fillZeros) return;
  const bytes = storedBytes(format, elements);
  fn.emit(
    when(
      i32.eqz(v128.any_true(inverse[s]!.get)),
      memoryFill(
        i32.sub(codes[s]!.get, i32.const(bytes)),
        i32.const(table.zeroByte),
        i32.const(bytes),
      ),
    ),
  );
}
