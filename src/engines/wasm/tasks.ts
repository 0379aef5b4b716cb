/** Runs kernels over runs of elements: writes their records, and stages what lies elsewhere. */
import { inverseScale } from "../../formats/quantize.ts";
import type { StepTensor } from "../engine.ts";
import { storedBytes } from "./tables.ts";
import { task, taskState, taskStateBytes } from "./layout.ts";
import type { Measured } from "./measured.ts";
import type { Heap } from "./memory.ts";
import {
  chunk,
  elementPositions,
  type MemoryPlan,
  type Placed,
} from "./plan.ts";
import type { Pool } from "./pool.ts";

/** A run of elements of a tensor that takes part in a pass. */
export interface Piece {
  readonly tensor: number;
  readonly first: number;
  readonly count: number;
}

/** The pieces of a tensor. */
export const piecesOf = ({ plan, tasks }: Placed, tensor: number): Piece[] =>
  Array.from({ length: tasks }, (_, i) => ({
    tensor,
    first: i * chunk,
    count: Math.min(chunk, plan.size - i * chunk),
  }));

/** Pieces by the kernel of their tensor. */
export function byKernel(
  work: readonly (readonly Piece[])[],
  kernelOf: (tensor: number) => number,
): Map<number, Piece[]> {
  const groups = new Map<number, Piece[]>();
  for (const pieces of work) {
    if (pieces.length === 0) continue;
    const kernel = kernelOf(pieces[0]!.tensor);
    const group = groups.get(kernel);
    if (group) for (const piece of pieces) group.push(piece);
    else groups.set(kernel, [...pieces]);
  }
  return groups;
}

/** What all tasks of a step have in common. */
export interface StepContext {
  readonly tensors: readonly (StepTensor | undefined)[];
  /** Of the gradients, by clipping. */
  readonly factor: number;
  /** Address that offsets of states count from. */
  readonly statesAt: number;
}

export interface PassOptions {
  /** Whether the kernel reads parameters. */
  readonly parameter: boolean;
  /** Whether it changes them. */
  readonly write: boolean;
  readonly measured: Measured;
  /** On this thread alone, in order. */
  readonly serial?: boolean;
  /** What results of reductions start from. */
  readonly starts?: readonly number[];
}

/** Called with the record of each task that has ended. */
export type Results = (record: number, piece: Piece) => void;

export class Tasks {
  readonly #plan: MemoryPlan;
  readonly #heap: Heap;
  readonly #pool: Pool;
  /** Where parameters live, by tensor. */
  readonly #parameters: readonly (Float32Array | undefined)[];
  #step: StepContext = { tensors: [], factor: 1, statesAt: 0 };

  constructor(
    plan: MemoryPlan,
    heap: Heap,
    pool: Pool,
    parameters: readonly (Float32Array | undefined)[],
  ) {
    this.#plan = plan;
    this.#heap = heap;
    this.#pool = pool;
    this.#parameters = parameters;
  }

  get step(): StepContext {
    return this.#step;
  }

  /** For the passes that follow. */
  begin(step: StepContext): void {
    this.#step = step;
  }

  end(): void {
    this.#step = { tensors: [], factor: 1, statesAt: 0 };
  }

  /** Runs one kernel over pieces: all at once, or in batches of the staging slots. */
  run(
    kernel: number,
    pieces: readonly Piece[],
    how: PassOptions,
    results: Results,
  ): void {
    const { slots, tasks, stride } = this.#plan;
    let batch: { piece: Piece; slot: number | undefined }[] = [];
    let used = 0;
    const flush = () => {
      if (batch.length === 0) return;
      this.#pool.run(kernel, tasks, batch.length, stride, how.serial);
      batch.forEach(({ piece, slot }, i) => {
        if (how.write && slot !== undefined) this.#takeBack(piece, slot);
        results(tasks + i * stride, piece);
      });
      batch = [];
      used = 0;
    };
    for (const piece of pieces) {
      const slot = this.#needsSlot(piece, how.parameter) ? used++ : undefined;
      this.#fill(tasks + batch.length * stride, piece, slot, how);
      batch.push({ piece, slot });
      if (used === slots.length && used > 0) flush();
    }
    flush();
  }

  #needsSlot({ tensor }: Piece, parameter: boolean): boolean {
    return (
      (parameter && !this.#parameterAt(tensor)) || !this.#gradientAt(tensor)
    );
  }

  #parameter(tensor: number): Float32Array {
    return (
      (this.#step.tensors[tensor]!.parameter as Float32Array | undefined) ??
      this.#parameters[tensor]!
    );
  }

  /** Address of a parameter that lies in this memory, else 0. */
  #parameterAt(tensor: number): number {
    return (
      this.#plan.placed[tensor]!.parameterAt ||
      this.#heap.addressOf(this.#parameter(tensor))
    );
  }

  /** Address of a gradient that lies in this memory, else 0. */
  #gradientAt(tensor: number): number {
    return (
      this.#heap.addressOf(
        this.#step.tensors[tensor]!.gradient as Float32Array,
      ) || this.#plan.placed[tensor]!.gradientAt
    );
  }

  /** Writes a task's record, and stages what lies elsewhere. */
  #fill(
    record: number,
    { tensor, first, count }: Piece,
    slot: number | undefined,
    { parameter, measured, starts = [] }: PassOptions,
  ): void {
    const { placed, slots, uniforms, sums } = this.#plan;
    const { states, geometry, smallAt } = placed[tensor]!;
    const { factor, statesAt, tensors } = this.#step;
    const { gradient, keys, floors } = tensors[tensor]!;
    const { floats, words, view } = this.#heap;
    const staged = slot === undefined ? undefined : slots[slot]!;
    const own = this.#parameterAt(tensor);
    let parameterAt = own + 4 * first;
    if (!own) {
      parameterAt = staged?.parameter ?? 0;
      if (parameter)
        floats.set(
          this.#parameter(tensor).subarray(first, first + count),
          parameterAt / 4,
        );
    }
    const gradientsAt = this.#gradientAt(tensor);
    let gradientAt = gradientsAt + 4 * first;
    if (!gradientsAt) {
      gradientAt = staged!.gradient;
      floats.set(
        (gradient as Float32Array).subarray(first, first + count),
        gradientAt / 4,
      );
    }
    const base = record / 4;
    words[base + task.parameter / 4] = parameterAt;
    words[base + task.gradient / 4] = gradientAt;
    words[base + task.count / 4] = count;
    words[base + task.uniforms / 4] = uniforms[tensor]!;
    words[base + task.first / 4] = first;
    floats[base + task.factor / 4] = factor;
    words[base + task.nonFinite / 4] = 0;
    words[base + task.small / 4] = smallAt;
    words[base + task.columns / 4] = Math.max(1, geometry.columns);
    words[base + task.rows / 4] = Math.max(1, geometry.rows);
    words[base + task.accumulators / 4] = sums.table;
    starts.forEach((start, i) =>
      view.setFloat64(record + task.results + 8 * i, start, true),
    );
    const keyOf = elementPositions(placed[tensor]!.plan.program);
    states.forEach(({ format, codes, scales }, s) => {
      const at = base + (task.states + s * taskStateBytes) / 4;
      const block = format.kind === "quantized" && format.scale === "block";
      words[at + taskState.codes / 4] =
        statesAt + codes + storedBytes(format, first);
      words[at + taskState.scales / 4] =
        statesAt + scales + (block ? (4 * first) / format.blockSize : 0);
      words[at + taskState.key / 4] = keys[keyOf[s]!]!;
      floats[at + taskState.inverse / 4] = inverseScale(
        measured.scale(tensor, s),
      );
      words[at + taskState.largest / 4] = 0;
      floats[at + taskState.floor / 4] = floors?.[keyOf[s]!] ?? 0;
    });
  }

  /** Copies new parameters from their slot to where they live. */
  #takeBack({ tensor, first, count }: Piece, slot: number): void {
    if (this.#parameterAt(tensor)) return;
    const from = this.#plan.slots[slot]!.parameter / 4;
    this.#parameter(tensor).set(
      this.#heap.floats.subarray(from, from + count),
      first,
    );
  }
}
