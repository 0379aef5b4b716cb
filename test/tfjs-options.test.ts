// Names, options and configurations of the optimizers for TensorFlow.js.

import "@tensorflow/tfjs-backend-cpu";
import { beforeAll, describe, expect, test } from "vitest";
import * as lowbit from "lowbit";
import * as door from "lowbit/tfjs";
import {
  adagrad8bit,
  adamw8bit,
  AdamW8bitOptimizer,
  LowbitOptimizer,
  optimizerClass,
  registerWith,
  rmsprop8bit,
  sgd8bit,
  type LowbitOptimizerClass,
  type TfOptimizerFactory,
} from "lowbit/tfjs";
import { normals } from "./support/numbers.ts";
import { tf, useBackend } from "./support/tfjs.ts";

const exported = door as unknown as Record<string, unknown>;
const recipes = [...lowbit.optimizers().keys()];
const classes = Object.values(exported).filter(
  (one): one is LowbitOptimizerClass =>
    typeof one === "function" && "className" in one,
);

beforeAll(() => useBackend("cpu"));

describe("the registry", () => {
  test("is whole: a class and a function for every recipe", async () => {
    expect(recipes.length).toBeGreaterThan(50);
    expect(classes.length).toBe(recipes.length);
    for (const recipe of recipes) {
      const made = (exported[recipe] as TfOptimizerFactory)(1e-3);
      expect(made).toBeInstanceOf(tf.Optimizer);
      expect(made).toBeInstanceOf(LowbitOptimizer);
      const name = made.constructor.name;
      expect(exported[name], recipe).toBe(made.constructor);
      expect(name.toLowerCase()).toBe(`${recipe}Optimizer`.toLowerCase());
    }
  });

  test("is what the script writes", async () => {
    const { recipesSource } = await import("../scripts/tfjs-recipes.mjs");
    const fs = await import("node:fs");
    const written = new URL("../src/hosts/tfjs/recipes.ts", import.meta.url);
    const hint =
      "run: node --conditions=lowbit-source scripts/tfjs-recipes.mjs";
    expect(
      fs.readFileSync(written, "utf8") === (await recipesSource()),
      hint,
    ).toBe(true);
  });

  test("registers with a TensorFlow.js under names that nobody else has", () => {
    const own = Object.keys(
      tf.serialization.SerializationMap.getMap().classNameMap,
    ).filter((name) => !name.startsWith("Lowbit"));
    registerWith(tf);
    const { classNameMap } = tf.serialization.SerializationMap.getMap();
    for (const one of classes) {
      expect(own).not.toContain(one.className);
      expect(one.className).toMatch(/^Lowbit[A-Za-z0-9]+$/);
      expect(classNameMap[one.className]![0]).toBe(one);
    }
    expect(() => registerWith({} as never)).toThrow(
      "registerWith: the argument must be your TensorFlow.js",
    );
  });

  test("instanceof tells lowbit's classes apart, and from others", () => {
    const adam: unknown = tf.train.adam(1e-3);
    expect(adam).not.toBeInstanceOf(LowbitOptimizer);
    expect(adamw8bit()).toBeInstanceOf(AdamW8bitOptimizer);
    expect(sgd8bit()).not.toBeInstanceOf(AdamW8bitOptimizer);
  });
});

describe("configurations", () => {
  test.each(recipes)("%s comes back from its own", (recipe) => {
    const first = (exported[recipe] as TfOptimizerFactory)(3e-3, {
      minQuantizedSize: 64,
      seed: 7,
    });
    // As a file has it.
    const config = JSON.parse(JSON.stringify(first.getConfig())) as never;
    const cls = first.constructor as unknown as LowbitOptimizerClass;
    const again = cls.fromConfig(cls as never, config) as LowbitOptimizer;
    expect(again).toBeInstanceOf(cls);
    expect(again.getConfig()).toEqual(first.getConfig());
    expect(again.learningRate).toBe(3e-3);
    first.dispose();
    again.dispose();
  });

  test("every option comes back, through what loading does to strings", () => {
    const options = {
      beta1: 0.8,
      beta2: 0.95,
      epsilon: 1e-6,
      weightDecay: 0.2,
      amsgrad: true,
      blockSize: 64,
      minQuantizedSize: 10,
      maxGradNorm: 2,
      maxGradValue: 5,
      skipNonFinite: "step",
      seed: 3,
      state: { v: { codebook: "linear-nozero" } },
      overrides: [
        { match: /dense_\d+\/bias_a/i, weightDecay: 0, learningRate: 1e-4 },
        { match: ["my_embedding/table_b"], bits: 32 },
      ],
      groups: [{ name: "a_b", parameters: "my_embedding/table_b", beta1: 0.5 }],
    } as const;
    const config = new AdamW8bitOptimizer(2e-3, options).getConfig();
    for (const value of Object.values(config))
      if (typeof value === "string") expect(value).not.toContain("_");
    const { learningRate, amsgrad, epsilon } = config;
    expect([learningRate, amsgrad, epsilon]).toEqual([2e-3, true, 1e-6]);
    // The loader adds a key of its own.
    const loaded = { ...config, customObjects: {} } as never;
    const again = AdamW8bitOptimizer.fromConfig(
      AdamW8bitOptimizer as never,
      loaded,
    ) as unknown as LowbitOptimizer;
    expect(again.getConfig()).toEqual(config);
  });

  test("a function cannot be saved, and says so", () => {
    const decaying = adamw8bit((step) => 1e-3 / step);
    expect(() => decaying.getConfig()).toThrow(
      "adamw8bit: a learning rate that is a function cannot be saved; set optimizer.learningRate to a number",
    );
    const chosen = adamw8bit(1e-3, {
      overrides: [{ match: ({ size }) => size < 10, bits: 32 }],
    });
    expect(() => chosen.getConfig()).toThrow(
      "adamw8bit: 'match' is a function, which cannot be saved",
    );
  });
});

describe("messages", () => {
  test.each<[string, () => unknown]>([
    [
      "unknown option 'eps'; did you mean 'epsilon'?",
      () => adamw8bit(1e-3, { eps: 1e-8 } as never),
    ],
    [
      "unknown option 'nesterov'; did you mean 'useNesterov'?",
      () => sgd8bit(1e-3, { nesterov: true } as never),
    ],
    [
      "unknown option 'alpha'; did you mean 'decay'?",
      () => rmsprop8bit(1e-3, { alpha: 0.9 } as never),
    ],
    [
      "unknown option 'wieghtDecay'; did you mean 'weightDecay'?",
      () => adamw8bit(1e-3, { wieghtDecay: 0 } as never),
    ],
    [
      "adamw8bit: options are an object, such as { epsilon: 1e-7 }, given 0.9",
      () => adamw8bit(1e-3, 0.9 as never),
    ],
    [
      "'learningRate' is no option here: the learning rate is the first argument",
      () => adamw8bit(1e-3, { learningRate: 1 } as never),
    ],
    [
      "'percentileClipping' is no option here",
      () => adamw8bit(1e-3, { percentileClipping: 5 } as never),
    ],
    ["learningRate must be a finite number, 0 or more", () => adamw8bit(-1)],
    [
      "learningRate must be a finite number, 0 or more",
      () => adamw8bit().setLearningRate(NaN),
    ],
    [
      "epsilon must be 0 or more, given -1",
      () => adamw8bit(1e-3, { epsilon: -1 }),
    ],
    ["beta1 must be in [0, 1), given 1", () => adamw8bit(1e-3, { beta1: 1 })],
    ["decay must be in [0, 1), given 1", () => rmsprop8bit(1e-3, { decay: 1 })],
    [
      "initialAccumulatorValue must be 0 or more",
      () => adagrad8bit(1e-3, { initialAccumulatorValue: -1 }),
    ],
    ["bits are 8 by its name, given 4", () => adamw8bit(1e-3, { bits: 4 })],
    ["maxGradNorm must be above 0", () => adamw8bit(1e-3, { maxGradNorm: 0 })],
  ])("%s", (message, cause) => {
    expect(cause).toThrow(message);
  });
});

describe("every option does something", () => {
  /** What a variable is after three steps. */
  function outcome(
    make: TfOptimizerFactory,
    options: object,
    bad = false,
  ): number[] {
    const variable = tf.variable(tf.tensor(normals(512, 1), [16, 32]));
    const optimizer = make(1e-2, { minQuantizedSize: 0, ...options } as never);
    for (let t = 0; t < 3; t++) {
      const values = normals(512, 2 + t, 3);
      if (bad && t === 1) values[5] = Infinity;
      const gradient = tf.tensor(values, [16, 32]);
      optimizer.applyGradients([{ name: variable.name, tensor: gradient }]);
      gradient.dispose();
    }
    const after = Array.from(variable.dataSync());
    optimizer.dispose();
    variable.dispose();
    return after;
  }

  const adamw = door.adamw as unknown as TfOptimizerFactory;
  const usual = outcome(adamw, { bits: 8 });

  test.each([
    { beta1: 0.5 },
    { beta2: 0.5 },
    { epsilon: 1 },
    { weightDecay: 0.5 },
    { bits: 4 },
    { blockSize: 32 },
    { state: { m: { codebook: "linear" } } },
    { minQuantizedSize: 513 },
    { maxGradNorm: 1, epsilon: 1 },
    { maxGradValue: 1 },
    { overrides: [{ match: /./, learningRate: 1e-3 }] },
    { groups: [{ parameters: /./, weightDecay: 0.5 }] },
  ])("%o", (option) => {
    expect(outcome(adamw, { bits: 8, ...option })).not.toEqual(usual);
  });

  test("amsgrad, after a gradient that was large", () => {
    const large = { beta2: 0.1, bits: 8 };
    expect(outcome(adamw, { ...large, amsgrad: true })).not.toEqual(
      outcome(adamw, large),
    );
  });

  test("seed, where rounding is stochastic", () => {
    const lion = door.lion4bit as unknown as TfOptimizerFactory;
    expect(outcome(lion, { seed: 1 })).not.toEqual(outcome(lion, { seed: 2 }));
  });

  test("skipNonFinite", () => {
    const element = outcome(adamw, {}, true);
    const step = outcome(adamw, { skipNonFinite: "step" }, true);
    expect(element.every(Number.isFinite)).toBe(true);
    expect(step.every(Number.isFinite)).toBe(true);
    expect(step).not.toEqual(element);
    const off = outcome(adamw, { skipNonFinite: "off" }, true);
    expect(off.every(Number.isFinite)).toBe(false);
  });

  test.each([
    ["rmsprop8bit", { decay: 0.5 }],
    ["rmsprop8bit", { momentum: 0.5 }],
    ["sgd8bit", { useNesterov: true }],
    ["adagrad8bit", { initialAccumulatorValue: 1 }],
    ["adagrad8bit", { learningRateDecay: 1 }],
    ["adafactor8bit", { epsilon2: 1 }],
  ])("%s: %o", (name, option) => {
    const make = exported[name] as TfOptimizerFactory;
    expect(outcome(make, option)).not.toEqual(outcome(make, {}));
  });
});

test("an optimizer of one's own becomes a class", () => {
  const sign = lowbit.defineOptimizer({
    name: "mySign",
    hyper: { lr: 1e-2, eps: 1e-3 },
    state: { m: "signed" },
    update: `
      m = 0.9 * m + 0.1 * g
      p = p - lr * m / (abs(m) + eps)
    `,
  });
  const MySign = optimizerClass(sign);
  expect(MySign.className).toBe("LowbitMySign");
  const optimizer = new MySign(0.1, { epsilon: 0, bits: 8 });
  const variable = tf.variable(tf.tensor1d([1, 2, 3]));
  optimizer.minimize(() => tf.sum(tf.square(variable)), false, [variable]);
  expect(Array.from(variable.dataSync())).toEqual(
    Array.from(Float32Array.of(0.9, 1.9, 2.9)),
  );
  optimizer.dispose();
});
