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
import { emitDecode, storedBytes } from "./codec.ts";
import { type BlockState, type KernelPlan } from "./kernel-plan.ts";
import { taskState } from "./layout.ts";
import { stateField, type Pointers, type Constants } from "./operands.ts";
import type { Reduction } from "./reduce.ts";
import { rank1Scale, smallVectors, spread, blocks, widest } from "./spreads.ts";

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
/**
 * New states into scratch, scales and their reciprocals beside them.
 *
 * @param measure only take the largest magnitudes of tensor-wide states.
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
  const { program, formats, tables, check } = plan.spec;
  const measure = aim.kind !== "update";
  spread(plan, fn, scratch, at.first);
  const gradient = fn.let("i32", at.gradient.get);
  const parameter = fn.let("i32", at.parameter.get);
  const codes = at.codes.map((pointer) => fn.let("i32", pointer.get));
  const row = fn.let("i32", scratch.get);
  const scales = at.scales.map((pointer) => fn.let("i32", pointer.get));
  const written = formats.map(() => fn.let("i32", scratch.get));
  const worst = fn.let("v128", i32x4.const(0));
  const largest = formats.map(() => fn.let("v128", i32x4.const(0)));
  const scale = formats.map(
    (_, s) => constants.tensorScale[s] ?? fn.local("v128"),
  );
  const index = careful ? fn.let("v128", i32x4.const(0, 1, 2, 3)) : undefined;
  const states = plan.watched();
  const p = program.outputs.get("p")!;
  const watched = check && !measure ? watchedNodes(program) : [];
  const wanted =
    aim.kind === "pass"
      ? aim.reductions.map(({ operand }) => operand)
      : [...states, ...watched, ...(plan.early ? [p] : [])];
  const reads = inputsOf(program, wanted);
  const masksStates = careful && aim.kind !== "pass";
  const totals =
    aim.kind === "pass" ? plan.reducer.begin(fn, aim.reductions) : undefined;

  const turn = () => {
    const decoded = formats.map((format, s) =>
      emitDecode(fn, format, tables[s], codes[s]!.get),
    );
    // Two vectors at a time: four would not fit the registers.
    for (const pair of [0, 2]) {
      const side = [pair, pair + 1];
      const inputs = new Map<string, Vectors>();
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
                    rank1Scale(plan, s, "old", row, v) ?? scale[s]!.get,
                  ),
            ),
          ),
        );
      });
      const load = (pointer: Local, factor?: Local): Vectors =>
        side.map((v) => {
          const value = v128.load(pointer.get, 16 * v);
          return fn.let("v128", factor ? f32x4.mul(value, factor.get) : value);
        });
      const watch = careful ? check : plan.watchGradient;
      if (reads.has("g") || watch)
        inputs.set("g", load(gradient, constants.factor));
      if (reads.has("p")) inputs.set("p", load(parameter));
      const results = printWasm(program, wanted, 2, fn, plan.math, {
        input: (name) => inputs.get(name)!,
        uniform: constants.uniform,
        small: (node) => smallVectors(plan, fn, constants, node, row, side),
      });
      side.forEach((v, i) => {
        if (aim.kind === "pass") {
          plan.reducer.take(fn, aim.reductions, totals!, {
            values: results.map((vectors) => vectors[i]!),
            gradient: check ? inputs.get("g")![i]! : undefined,
            inside: i32x4.lt_s(index!.get, careful!.valid.get),
            row,
            offset: 16 * v,
          });
          fn.emit(index!.set(i32x4.add(index!.get, i32x4.const(4))));
          return;
        }
        let fresh = results
          .slice(0, states.length)
          .map((vectors) => vectors[i]!);
        const others = results
          .slice(states.length, states.length + watched.length)
          .map((vectors) => vectors[i]!);
        if (careful)
          fresh = mask(
            plan,
            fn,
            careful,
            fresh,
            others,
            inputs,
            i,
            index!,
            row,
            v,
          );
        else
          for (const value of others)
            fn.emit(worst.set(i32x4.max_u(worst.get, i32x4.shl(value.get, 1))));
        for (const { s, reductions } of measure ? plan.rank1 : [])
          fn.emit(
            v128.store(
              row.get,
              f32x4.abs(fresh[s]!.get),
              reductions[0]!.rowAt + 16 * v,
            ),
          );
        fresh.forEach((vector, s) => {
          if (!measure)
            fn.emit(v128.store(row.get, vector.get, plan.rowAt[s]! + 16 * v));
          const twice = i32x4.shl(vector.get, 1);
          fn.emit(largest[s]!.set(i32x4.max_u(largest[s]!.get, twice)));
        });
        if (plan.watchGradient && !careful)
          fn.emit(
            worst.set(
              i32x4.max_u(worst.get, i32x4.shl(inputs.get("g")![i]!.get, 1)),
            ),
          );
        if (plan.early && !measure)
          fn.emit(
            v128.store(
              row.get,
              results.at(-1)![i]!.get,
              plan.parameterRow + 16 * v,
            ),
          );
        if (index) fn.emit(index.set(i32x4.add(index.get, i32x4.const(4))));
      });
    }
    fn.emit(
      gradient.bump(64),
      ...(reads.has("p") ? [parameter.bump(64)] : []),
      ...codes.map((pointer, s) => pointer.bump(storedBytes(formats[s]!, 16))),
      row.bump(64),
    );
  };
  const begin = ({ s }: BlockState) => {
    fn.emit(
      scale[s]!.set(v128.load32_splat(scales[s]!.get)),
      scales[s]!.bump(4),
      largest[s]!.set(i32x4.const(0)),
    );
  };
  const finish = ({ s }: BlockState) => {
    const x = largest[s]!;
    if (check && !careful) fn.emit(worst.set(i32x4.max_u(worst.get, x.get)));
    if (measure) return;
    const { value, inverse } = scaleOf(fn, widest(plan, fn, x));
    const offset = plan.scaleAt[s]!;
    fn.emit(
      v128.store32_lane(written[s]!.get, value, 0, offset),
      v128.store32_lane(written[s]!.get, inverse, 0, offset + 4),
      written[s]!.bump(8),
    );
  };
  blocks(plan, fn, turn, begin, finish);
  if (aim.kind === "pass") {
    plan.reducer.finish(fn, aim.reductions, totals!);
    return worst;
  }
  formats.forEach((format, s) => {
    if (format.kind === "quantized" && format.scale === "block") return;
    if (check && !careful)
      fn.emit(worst.set(i32x4.max_u(worst.get, largest[s]!.get)));
    if (measure && format.kind === "quantized" && format.scale === "tensor") {
      const record = fn.parameter(0).get;
      const offset = stateField(s, taskState.largest);
      fn.emit(
        v128.store32_lane(
          record,
          widest(
            plan,
            fn,
            fn.let(
              "v128",
              i32x4.max_u(largest[s]!.get, v128.load32_splat(record, offset)),
            ),
          ).get,
          0,
          offset,
        ),
      );
    }
  });
  return worst;
}

/** Old values where an element is left out, 0 beyond the last; the mask into scratch. */
export function mask(
  plan: KernelPlan,
  fn: FunctionBuilder,
  careful: Careful,
  fresh: readonly Local[],
  others: readonly Local[],
  inputs: ReadonlyMap<string, Vectors>,
  i: number,
  index: Local,
  row: Local,
  v: number,
): Local[] {
  const { check } = plan.spec;
  const inside = fn.let("v128", i32x4.lt_s(index.get, careful.valid.get));
  const out = fn.let("v128", i32x4.const(0));
  if (check) {
    const notFinite = (value: Local) =>
      i32x4.ge_u(i32x4.shl(value.get, 1), i32x4.const(infiniteTwice));
    for (const value of [inputs.get("g")![i]!, ...fresh, ...others])
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
        v128.bitselect(inputs.get(plan.names[s]!)![i]!.get, value.get, out.get),
      ),
    ),
  );
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
