/** How the learning rate goes from `lr` down to `minLr` after the warm-up. */
export type Schedule = "cosine" | "linear" | "constant";

/** The part of the way from `minLr` to `lr` that is left, for progress 0..1. */
export const schedules: Readonly<
  Record<Schedule, (progress: number) => number>
> = {
  cosine: (progress) => (1 + Math.cos(Math.PI * progress)) / 2,
  linear: (progress) => 1 - progress,
  constant: () => 1,
};

/**
 * The learning rate as a function of the step, which counts from 1: a linear
 * warm-up to `lr`, which it reaches at step `warmup`, then the schedule, which
 * ends at `minLr` with the last step.
 */
export function learningRate(config: {
  readonly lr: number;
  readonly minLr: number;
  readonly warmup: number;
  readonly steps: number;
  readonly schedule: Schedule;
}): (step: number) => number {
  const { lr, minLr, warmup, steps, schedule } = config;
  return (step) => {
    if (step <= warmup) return (lr * step) / warmup;
    const progress = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
    return minLr + (lr - minLr) * schedules[schedule](progress);
  };
}
