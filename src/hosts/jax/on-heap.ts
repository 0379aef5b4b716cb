/** A step of the wasm engine on jax-js's own heap, without copies. */
import type { OptimizerHandle } from "../../core/optimizer.ts";
import type { Tensor } from "./contract.ts";
import type { JaxHeap } from "./heap.ts";

/** The arrays of a step; all of them are consumed when it is taken. */
export interface StepArrays {
  /** By tensor; undefined leaves a tensor out. */
  readonly gradients: readonly (Tensor | undefined)[];
  /** By tensor; needed by `step`, and by `update` where the formula reads parameters. */
  readonly parameters: readonly Tensor[] | undefined;
  readonly regions: readonly Tensor[];
}

export interface StepOn {
  readonly optimizer: OptimizerHandle;
  /** Names of the tensors, and whether an update depends on the parameter. */
  readonly names: readonly string[];
  readonly reads: readonly boolean[];
  /** Number of the step, from 1. */
  readonly step: number;
  /** Whether new parameters are wanted, or what to add to them. */
  readonly form: "step" | "update";
}

export interface StepResult {
  /** By tensor; undefined where there was no gradient. */
  readonly results: readonly (Tensor | undefined)[];
  readonly regions: readonly Tensor[];
}

/** Whether everything is in memory, so that a step can be taken at once. */
export function canStepOn(heap: JaxHeap, arrays: StepArrays): boolean {
  const all = [
    ...arrays.gradients,
    ...(arrays.parameters ?? []),
    ...arrays.regions,
  ];
  for (const array of all) {
    if (!array || array.size === 0 || heap.isReady(array)) continue;
    // On one thread jax-js itself computes nowhere else.
    if (heap.threaded) return false;
    heap.flush(array);
  }
  return true;
}

export function stepOnHeap(
  heap: JaxHeap,
  { gradients, parameters, regions }: StepArrays,
  { optimizer, names, reads, step, form }: StepOn,
): StepResult {
  const made: Tensor[] = [];
  const make = (like: Tensor) => {
    const array = heap.make(
      like.shape,
      like.dtype === "uint32" ? "uint32" : "float32",
    );
    made.push(array);
    return array;
  };
  const takesPart = (i: number) => (gradients[i]?.size ?? 0) > 0;
  // What is ours alone is changed in place; what somebody else holds is copied first.
  const ownOf = (array: Tensor) => (heap.isOwned(array) ? array : make(array));
  try {
    // All memory first: it may grow, and views of it end then.
    const nextRegions = regions.map(ownOf);
    const targets = gradients.map((gradient, i) => {
      if (!takesPart(i)) return undefined;
      return form === "step" ? ownOf(parameters![i]!) : make(gradient!);
    });
    nextRegions.forEach((next, r) => {
      if (next !== regions[r]) heap.words(next).set(heap.words(regions[r]!));
    });
    targets.forEach((target, i) => {
      if (!target) return;
      if (form === "update" && !reads[i]) heap.floats(target).fill(0);
      else if (target !== parameters![i])
        heap.floats(target).set(heap.floats(parameters![i]!));
    });
    const given: Record<string, unknown> = {};
    const places: Record<string, unknown> = {};
    names.forEach((name, i) => {
      given[name] = takesPart(i) ? heap.floats(gradients[i]!) : null;
      if (targets[i]) places[name] = heap.floats(targets[i]);
    });
    optimizer.stepSync(given, {
      parameters: places,
      regions: nextRegions.map((region) => heap.bytes(region)),
      step,
    });
    if (form === "update")
      targets.forEach((target, i) => {
        if (target && reads[i]) heap.subtract(target, parameters![i]!);
      });
    const kept = new Set<Tensor>([...nextRegions, ...targets].filter(isTensor));
    /** A handle of its own for memory that was changed in place: the old one is consumed. */
    const renew = (array: Tensor, old: Tensor | undefined) =>
      array === old ? array.reshape(array.shape) : array;
    const results = targets.map((target, i) => {
      if (target) return renew(target, parameters?.[i]);
      // No gradient, or no elements: as it came.
      return form === "step" ? parameters![i]!.ref : gradients[i]?.ref;
    });
    const renewed = nextRegions.map((next, r) => renew(next, regions[r]));
    for (const array of [...gradients, ...(parameters ?? []), ...regions])
      if (array && !kept.has(array)) array.dispose();
    return { results, regions: renewed };
  } catch (error) {
    for (const array of made) array.dispose();
    throw error;
  }
}

const isTensor = (array: Tensor | undefined): array is Tensor =>
  array !== undefined;
