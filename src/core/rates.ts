/** Learning rates and the scalars of a step. */
import type { StepTensor } from "../engines/engine.ts";
import type { LearningRate } from "../optimizers/hyper.ts";
import type { Parts } from "./parts.ts";

/** The learning rate of step `t`, from 1. @throws RangeError when a schedule gives none. */
export function rateAt(owner: string, lr: LearningRate, t: number): number {
  if (typeof lr === "number") return lr;
  const value = lr(t);
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0)
    throw new RangeError(
      `${owner}: the learning rate of step ${t} must be a finite number, 0 or more, the schedule gave ${String(value)}`,
    );
  return value;
}

type StepScalars = Pick<StepTensor, "uniforms" | "floors">;

/**
 * What a step's scalars make for every tensor; tensors with the same
 * hyperparameters share it.
 *
 * @param base learning rate of the tensors that have none of their own.
 */
export function stepScalars(
  { recipe, resolved, settings }: Parts,
  base: number,
  t: number,
): StepScalars[] {
  const shared = new Map<unknown, Map<unknown, StepScalars>>();
  return resolved.map(({ optimizer, lr, hyper }) => {
    const own = lr !== undefined;
    const byHyper = shared.get(optimizer) ?? new Map<unknown, StepScalars>();
    shared.set(optimizer, byHyper);
    const cached = own ? undefined : byHyper.get(hyper);
    if (cached) return cached;
    const rate = own ? rateAt(recipe.name, lr, t) : base;
    const scalars = optimizer.scalarsAt(
      { ...hyper, lr: rate, maxGradValue: settings.maxGradValue ?? 0 },
      t,
    );
    const made = {
      uniforms: optimizer.program.uniforms(scalars),
      floors: Float32Array.from(
        optimizer.program.states,
        (name) => optimizer.floors[name]?.(scalars) ?? 0,
      ),
    };
    if (!own) byHyper.set(hyper, made);
    return made;
  });
}
