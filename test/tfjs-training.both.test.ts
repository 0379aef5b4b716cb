// Four models on every backend of TensorFlow.js there is, trained with lowbit and with
// TensorFlow.js's own Adam from the same start.

import type { Optimizer } from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import { adam32bit, adam8bit, LowbitOptimizer } from "lowbit/tfjs";
import { backends, tf, useBackend, type BackendName } from "./support/tfjs.ts";
import { models, type TestModel } from "./support/tfjs-models.ts";

const STEPS = 8;
const RATE = 1e-2;
/** Explicit: TensorFlow.js's default depends on the backend. */
const EPSILON = 1e-7;

interface Run {
  readonly losses: number[];
  readonly weights: Float32Array[];
  readonly device: string;
}

async function train(
  make: () => TestModel,
  optimizer: Optimizer,
): Promise<Run> {
  const model = make();
  // Before the first step, or it may go by copies.
  if (optimizer instanceof LowbitOptimizer) await optimizer.ready();
  const losses: number[] = [];
  for (let step = 0; step < STEPS; step++) {
    const cost = optimizer.minimize(() => model.loss(), true, model.variables)!;
    losses.push((await cost.data())[0]!);
    cost.dispose();
  }
  const weights: Float32Array[] = [];
  for (const variable of model.variables)
    weights.push((await variable.data()).slice() as Float32Array);
  const device = optimizer instanceof LowbitOptimizer ? optimizer.device : "";
  optimizer.dispose();
  model.dispose();
  return { losses, weights, device };
}

/** Largest difference of two lists of numbers. */
const distance = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);

/** How steps reach the numbers there. */
const ways: Record<BackendName, string> = {
  cpu: "wasm, through dataSync and assign",
  wasm: "wasm, in place on the heap of TensorFlow.js",
  webgpu: "webgpu, in place in the buffers of TensorFlow.js",
  webgl: "wasm, through dataSync and assign",
};

describe.each(backends)("on $name", ({ name, skip }) => {
  describe("training", { skip: !!skip, meta: { skipReason: skip } }, () => {
    beforeAll(() => useBackend(name));

    test.each(Object.entries(models))("%s", async (_, make) => {
      const before = tf.memory().numTensors;
      const theirs = await train(
        make,
        tf.train.adam(RATE, 0.9, 0.999, EPSILON),
      );
      const ours = await train(make, adam32bit(RATE, { epsilon: EPSILON }));
      expect(ours.device).toBe(ways[name]);
      // Steps of 1e-2, and losses from 3.6 down.
      expect(distance(ours.losses, theirs.losses)).toBeLessThan(3e-5);
      for (const [i, weights] of ours.weights.entries())
        expect(distance(weights, theirs.weights[i]!)).toBeLessThan(3e-5);

      const eight = await train(
        make,
        adam8bit(RATE, { epsilon: EPSILON, minQuantizedSize: 0 }),
      );
      // Within a hundredth of what the loss begins with.
      const bound = theirs.losses[0]! / 100;
      expect(distance(eight.losses, theirs.losses)).toBeLessThan(bound);
      expect(distance(eight.losses, ours.losses)).toBeGreaterThan(0);
      expect(eight.losses.at(-1)).toBeLessThan(0.8 * eight.losses[0]!);
      expect(tf.memory().numTensors).toBe(before);
    });
  });
});
