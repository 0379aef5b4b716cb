/**
 * Where things lie in the engine's memory, and the record by which a task (a
 * run of elements of one tensor) is handed to a kernel. The record is read by
 * the kernels themselves, so that the workers' JavaScript needs to know nothing
 * but its address.
 */

/** Byte offsets in a task record. */
export const task = {
  /** Address of the parameters, float32. */
  parameter: 0,
  /** Address of the gradients, float32. */
  gradient: 4,
  /** Number of elements. */
  count: 8,
  /** Address of the uniforms, float32. */
  uniforms: 12,
  /** Index in the tensor of the first element, for random numbers. */
  first: 16,
  /** Factor of the gradients, float32 (clipping). */
  factor: 20,
  /** Result: elements left out since they were not finite. */
  nonFinite: 24,
  /** Result of the gradient kernel, float64: sum of squares. */
  sum: 32,
  /** Address of the addresses of the small values, in the kernel's order. */
  small: 40,
  /** Columns of the tensor's matrices, and rows of each. */
  columns: 44,
  rows: 48,
  /** Address of the addresses of sums or maxima by row or column, float64, by reduction. */
  accumulators: 52,
  /** Results of reductions to one number, float64, by reduction of the pass. */
  results: 56,
  /** First state; 8 reductions a pass are room enough. */
  states: 120,
} as const;

/** Reductions that a pass may take: what a record has room for. */
export const mostReductions = (task.states - task.results) / 8;

/** Byte offsets in the part of a record that each state has. */
export const taskState = {
  /** Address of the packed codes, or of float32 values. */
  codes: 0,
  /** Address of the scales; of the first block's, or of the tensor's only one. */
  scales: 4,
  /** Key of stochastic rounding. */
  key: 8,
  /** 1 / (new scale), float32, for one scale a tensor. */
  inverse: 12,
  /** Result of the measure kernel: bits of the largest magnitude. */
  largest: 16,
  /** For rounding the preconditioner: eps in the unit of the state's root, float32. */
  floor: 20,
} as const;

export const taskStateBytes = 24;

/** Bytes of a record for this many states. */
export const taskBytes = (states: number): number =>
  task.states + states * taskStateBytes;

/** A bump allocator: plans a memory before it is made. */
export class Arena {
  #top: number;

  constructor(start: number) {
    this.#top = start;
  }

  /** Address of the next free bytes, aligned to 64. */
  take(bytes: number): number {
    const at = this.#top;
    this.#top = at + Math.ceil(bytes / 64) * 64;
    return at;
  }

  get top(): number {
    return this.#top;
  }
}
