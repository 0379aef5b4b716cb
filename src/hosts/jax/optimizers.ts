/** Every optimizer and recipe of the registry, for jax-js. */
import type { Hyper } from "../../optimizers/definition.ts";
import type { OptimizerFactory } from "../../optimizers/define.ts";
import * as recipes from "../../optimizers/recipes.ts";
import { applyUpdatesOn, type ApplyUpdates } from "./apply.ts";
import type { Jax, Tensor } from "./contract.ts";
import { checkOptions, type HostOptions } from "./options.ts";
import {
  makeOptimizer,
  type JaxOptimizer,
  type JaxOptimizerFactory,
} from "./transformation.ts";

type Recipes = typeof recipes;
type HyperOf<F> = F extends OptimizerFactory<infer H extends Hyper> ? H : never;

/** The rate enters these in other ways than as a factor of the update. */
type Unscalable = `adafactor${string}` | `scheduleFreeAdamw${string}`;
const unscalable = /^(adafactor|scheduleFreeAdamw)/;

/** `adamw8bit(learningRate, options)` and so on. */
export type JaxOptimizers = {
  readonly [K in keyof Recipes]: JaxOptimizerFactory<HyperOf<Recipes[K]>>;
} & {
  /** `scaleByAdam8bit(options)`: the direction alone, for a chain that scales it by -lr. */
  readonly [
    K in keyof Recipes as K extends Unscalable
      ? never
      : `scaleBy${Capitalize<K & string>}`
  ]: (options?: HostOptions<HyperOf<Recipes[K]>>) => JaxOptimizer;
} & { readonly applyUpdates: ApplyUpdates };

/**
 * Every optimizer and recipe, and for those whose update lr scales its `scaleBy...`,
 * for a copy of jax-js of your own. The door's exports are those for the copy
 * that is installed beside this package.
 *
 * @param jax your `import * as jax from "@jax-js/jax"`
 */
export function optimizersFor(jax: Jax): JaxOptimizers {
  const applyUpdates: ApplyUpdates = (params, updates) =>
    applyUpdatesOn(jax, params, updates);
  const all: Record<string, unknown> = { applyUpdates };
  for (const [name, factory] of Object.entries(recipes)) {
    const plain = factory as unknown as OptimizerFactory;
    all[name] = (rate: number, options?: Record<string, unknown>) =>
      makeOptimizer(jax, plain, rate, options);
    if (unscalable.test(name)) continue;
    const scaled = `scaleBy${name[0]!.toUpperCase()}${name.slice(1)}`;
    all[scaled] = (options: Record<string, unknown> = {}) => {
      checkOptions(scaled, options);
      return scaleBy(jax, plain, options);
    };
  }
  return all as JaxOptimizers;
}

/** The update at a rate of 1, and with its sign turned: a direction to go against. */
function scaleBy(
  jax: Jax,
  factory: OptimizerFactory,
  options: Record<string, unknown>,
): JaxOptimizer {
  const decays = "weightDecay" in factory.definition.hyper;
  const optimizer = makeOptimizer(jax, factory, 1, {
    ...(decays ? { weightDecay: 0 } : {}),
    ...options,
  });
  return {
    ...optimizer,
    get device() {
      return optimizer.device;
    },
    update(updates, state, params) {
      const [result, next] = optimizer.update(updates, state, params);
      return [jax.tree.map(turned, result) as typeof result, next];
    },
  };
}

/** Of the other sign; null stays null. */
const turned = (update: Tensor): Tensor => update?.neg();
