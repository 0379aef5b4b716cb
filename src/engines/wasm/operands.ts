/** What the functions of a kernel load at their beginning, and how they go on. */
import type { FunctionBuilder, Local } from "../../formula/assembler.ts";
import { f32x4, i32, v128, type Code } from "../../formula/instructions.ts";
import type { Vectors } from "../../formula/wasm.ts";
import { storedBytes } from "./tables.ts";
import { isStochastic, type KernelPlan } from "./kernel-plan.ts";
import { task, taskState, taskStateBytes } from "./layout.ts";

/** Addresses of one superblock's data, as variables. */
export interface Pointers {
  readonly parameter: Local;
  readonly gradient: Local;
  readonly codes: readonly Local[];
  readonly scales: readonly Local[];
  /** Index in the tensor of its first element. */
  readonly first: Local;
}

/** What a function loads once: uniforms, factor, scales of tensors. */
export interface Constants {
  readonly uniform: (index: number) => Local;
  readonly factor: Local | undefined;
  /** Old scale of states with one scale a tensor. */
  readonly tensorScale: readonly (Local | undefined)[];
  readonly tensorInverse: readonly (Local | undefined)[];
  readonly keys: readonly (Local | undefined)[];
  /** Of states whose preconditioner is rounded. */
  readonly floors: readonly (Local | undefined)[];
  /** Small values that are one number, by node. */
  readonly single: ReadonlyMap<number, Local>;
}

export function loadConstants(
  plan: KernelPlan,
  fn: FunctionBuilder,
): Constants {
  const { program, formats, clip } = plan.spec;
  const uniforms = fn.let("i32", field(fn, task.uniforms));
  const splat = (pointer: Code, offset = 0) =>
    fn.let("v128", v128.load32_splat(pointer, offset));
  const loaded = Array.from({ length: program.uniformCount }, (_, i) =>
    splat(uniforms.get, 4 * i),
  );
  const record = fn.parameter(0).get;
  const ofTensor = (s: number, make: () => Local) =>
    plan.tensor.some((one) => one.s === s) ? make() : undefined;
  return {
    uniform: (index) => loaded[index]!,
    factor: clip ? splat(record, task.factor) : undefined,
    tensorScale: formats.map((_, s) =>
      ofTensor(s, () =>
        splat(i32.load(record, stateField(s, taskState.scales))),
      ),
    ),
    tensorInverse: formats.map((_, s) =>
      ofTensor(s, () => splat(record, stateField(s, taskState.inverse))),
    ),
    keys: formats.map((format, s) =>
      isStochastic(format)
        ? splat(record, stateField(s, taskState.key))
        : undefined,
    ),
    floors: formats.map((format, s) =>
      format.rounding === "preconditioner"
        ? splat(record, stateField(s, taskState.floor))
        : undefined,
    ),
    single: new Map(
      plan.small.flatMap((node, i) =>
        program.shapes[node] === "one"
          ? [[node, splat(i32.load(field(fn, task.small), 4 * i))] as const]
          : [],
      ),
    ),
  };
}

export function loadPointers(plan: KernelPlan, fn: FunctionBuilder): Pointers {
  const { formats } = plan.spec;
  const load = (offset: number) => fn.let("i32", field(fn, offset));
  return {
    parameter: load(task.parameter),
    gradient: load(task.gradient),
    first: load(task.first),
    codes: formats.map((_, s) => load(stateField(s, taskState.codes))),
    scales: formats.map((_, s) => load(stateField(s, taskState.scales))),
  };
}

export function copyPointers(plan: KernelPlan, fn: FunctionBuilder): Pointers {
  const { formats } = plan.spec;
  const make = () => fn.local("i32");
  return {
    parameter: make(),
    gradient: make(),
    first: make(),
    codes: formats.map(make),
    scales: formats.map(make),
  };
}

export function allPointers(at: Pointers): Local[] {
  return [at.parameter, at.gradient, at.first, ...at.codes, ...at.scales];
}

/** Moves to the next superblock. */
export function advance(
  plan: KernelPlan,
  fn: FunctionBuilder,
  at: Pointers,
): void {
  const { formats } = plan.spec;
  fn.emit(
    at.parameter.bump(4 * plan.size),
    at.gradient.bump(4 * plan.size),
    at.first.bump(plan.size),
    ...at.codes.map((pointer, s) =>
      pointer.bump(storedBytes(formats[s]!, plan.size)),
    ),
    ...at.scales.map((pointer, s) =>
      pointer.bump(4 * plan.blocksIn(formats[s]!)),
    ),
  );
}

/** Vectors of a turn's elements. @param factor multiplied in, such as the one of clipping. */
export function loadVectors(
  fn: FunctionBuilder,
  pointer: Local,
  vectors: readonly number[],
  factor?: Local,
): Vectors {
  return vectors.map((v) => {
    const value = v128.load(pointer.get, 16 * v);
    return fn.let("v128", factor ? f32x4.mul(value, factor.get) : value);
  });
}

export function field(fn: FunctionBuilder, offset: number): Code {
  return i32.load(fn.parameter(0).get, offset);
}

export function stateField(s: number, offset: number): number {
  return task.states + s * taskStateBytes + offset;
}
