/** Values of hyperparameters: defaults, checks, and the learning rate. */
import type { Optimizer } from "./compile.ts";
import type { Hyper, HyperValue } from "./definition.ts";

/** A learning rate: a number, or a function of the step (the first is 1). */
export type LearningRate = number | ((step: number) => number);

/** @throws RangeError when a number is not finite or is below 0. */
export function checkLearningRate(
  owner: string,
  lr: LearningRate,
): LearningRate {
  if (typeof lr === "function") return lr;
  if (typeof lr !== "number" || !Number.isFinite(lr) || lr < 0)
    throw new RangeError(
      `${owner}: lr must be a finite number, 0 or more, or a function of the step, given ${String(lr)}`,
    );
  return lr;
}

/** Booleans as 1 and 0. */
export const numbers = (hyper: Hyper): Record<string, number> =>
  Object.fromEntries(
    Object.entries(hyper).map(([key, value]) => [key, Number(value)]),
  );

/** Checks hyperparameters (without lr) and fills in the defaults, booleans as numbers. */
export function hyperValues(
  optimizer: Optimizer,
  given: Readonly<Record<string, HyperValue>>,
  base: Readonly<Record<string, number>> = numbers(optimizer.hyper),
): Record<string, number> {
  const values: Record<string, number> = { ...base };
  delete values.lr;
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const type = typeof optimizer.hyper[key];
    if (typeof value !== type)
      throw new TypeError(
        `${optimizer.name}: ${key} must be a ${type}, given ${String(value)}`,
      );
    if (!Number.isFinite(Number(value)))
      throw new RangeError(
        `${optimizer.name}: ${key} must be finite, given ${String(value)}`,
      );
    checkRange(optimizer.name, key, Number(value));
    values[key] = Number(value);
  }
  optimizer.check(values);
  return values;
}

/** The ranges that hold for these names in every optimizer. */
function checkRange(owner: string, key: string, value: number): void {
  if (/^beta\d?$/.test(key)) {
    if (!(value >= 0 && value < 1))
      throw new RangeError(
        `${owner}: ${key} must be in [0, 1), given ${value}`,
      );
    return;
  }
  if (value < 0)
    throw new RangeError(`${owner}: ${key} must be 0 or more, given ${value}`);
}
