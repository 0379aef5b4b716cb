// Every optimizer in 32 bits against the published algorithm in float64
// (support/published.ts).

import * as lowbit from "lowbit";
import { dequantize, type Recipe } from "lowbit";
import { describe, expect, test } from "vitest";
import * as published from "./support/published.ts";
import * as factored from "./support/published-factored.ts";
import {
  byName,
  expectNear,
  gradientOf,
  names,
  open,
  rate,
  shapes,
  startOf,
  steps,
  tolerance,
} from "./support/family.ts";

type Case = [
  title: string,
  recipe: Recipe,
  algorithm: published.Algorithm,
  lr: number,
];

const cases: Case[] = [
  [
    "adam with amsgrad",
    lowbit.adam({ amsgrad: true }),
    published.adam({ amsgrad: true }),
    0.01,
  ],
  [
    "adam with amsgrad, decay, other betas",
    lowbit.adam({ amsgrad: true, beta1: 0.8, beta2: 0.9, weightDecay: 0.1 }),
    published.adam({ amsgrad: true, beta1: 0.8, beta2: 0.9, weightDecay: 0.1 }),
    0.01,
  ],
  [
    "adamw with amsgrad",
    lowbit.adamw({ amsgrad: true, beta2: 0.9 }),
    published.adam({
      amsgrad: true,
      beta2: 0.9,
      weightDecay: 1e-2,
      decoupled: true,
    }),
    0.01,
  ],
  ["rmsprop", lowbit.rmsprop(), published.rmsprop({}), 0.002],
  [
    "rmsprop with momentum and decay",
    lowbit.rmsprop({ momentum: 0.9, alpha: 0.9, weightDecay: 0.1, eps: 1e-4 }),
    published.rmsprop({
      momentum: 0.9,
      alpha: 0.9,
      weightDecay: 0.1,
      eps: 1e-4,
    }),
    0.001,
  ],
  ["adagrad", lowbit.adagrad(), published.adagrad({}), 0.01],
  [
    "adagrad with everything",
    lowbit.adagrad({
      lrDecay: 0.05,
      initialAccumulator: 0.1,
      weightDecay: 0.1,
      eps: 1e-3,
    }),
    published.adagrad({
      lrDecay: 0.05,
      initialAccumulator: 0.1,
      weightDecay: 0.1,
      eps: 1e-3,
    }),
    0.05,
  ],
  ["lion", lowbit.lion(), published.lion({}), 0.001],
  [
    "lion with decay",
    lowbit.lion({ beta1: 0.95, beta2: 0.98, weightDecay: 0.5 }),
    published.lion({ beta1: 0.95, beta2: 0.98, weightDecay: 0.5 }),
    0.001,
  ],
  ["lars", lowbit.lars(), published.lars({}), 5],
  [
    "lars with decay",
    lowbit.lars({ momentum: 0.8, trustCoefficient: 0.01, weightDecay: 0.1 }),
    published.lars({ momentum: 0.8, trustCoefficient: 0.01, weightDecay: 0.1 }),
    0.5,
  ],
  [
    "lars with bitsandbytes' cap",
    lowbit.lars({ maxUnorm: 0.02, weightDecay: 0.1 }),
    published.cappedMomentum({ maxUnorm: 0.02, weightDecay: 0.1 }),
    0.5,
  ],
  ["lamb", lowbit.lamb(), published.lamb({}), 0.01],
  [
    "lamb without decay, other betas and eps",
    lowbit.lamb({ beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0 }),
    published.lamb({ beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0 }),
    0.01,
  ],
  [
    "lamb with bitsandbytes' cap",
    lowbit.lamb({ maxUnorm: 0.5, weightDecay: 0.1 }),
    published.lamb({ maxUnorm: 0.5, weightDecay: 0.1 }),
    0.02,
  ],
  ["ademamix", lowbit.ademamix(), published.ademamix({}), 0.01],
  [
    "ademamix with its schedules",
    lowbit.ademamix({
      tAlpha: 150,
      tBeta3: 120,
      alpha: 8,
      beta3: 0.999,
      weightDecay: 0.1,
    }),
    published.ademamix({
      tAlpha: 150,
      tBeta3: 120,
      alpha: 8,
      beta3: 0.999,
      weightDecay: 0.1,
    }),
    0.01,
  ],
  ["adafactor", lowbit.adafactor(), factored.adafactor({}), 0.05],
  [
    "adafactor with momentum and decay",
    lowbit.adafactor({ beta1: 0.9, weightDecay: 0.1, decayRate: 0.6 }),
    factored.adafactor({ beta1: 0.9, weightDecay: 0.1, decayRate: 0.6 }),
    0.05,
  ],
  [
    "adafactor with absolute steps of lr, another threshold and other eps",
    lowbit.adafactor({
      relativeStep: false,
      scaleParameter: false,
      clipThreshold: 0.3,
      eps1: 1e-6,
    }),
    factored.adafactor({
      relativeStep: false,
      scaleParameter: false,
      clipThreshold: 0.3,
      eps1: 1e-6,
    }),
    0.01,
  ],
  [
    "adafactor with the parameter's scale, at least eps2",
    lowbit.adafactor({ relativeStep: false, eps2: 0.6 }),
    factored.adafactor({ relativeStep: false, eps2: 0.6 }),
    0.02,
  ],
  ["sm3", lowbit.sm3(), factored.sm3({}), 0.05],
  [
    "sm3 without momentum, with decay",
    lowbit.sm3({ momentum: 0, weightDecay: 0.1 }),
    factored.sm3({ momentum: 0, weightDecay: 0.1 }),
    0.05,
  ],
  ["factor", lowbit.factor(), factored.factor({}), 0.01],
  [
    "factor with other betas, eps, decay",
    lowbit.factor({ beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.1 }),
    factored.factor({ beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.1 }),
    0.01,
  ],
  ["sgdw", lowbit.sgdw(), published.sgdw({}), 0.01],
  [
    "sgdw with dampening",
    lowbit.sgdw({ momentum: 0.8, dampening: 0.3, weightDecay: 0.2 }),
    published.sgdw({ momentum: 0.8, dampening: 0.3, weightDecay: 0.2 }),
    0.01,
  ],
  [
    "sgdw with Nesterov's momentum",
    lowbit.sgdw({ nesterov: true }),
    published.sgdw({ nesterov: true }),
    0.01,
  ],
  ["nadam", lowbit.nadam(), published.nadam({}), 0.01],
  [
    "nadam with decay of weights and momentum",
    lowbit.nadam({ weightDecay: 0.1, momentumDecay: 0.3, beta1: 0.95 }),
    published.nadam({ weightDecay: 0.1, momentumDecay: 0.3, beta1: 0.95 }),
    0.01,
  ],
  [
    "nadam with decoupled decay, a constant momentum",
    lowbit.nadam({
      weightDecay: 0.1,
      decoupledWeightDecay: true,
      momentumDecay: 0,
    }),
    published.nadam({
      weightDecay: 0.1,
      decoupledWeightDecay: true,
      momentumDecay: 0,
    }),
    0.01,
  ],
  ["adan", lowbit.adan(), published.adan({}), 0.01],
  [
    "adan with decay and other betas",
    lowbit.adan({ beta1: 0.9, beta2: 0.8, beta3: 0.95, weightDecay: 0.1 }),
    published.adan({ beta1: 0.9, beta2: 0.8, beta3: 0.95, weightDecay: 0.1 }),
    0.01,
  ],
  [
    "scheduleFreeAdamw",
    lowbit.scheduleFreeAdamw(),
    published.scheduleFreeAdamw({}),
    0.01,
  ],
  [
    "scheduleFreeAdamw with decay",
    lowbit.scheduleFreeAdamw({ beta1: 0.8, beta2: 0.95, weightDecay: 0.1 }),
    published.scheduleFreeAdamw({ beta1: 0.8, beta2: 0.95, weightDecay: 0.1 }),
    0.01,
  ],
];

describe.each(["reference", "wasm"] as const)("on %s", (device) => {
  test.each(cases)(
    `%s is the published algorithm over ${steps} steps of a changing rate`,
    async (_, recipe, algorithm, lr) => {
      const data = byName(startOf);
      const expected = byName((name) => Float64Array.from(startOf(name)));
      const rules = byName((name) => algorithm(expected[name], shapes[name]));
      const optimizer = await open(recipe, data, device);
      optimizer.lr = rate(lr);
      for (let t = 1; t <= steps; t++) {
        const g = byName((name) => gradientOf(name, t));
        await optimizer.step(g);
        for (const name of names)
          rules[name](Float64Array.from(g[name]), rate(lr)(t), t);
      }
      optimizer.dispose();
      for (const name of names)
        expectNear(name, data[name], expected[name], startOf(name));
    },
  );
});

test("the published algorithms are told apart: none passes for another", async () => {
  const lr = 0.01;
  const run = (algorithm: published.Algorithm) => {
    const p = Float64Array.from(startOf("matrix"));
    const rule = algorithm(p, shapes.matrix);
    for (let t = 1; t <= 20; t++)
      rule(Float64Array.from(gradientOf("matrix", t)), rate(lr)(t), t);
    return p;
  };
  const results = cases.map(([, , algorithm]) => run(algorithm));
  results.forEach((one, i) =>
    results.slice(i + 1).forEach((other, j) => {
      const far = one.some(
        (value, k) =>
          Math.abs(value - other[k]!) >
          tolerance * Math.max(0.01, Math.abs(value)),
      );
      expect(far, `${cases[i]![0]} and ${cases[i + 1 + j]![0]}`).toBe(true);
    }),
  );
});

test("nadam's product of momenta is right at any step, without a loop", () => {
  for (const momentumDecay of [0, 1e-6, 4e-3, 0.5, 40])
    for (const beta1 of [0, 0.5, 0.9, 0.9999]) {
      const { optimizer } = lowbit.nadam({ momentumDecay, beta1 });
      const hyper = { ...lowbit.nadam({ momentumDecay, beta1 }).hyper, lr: 1 };
      const mu = (t: number) => beta1 * (1 - 0.5 * 0.96 ** (t * momentumDecay));
      let product = 1;
      for (let t = 1; t <= 3000; t++) {
        product *= mu(t);
        const { fresh, along } = optimizer.scalarsAt(hyper, t);
        expect(fresh! / ((1 - mu(t)) / (1 - product))).toBeCloseTo(1, 9);
        expect(along).toBeCloseTo(mu(t + 1) / (1 - product * mu(t + 1)), 9);
      }
    }
});

test("schedule-free: p is y, and the average x comes from the state 'away'", async () => {
  const data = byName(startOf);
  const optimizer = await open(lowbit.scheduleFreeAdamw({ beta1: 0.8 }), data);
  const algorithm = published.scheduleFreeAdamw({ beta1: 0.8 });
  const y = byName((name) => Float64Array.from(startOf(name)));
  const rules = byName((name) => algorithm(y[name], shapes[name]));
  optimizer.lr = rate(0.01);
  for (let t = 1; t <= 50; t++) {
    const g = byName((name) => gradientOf(name, t));
    await optimizer.step(g);
    for (const name of names)
      rules[name](Float64Array.from(g[name]), rate(0.01)(t), t);
  }
  for (const name of names) {
    // As docs/optimizers.md has it.
    const { away } = await optimizer.state(name);
    const values =
      away!.kind === "float" ? away!.values : dequantize(away as never);
    const x = data[name].map((p, i) => p - (1 / 0.8 - 1) * values[i]!);
    expectNear(`x of ${name}`, x, algorithm.x(y[name]), startOf(name));
    expect(
      Math.max(...x.map((one, i) => Math.abs(one - data[name][i]!))),
    ).toBeGreaterThan(1e-3);
  }
  optimizer.dispose();
});
