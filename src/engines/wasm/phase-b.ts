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
import type { Pointers, Constants } from "./operands.ts";
import type { Careful } from "./phase-a.ts";
import { rank1Scale, smallVectors, blocks } from "./spreads.ts";

/** New parameter and codes, from the new states in scratch. */
export function phaseB(
  plan: KernelPlan,
  fn: FunctionBuilder,
  constants: Constants,
  at: Pointers,
  scratch: Local,
  careful?: Careful,
): void {
  const { program, formats, tables } = plan.spec;
  const parameter = fn.let("i32", at.parameter.get);
  const gradient = fn.let("i32", at.gradient.get);
  const codes = at.codes.map((pointer) => fn.let("i32", pointer.get));
  const scales = at.scales.map((pointer) => fn.let("i32", pointer.get));
  const row = fn.let("i32", scratch.get);
  const written = formats.map(() => fn.let("i32", scratch.get));
  const inverse = formats.map(
    (_, s) => constants.tensorInverse[s] ?? fn.local("v128"),
  );
  const index = formats.some(isStochastic)
    ? fn.let(
        "v128",
        i32x4.add(i32x4.splat(at.first.get), i32x4.const(0, 1, 2, 3)),
      )
    : undefined;
  const corrections = formats.map((format): Correction | undefined =>
    format.kind === "quantized" && format.correctScale
      ? { squares: fn.local("v128"), products: fn.local("v128") }
      : undefined,
  );
  const p = program.outputs.get("p")!;
  const states = plan.watched();
  const reads = plan.early
    ? new Set(["p"])
    : inputsOf(program, [p], new Set(states));

  const turn = () => {
    const fromRow = (offset: number): Vectors =>
      lanes.map((v) => fn.let("v128", v128.load(row.get, offset + 16 * v)));
    const fresh = formats.map((_, s) => fromRow(plan.rowAt[s]!));
    const load = (pointer: Local, factor?: Local): Vectors =>
      lanes.map((v) => {
        const value = v128.load(pointer.get, 16 * v);
        return fn.let("v128", factor ? f32x4.mul(value, factor.get) : value);
      });
    const old = reads.has("p") || careful ? load(parameter) : undefined;
    const g = reads.has("g") ? load(gradient, constants.factor) : undefined;
    let updated = plan.early
      ? fromRow(plan.parameterRow)
      : printWasm(
          program,
          [p],
          4,
          fn,
          plan.math,
          {
            input: (name) => (name === "p" ? old! : g!),
            uniform: constants.uniform,
            small: (node) =>
              smallVectors(plan, fn, constants, node, row, lanes),
          },
          new Map(states.map((node, s) => [node, fresh[s]!])),
        )[0]!;
    if (careful)
      updated = updated.map((vector, v) =>
        fn.let(
          "v128",
          v128.bitselect(
            old![v]!.get,
            vector.get,
            v128.load(row.get, plan.maskRow + 16 * v),
          ),
        ),
      );
    for (const v of lanes)
      fn.emit(v128.store(parameter.get, updated[v]!.get, 16 * v));
    formats.forEach((format, s) => {
      if (format.kind === "float") {
        emitStore(fn, format, fresh[s]!, codes[s]!.get, randomOf(s));
        return;
      }
      const inverses = lanes.map(
        (v) => rank1Scale(plan, s, "new", row, v) ?? inverse[s]!.get,
      );
      const x = fresh[s]!.map((vector, v) =>
        fn.let("v128", f32x4.mul(vector.get, inverses[v]!)),
      );
      const random = randomOf(s);
      const floor = constants.floors[s];
      emitEncode(
        fn,
        tables[s]!,
        x,
        codes[s]!.get,
        random && floor
          ? {
              ...random,
              floors: inverses.map((one) =>
                fn.let("v128", f32x4.mul(floor.get, f32x4.sqrt(one))),
              ),
            }
          : random,
        corrections[s],
      );
    });
    fn.emit(
      parameter.bump(64),
      ...(g ? [gradient.bump(64)] : []),
      ...codes.map((pointer, s) => pointer.bump(storedBytes(formats[s]!, 16))),
      row.bump(64),
      ...(index ? [index.set(i32x4.add(index.get, i32x4.const(16)))] : []),
    );
  };
  const randomOf = (s: number): Randomness | undefined =>
    isStochastic(formats[s]!)
      ? { key: constants.keys[s]!, index: index! }
      : undefined;
  const begin = ({ s }: BlockState) => {
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
  };
  const correct = (s: number) => {
    const correction = corrections[s];
    if (!correction) return;
    // The scale was written when its block began.
    const at = fn.let("i32", i32.sub(scales[s]!.get, i32.const(4)));
    const scale = fn.let("v128", v128.load32_splat(at.get));
    fn.emit(v128.store32_lane(at.get, emitCorrected(fn, scale, correction), 0));
  };
  const zeros = (s: number, format: QuantizedFormat, elements: number) => {
    const table = tables[s]!;
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
  };
  blocks(plan, fn, turn, begin, ({ s, format }) => {
    zeros(s, format, format.blockSize);
    correct(s);
  });
  for (const { s, format } of plan.tensor) zeros(s, format, plan.size);
}
