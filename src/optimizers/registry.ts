import { nearestName } from "../formula/error.ts";
import type { OptimizerFactory } from "./define.ts";
import * as all from "./recipes.ts";

/** Every optimizer and every recipe by its name, in the alphabet's order. */
export const optimizers = (): ReadonlyMap<string, OptimizerFactory> =>
  new Map(
    Object.values(all).map((factory) => [
      factory.optimizerName,
      factory as unknown as OptimizerFactory,
    ]),
  );

const plain = (name: string) => name.toLowerCase().replace(/[^a-z0-9]/g, "");

/**
 * The optimizer or recipe that a configuration file names: `adamw8bit`,
 * `adamw_8bit` and `AdamW8bit` are the same.
 *
 * @throws TypeError for an unknown name, with the nearest one.
 */
export function optimizerByName(name: string): OptimizerFactory {
  const all = optimizers();
  for (const [known, factory] of all)
    if (plain(known) === plain(String(name))) return factory;
  const guess = nearestName(plain(String(name)), all.keys());
  throw new TypeError(
    `optimizerByName: unknown optimizer '${String(name)}'; ${guess ? `did you mean '${guess}'? There are` : "there are"} ${[...all.keys()].join(", ")}`,
  );
}
