// Saving and loading, on every engine: what was saved comes back bit for bit,
// and a run that was loaded goes on as if it had never ended.

import {
  adamw,
  adamw32bit,
  adamw4bit,
  adamw4bitRank1,
  adamw8bit,
  factor4bit,
  lamb8bit,
  optimizers,
  schedules,
  type Recipe,
} from "lowbit";
import { afterAll, describe, expect, test } from "vitest";
import { advance, runOn, shapes, type Run } from "./support/checkpoints.ts";
import { engines } from "./support/engines.ts";

const reference = engines[0]!;

/** Parameters and stored states, for comparison. */
async function everything({ optimizer, parameters }: Run) {
  const states = [];
  for (const name of Object.keys(parameters))
    states.push([name, await optimizer.state(name)]);
  return { parameters, states, step: optimizer.steps };
}

/** Recipes that between them have every scale, every reduction and 16 bits. */
const varied: Readonly<Record<string, () => Recipe>> = {
  adamw8bit,
  adamw4bitRank1,
  factor4bit,
  lamb8bit,
  /** And one scale a tensor. */
  halves: () =>
    adamw({
      state: {
        m: { bits: 16, rounding: "stochastic" },
        v: { bits: 5, scale: "tensor" },
      },
    }),
};

const pick = (...names: string[]): typeof varied =>
  Object.fromEntries(names.map((name) => [name, varied[name]!]));

/** All there are, and {@link varied}. */
const registered: Readonly<Record<string, () => Recipe>> = {
  ...Object.fromEntries(
    [...optimizers()].map(([name, factory]) => [name, () => factory()]),
  ),
  ...varied,
};

describe.each(engines)("$name", (engine) => {
  const skip = !!engine.skipReason;
  const recipes = engine.slow
    ? pick("factor4bit", "halves")
    : engine.twinOf
      ? varied
      : registered;
  afterAll(() => engine.close?.());

  test.skipIf(skip)(
    `every recipe's file loads and is saved again byte for byte${skip ? ` (${engine.skipReason})` : ""}`,
    async () => {
      const taken = engine.slow ? pick("adamw4bitRank1") : recipes;
      for (const [name, recipe] of Object.entries(taken)) {
        const first = await runOn(reference, recipe());
        await advance(first, 1, 2);
        const file = await first.optimizer.save();
        const second = await runOn(engine, recipe());
        const report = await second.optimizer.load(file);
        expect(report, name).toEqual({
          version: 1,
          step: 2,
          requantized: [],
          differences: [],
        });
        expect(second.optimizer.steps).toBe(2);
        expect(await second.optimizer.save(), name).toEqual(file);
        first.optimizer.dispose();
        second.optimizer.dispose();
      }
    },
  );

  test.skipIf(skip)("goes on bit for bit", async () => {
    for (const [name, recipe] of Object.entries(recipes)) {
      const options = { maxGradNorm: 0.5, seed: 7 };
      const whole = await runOn(engine, recipe(), options);
      whole.optimizer.lr = schedules.cosine({ lr: 1e-3, steps: 6 });
      await advance(whole, 1, 2, 3);
      const file = await whole.optimizer.save();
      const resumed = await runOn(engine, recipe(), {
        ...options,
        from: whole.parameters,
      });
      resumed.optimizer.lr = schedules.cosine({ lr: 1e-3, steps: 6 });
      await resumed.optimizer.load(file);
      expect(await resumed.optimizer.save(), name).toEqual(file);
      await advance(whole, 4, 5);
      await advance(resumed, 4, 5);
      expect(await everything(resumed), name).toEqual(await everything(whole));
      whole.optimizer.dispose();
      resumed.optimizer.dispose();
    }
  });

  test.skipIf(skip)(
    "goes on in the midst of an accumulation, with its history of norms",
    async () => {
      const options = { accumulate: 3, percentileClipping: 50 };
      const whole = await runOn(engine, adamw8bit(), options);
      await advance(whole, 1, 2, 3, 4, 5, 6, 7, 8);
      expect(whole.optimizer.steps).toBe(2);
      const resumed = await runOn(engine, adamw8bit(), {
        ...options,
        from: whole.parameters,
      });
      await resumed.optimizer.load(await whole.optimizer.save());
      await advance(whole, 9, 10, 11, 12);
      await advance(resumed, 9, 10, 11, 12);
      expect(whole.optimizer.steps).toBe(4);
      expect(await everything(resumed)).toEqual(await everything(whole));
      // A sum that was lost, or a norm, would show in the next file.
      expect(await resumed.optimizer.save()).toEqual(
        await whole.optimizer.save(),
      );
    },
  );

  test.skipIf(skip)(
    "takes state from other formats and gives it as float32",
    async () => {
      const full = await runOn(reference, adamw32bit());
      await advance(full, 1, 2, 3);
      const low = await runOn(engine, adamw4bit());
      const report = await low.optimizer.load(await full.optimizer.save());
      expect(report.requantized).toContainEqual({
        tensor: "matrix",
        state: "m",
        from: "float32",
        to: "4-bit signed nf4, block 128",
      });
      expect(report.requantized.length).toBe(2 * Object.keys(shapes).length);
      // The same as quantizing it by hand.
      const byHand = await runOn(reference, adamw4bit());
      await byHand.optimizer.toLowBit(await full.optimizer.toFloat32());
      const plain = await low.optimizer.toFloat32();
      expect(plain).toEqual(await byHand.optimizer.toFloat32());
      expect(plain.step).toBe(3);
    },
  );
});
