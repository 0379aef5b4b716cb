import type { Recipe } from "../optimizers/define.ts";
import { optimizerByName } from "../optimizers/registry.ts";
import type { TrainConfig } from "./config.ts";
import { asInputError } from "./errors.ts";

/**
 * The optimizer of a run.
 *
 * @throws InputError for an unknown optimizer, or one without a given option.
 */
export function trainRecipe(config: TrainConfig): Recipe {
  const { lr, weightDecay, beta1, beta2 } = config;
  try {
    const factory = optimizerByName(config.optimizer);
    return factory({
      lr,
      // Not every optimizer has it, and it was not asked for by name.
      ...("weightDecay" in factory.definition.hyper ? { weightDecay } : {}),
      ...(beta1 === undefined ? {} : { beta1 }),
      ...(beta2 === undefined ? {} : { beta2 }),
    });
  } catch (error) {
    throw asInputError(error);
  }
}

/**
 * The name that the registry gives an optimizer: `adamw8bit` for `AdamW_8bit`.
 *
 * @throws InputError for an unknown one.
 */
export function optimizerName(name: string): string {
  try {
    return optimizerByName(name).optimizerName;
  } catch (error) {
    throw asInputError(error);
  }
}
