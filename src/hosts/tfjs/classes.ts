/** A class and a function for each optimizer and recipe. */
import { serialization } from "@tensorflow/tfjs-core";
import type { Hyper } from "../../optimizers/definition.ts";
import type { LearningRate } from "../../optimizers/hyper.ts";
import type { OptimizerFactory } from "../../optimizers/define.ts";
import { className, savedName } from "./names.ts";
import { LowbitOptimizer } from "./optimizer.ts";
import { fromConfig, type TfOptions } from "./options.ts";

/** A class of optimizers, for `new` and for `tf.serialization`. */
export interface LowbitOptimizerClass<H extends Hyper = Hyper> {
  /**
   * @param learningRate a number, or a function of the step (the first is 1). Default: the definition's.
   * @throws TypeError or RangeError for an option that is unknown or out of its range.
   */
  new (learningRate?: LearningRate, options?: TfOptions<H>): LowbitOptimizer;
  /** Name in saved models. */
  readonly className: string;
  /** What `tf.serialization` calls with what `getConfig` gave. */
  fromConfig<T extends serialization.Serializable>(
    cls: serialization.SerializableConstructor<T>,
    config: serialization.ConfigDict,
  ): T;
}

/**
 * The class of an optimizer or recipe, one defined with `defineOptimizer`
 * included. It registers itself with `@tensorflow/tfjs-core` when an instance
 * is first made; `registerWith` does so before.
 */
export function optimizerClass<H extends Hyper>(
  factory: OptimizerFactory<H>,
): LowbitOptimizerClass<H> {
  const general = factory as unknown as OptimizerFactory;
  const name = className(general);
  class Class extends LowbitOptimizer {
    static readonly className = savedName(name);
    static #registered = false;

    constructor(learningRate?: LearningRate, options?: TfOptions<H>) {
      super(general, learningRate, options ?? {});
      if (!Class.#registered) serialization.registerClass(Class as never);
      Class.#registered = true;
    }

    static override fromConfig<T extends serialization.Serializable>(
      cls: serialization.SerializableConstructor<T>,
      config: serialization.ConfigDict,
    ): T {
      const { learningRate, options } = fromConfig(general, config);
      return new cls(learningRate, options);
    }
  }
  Object.defineProperty(Class, "name", { value: `${name}Optimizer` });
  return Class as unknown as LowbitOptimizerClass<H>;
}

/** What a door's `adamw8bit` is: `tf.train.adam` with one options object. */
export type TfOptimizerFactory<H extends Hyper = Hyper> = (
  learningRate?: LearningRate,
  options?: TfOptions<H>,
) => LowbitOptimizer;

/** The function beside a class: `adamw8bit(1e-3)` for `new AdamW8bitOptimizer(1e-3)`. */
export const optimizerFactory =
  <H extends Hyper>(of: LowbitOptimizerClass<H>): TfOptimizerFactory<H> =>
  (learningRate, options) =>
    new of(learningRate, options);
