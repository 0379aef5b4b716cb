/** Saved models name their optimizer's class; loading looks it up. */
import type { serialization } from "@tensorflow/tfjs-core";
import * as recipes from "./recipes.ts";

/** The part of `@tensorflow/tfjs-core` (or `@tensorflow/tfjs`) asked for. */
export interface Registry {
  /** Its registry of classes. */
  readonly serialization: {
    registerClass(cls: never, ...more: never[]): unknown;
  };
}

/**
 * Makes the optimizers known to a TensorFlow.js, so that it loads models that were
 * saved with one: call it before `tf.loadLayersModel`, and wherever two copies
 * of TensorFlow.js may be about, since each has a list of its own.
 *
 * @param tf your `import * as tf from "@tensorflow/tfjs"`, or `globalThis.tf`
 * @param classes Default: all of this door.
 */
export function registerWith(
  tf: Registry,
  classes: readonly { readonly className: string }[] = optimizerClasses(),
): void {
  if (typeof tf?.serialization?.registerClass !== "function")
    throw new TypeError(
      `registerWith: the argument must be your TensorFlow.js, as in \`import * as tf from "@tensorflow/tfjs"\`, given ${String(tf)}`,
    );
  for (const one of classes)
    tf.serialization.registerClass(one as unknown as never);
}

const optimizerClasses = () =>
  Object.values(recipes).filter(
    (one): one is typeof one & serialization.SerializableConstructor<never> =>
      "className" in one,
  );
