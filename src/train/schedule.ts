import { constant, cosine, linear } from "../optimizers/schedules.ts";

/** How the learning rate goes from `lr` down to `minLr` after the warm-up. */
export const schedules = { cosine, linear, constant } as const;
/** A name of {@link schedules}. */
export type Schedule = keyof typeof schedules;

/** The learning rate of a run as a function of the step, which counts from 1. */
export function learningRate(config: {
  readonly lr: number;
  readonly minLr: number;
  readonly warmup: number;
  readonly steps: number;
  readonly schedule: Schedule;
}): (step: number) => number {
  const { lr, minLr: min, warmup } = config;
  // A run that ends within its warm-up never comes to the decay.
  const steps = Math.max(config.steps, warmup + 1);
  return schedules[config.schedule]({ lr, min, warmup, steps });
}
