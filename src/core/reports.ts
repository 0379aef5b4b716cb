/** What an optimizer tells of itself. */
import type { StepReport } from "../engines/engine.ts";
import type { MemoryReport } from "./memory.ts";
import type { Parts } from "./parts.ts";
import { rateAt } from "./rates.ts";

/** What happened in the last step. */
export interface Stats {
  /** Steps taken. */
  readonly step: number;
  /** Learning rate of the last step (of the next, before the first). */
  readonly lr: number;
  /** 2-norm of all gradients in the last step, before clipping; only with maxGradNorm. */
  readonly gradNorm?: number;
  /** Elements left out in the last step since they were not finite. */
  readonly nonFinite: number;
  /** Whether the last step was left out as a whole. */
  readonly skipped: boolean;
}

/** One row of `explain()`: what holds for a tensor, and which rule decided. */
export interface Explanation {
  /** Name of the parameter. */
  readonly name: string;
  /** As text: `[768, 3072]`. */
  readonly shape: string;
  /** Format of each state in words. */
  readonly state: string;
  /** Bytes of all its states. */
  readonly bytes: number;
  /** Bytes that float32 states would take. */
  readonly "bytes in 32-bit": number;
  /** Which rule decided the storage: the recipe, a group, an override, or the tensor's size. */
  readonly why: string;
  /** The group and the overrides that applied, in order. */
  readonly rules: string;
  readonly [hyper: string]: string | number;
}

export const statsOf = (
  { nonFinite, gradNorm, skipped }: StepReport,
  step: number,
  lr: number,
): Stats => ({
  step,
  lr,
  ...(gradNorm === undefined ? {} : { gradNorm }),
  nonFinite,
  skipped,
});

/**
 * @param rate learning rate of the next step.
 * @param t number of the next step.
 */
export function explanations(
  { recipe, resolved }: Parts,
  memory: MemoryReport,
  rate: number,
  t: number,
): Explanation[] {
  return memory.tensors.map((row, i) => {
    const { lr, hyper, rules } = resolved[i]!;
    return {
      name: row.name,
      shape: `[${row.shape.join(", ")}]`,
      state: Object.entries(row.formats)
        .map(([name, format]) => `${name}: ${format}`)
        .join("; "),
      bytes: row.bytes,
      "bytes in 32-bit": row.bytes32,
      why: row.why,
      rules: rules.join("; "),
      lr: lr === undefined ? rate : rateAt(recipe.name, lr, t),
      ...hyper,
    };
  });
}
