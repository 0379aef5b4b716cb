/**
 * Learning-rate schedules: pure functions that give a function of the step
 * (the first is 1), to be passed as `lr` or set on the optimizer. Hosts that count
 * the steps taken begin with 0, which is before the first step: 0 with a
 * warm-up, else the first step's rate. Each throws a RangeError for options that
 * make no schedule.
 */
export type Schedule = (step: number) => number;

export interface ScheduleOptions {
  /** Highest rate. */
  readonly lr: number;
  /** Steps of linear warm-up from 0; at step `warmup` the rate is `lr`. Default 0. */
  readonly warmup?: number;
}

export interface DecayOptions extends ScheduleOptions {
  /** Step at which the decay ends, warm-up included; the rate stays from then on. */
  readonly steps: number;
  /** Rate at the end. Default 0. */
  readonly min?: number;
}

/** Always the same rate, after the warm-up. */
export const constant = (options: ScheduleOptions): Schedule =>
  decay("constant", { ...options, steps: Infinity }, () => 1);

/** In a straight line from lr to min. */
export const linear = (options: DecayOptions): Schedule =>
  decay("linear", options, (done) => 1 - done);

/** Half a cosine from lr to min (arXiv 1608.03983, without restarts). */
export const cosine = (options: DecayOptions): Schedule =>
  decay("cosine", options, (done) => (1 + Math.cos(Math.PI * done)) / 2);

/** Warm-up, stable, decay: lr until the last `decay` share (default 0.2) of the steps after the warm-up, then a straight line to min. */
export function wsd(
  options: DecayOptions & { readonly decay?: number },
): Schedule {
  const { decay: share = 0.2, ...rest } = options;
  if (!(share > 0 && share <= 1))
    throw new RangeError(
      `wsd: decay must be a share of the steps in (0, 1], given ${share}`,
    );
  return decay("wsd", rest, (done) => Math.min(1, (1 - done) / share));
}

/** lr times `factor` (default 0.1) to the number of `every` steps that have passed. */
export function steps(
  options: ScheduleOptions & {
    readonly every: number;
    readonly factor?: number;
  },
): Schedule {
  const { every, factor = 0.1, ...rest } = options;
  if (!Number.isInteger(every) || every < 1)
    throw new RangeError(
      `steps: every must be an integer, 1 or more, given ${every}`,
    );
  if (!(factor > 0))
    throw new RangeError(`steps: factor must be above 0, given ${factor}`);
  const flat = constant(rest);
  return (step) =>
    flat(step) * factor ** Math.floor((Math.max(1, step) - 1) / every);
}

function decay(
  name: string,
  { lr, warmup = 0, steps: end, min = 0 }: DecayOptions,
  shape: (done: number) => number,
): Schedule {
  for (const [key, value] of Object.entries({ lr, warmup, min }))
    if (!Number.isFinite(value) || value < 0)
      throw new RangeError(
        `${name}: ${key} must be a finite number, 0 or more, given ${value}`,
      );
  if (!(end > warmup))
    throw new RangeError(
      `${name}: steps must be more than warmup ${warmup}, given ${end}`,
    );
  return (step) => {
    if (step <= warmup && warmup > 0) return (lr * step) / warmup;
    const done =
      end === Infinity ? 0 : Math.min(1, (step - warmup) / (end - warmup));
    return min + (lr - min) * shape(done);
  };
}
