/** How an engine reaches the arrays of a jax-js backend, and what a step gets and gives. */
import type { OptimizerHandle } from "../../core/optimizer.ts";
import type { Engine, Written } from "../../engines/engine.ts";
import type { Tensor } from "./contract.ts";

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
  /** Number of the step, from 1; by default one more than the optimizer's last. */
  readonly step?: number;
  /** Whether new parameters are wanted, or what to add to them. */
  readonly form: "step" | "update";
}

export interface StepResult {
  /** By tensor; undefined where there was no gradient. */
  readonly results: readonly (Tensor | undefined)[];
  readonly regions: readonly Tensor[];
}

export interface Reach {
  readonly engine: Engine;
  /** Whether arrays may have to be waited for before a step can be taken. */
  readonly waits: boolean;
  /** A scalar, if its value is known without waiting. */
  read(scalar: Tensor): number | undefined;
  /** Whether all arrays are, or can be, in memory at once. */
  canStep(arrays: StepArrays): boolean;
  step(arrays: StepArrays, how: StepOn): StepResult;
}

export interface Copy {
  readonly from: Tensor;
  readonly to: Tensor;
}

/** What an array is moved with; the rest of a step is the same on every backend. */
export interface Memory {
  /** An array of its own, its numbers yet to be written: zeros, or anything. */
  make(shape: readonly number[], type: "float32" | "uint32"): Tensor;
  /** Whether nobody else holds the array or its memory: no reference, no view, no kernel. */
  isOwned(array: Tensor): boolean;
  copy(pairs: readonly Copy[]): void;
  /** An array as the engine takes it, for a gradient or parameter, or for a region. */
  view(array: Tensor): unknown;
  region(array: Tensor): unknown;
  /** Where the engine writes parameters only, and not changes: how one makes the other. */
  readonly changes?: {
    /** Fills an array with zeros. */
    clear(array: Tensor): void;
    /** Takes the numbers of `from` from those of `to`. */
    subtract(to: Tensor, from: Tensor): void;
  };
}

export function stepIn(
  memory: Memory,
  { gradients, parameters, regions }: StepArrays,
  { optimizer, names, reads, step, form }: StepOn,
): StepResult {
  const made = new Set<Tensor>();
  const make = (like: Tensor) => {
    const type = like.dtype === "uint32" ? "uint32" : "float32";
    const array = memory.make(like.shape, type);
    made.add(array);
    return array;
  };
  const takesPart = (i: number) => (gradients[i]?.size ?? 0) > 0;
  // What is ours alone is changed in place; what somebody else holds is copied first.
  const ownOf = (array: Tensor) =>
    memory.isOwned(array) ? array : make(array);
  try {
    // All memory first: it may grow, and views of it end then.
    const nextRegions = regions.map(ownOf);
    const targets = gradients.map((gradient, i) => {
      if (!takesPart(i)) return undefined;
      return form === "step" ? ownOf(parameters![i]!) : make(gradient!);
    });
    const given: Record<string, unknown> = {};
    const places: Record<string, unknown> = {};
    names.forEach((name, i) => {
      given[name] = takesPart(i) ? memory.view(gradients[i]!) : null;
    });
    const copies = nextRegions.flatMap((to, r): Copy[] =>
      made.has(to) ? [{ from: regions[r]!, to }] : [],
    );
    const written: Record<string, Written> = {};
    targets.forEach((target, i) => {
      if (!target) return;
      const name = names[i]!;
      const unread = form === "update" && !reads[i];
      if (unread) memory.changes?.clear(target);
      if (form === "update" && !memory.changes)
        written[name] = unread ? "unreadChange" : "change";
      if (made.has(target) && !unread)
        copies.push({ from: parameters![i]!, to: target });
      places[name] = memory.view(target);
    });
    if (copies.length > 0) memory.copy(copies);
    optimizer.stepSync(given, {
      parameters: places,
      regions: nextRegions.map((region) => memory.region(region)),
      written,
      ...(step === undefined ? {} : { step }),
    });
    /** A handle of its own for memory that was changed in place: the old one is consumed. */
    const renew = (array: Tensor) => {
      if (made.has(array)) return array;
      kept.add(array);
      return array.reshape(array.shape);
    };
    const kept = new Set<Tensor>();
    const results = targets.map((target, i) => {
      // No gradient, or no elements: as it came.
      if (!target)
        return form === "step" ? parameters![i]!.ref : gradients[i]?.ref;
      if (form === "update" && reads[i])
        memory.changes?.subtract(target, parameters![i]!);
      return renew(target);
    });
    const renewed = nextRegions.map(renew);
    for (const array of [...gradients, ...(parameters ?? []), ...regions])
      if (array && !kept.has(array)) array.dispose();
    return { results, regions: renewed };
  } catch (error) {
    for (const array of made) array.dispose();
    throw error;
  }
}
