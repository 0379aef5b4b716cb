/** Variables that came together, and their states. */
import type { Variable } from "@tensorflow/tfjs-core";
import { createOptimizerSync } from "../../core/create.ts";
import type { OptimizerHandle } from "../../core/optimizer.ts";
import type { Stats } from "../../core/reports.ts";
import type { TensorInfo } from "../../core/options.ts";
import type { OptimizerOptions } from "../../core/settings.ts";
import type { LearningRate } from "../../optimizers/hyper.ts";
import type { Recipe } from "../../optimizers/define.ts";
import type { Access, Update } from "./access.ts";

export const infoOf = ({ name, shape, size }: Variable): TensorInfo => ({
  name,
  shape,
  size,
});

export class Batch {
  readonly variables: readonly Variable[];
  readonly access: Access;
  readonly handle: OptimizerHandle;
  /** Gradients that leave every variable as it is. */
  readonly #none: Readonly<Record<string, null>>;
  /** Whether a step must know all gradients before it changes anything. */
  readonly #whole: boolean;
  /** Of each portion of the last step, when there were several. */
  #portions: (Stats | Promise<Stats>)[] = [];

  constructor(
    recipe: Recipe,
    variables: readonly Variable[],
    access: Access,
    settings: Omit<OptimizerOptions, "device">,
  ) {
    this.variables = variables;
    this.access = access;
    this.handle = createOptimizerSync(
      recipe,
      Object.fromEntries(variables.map(({ name, shape }) => [name, { shape }])),
      { ...settings, device: access.engine, hostParameters: true },
    );
    this.#none = Object.fromEntries(variables.map(({ name }) => [name, null]));
    this.#whole =
      settings.maxGradNorm !== undefined || settings.skipNonFinite === "step";
  }

  /** Whether a variable is left that the states are for. */
  get live(): boolean {
    return this.variables.some(({ isDisposed }) => !isDisposed);
  }

  /** One step for these variables; the others keep what they have. */
  step(updates: readonly Update[], lr: LearningRate, t: number): void {
    const { handle, access } = this;
    handle.lr = lr;
    const portions =
      access.portions && !this.#whole ? portionsOf(updates) : [updates];
    this.#portions = [];
    for (const portion of portions)
      access.update(portion, (gradients, parameters) => {
        handle.stepSync(
          { ...this.#none, ...gradients },
          { parameters, step: t },
        );
        if (portions.length > 1) this.#portions.push(handle.stats());
      });
  }

  /** What happened in the last step. */
  async stats(): Promise<Stats[]> {
    const known = this.#portions;
    // A device is only asked when somebody wants to know.
    return Promise.all(
      (known.length > 0 ? known : [this.handle.stats()]).map(
        async (one) => one,
      ),
    );
  }
}

/**
 * Runs of variables that are no larger together than the largest alone: so new
 * values beside the old ones never take more than one tensor.
 */
function portionsOf(updates: readonly Update[]): Update[][] {
  const largest = Math.max(...updates.map(({ variable }) => variable.size));
  const portions: Update[][] = [];
  let room = 0;
  for (const update of updates) {
    const { size } = update.variable;
    if (size > room) {
      portions.push([]);
      room = largest;
    }
    portions.at(-1)!.push(update);
    room -= size;
  }
  return portions;
}
