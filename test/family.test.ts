// Every optimizer in 32 bits against the published algorithm in float64
// (support/published.ts), and what each option changes.

import * as lowbit from "lowbit";
import { createOptimizer, dequantize, type Recipe } from "lowbit";
import { describe, expect, test } from "vitest";
import { bitsOf, gradientAt, normals } from "./support/numbers.ts";
import * as published from "./support/published.ts";

const shapes = { matrix: [24, 40], batch: [3, 8, 10], vector: [50] };
type Name = keyof typeof shapes;
const names = Object.keys(shapes) as Name[];
const steps = 200;

const lengthOf = (name: Name) => shapes[name].reduce((a, b) => a * b, 1);
const startOf = (name: Name) =>
  normals(lengthOf(name), 11 + names.indexOf(name), 0.5);
const gradientOf = (name: Name, t: number) =>
  gradientAt(lengthOf(name), 21 + names.indexOf(name), t);
const byName = <T>(of: (name: Name) => T) =>
  Object.fromEntries(names.map((name) => [name, of(name)])) as Record<Name, T>;

/** Rises and falls, never the same twice in a row. */
const rate = (lr: number) => (t: number) =>
  lr * Math.min(1, t / 10) * (1 + 0.5 * Math.sin(t));

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
  ["adafactor", lowbit.adafactor(), published.adafactor({}), 0.05],
  [
    "adafactor with momentum and decay",
    lowbit.adafactor({ beta1: 0.9, weightDecay: 0.1, decayRate: 0.6 }),
    published.adafactor({ beta1: 0.9, weightDecay: 0.1, decayRate: 0.6 }),
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
    published.adafactor({
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
    published.adafactor({ relativeStep: false, eps2: 0.6 }),
    0.02,
  ],
  ["sm3", lowbit.sm3(), published.sm3({}), 0.05],
  [
    "sm3 without momentum, with decay",
    lowbit.sm3({ momentum: 0, weightDecay: 0.1 }),
    published.sm3({ momentum: 0, weightDecay: 0.1 }),
    0.05,
  ],
  ["factor", lowbit.factor(), published.factor({}), 0.01],
  [
    "factor with other betas, eps, decay",
    lowbit.factor({ beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.1 }),
    published.factor({ beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.1 }),
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

/** float32 rounds 200 times, half an ulp each, of the parameter as it was. */
const tolerance = 2e-5;

function expectNear(
  label: string,
  actual: Float32Array,
  expected: Float64Array,
  start: Float32Array,
) {
  const wrong = actual.findIndex((value, i) => {
    const size = Math.max(Math.abs(start[i]!), Math.abs(expected[i]!), 0.01);
    return !(Math.abs(value - expected[i]!) <= tolerance * size);
  });
  if (wrong >= 0)
    expect.fail(
      `${label}: element ${wrong} is ${actual[wrong]}, published ${expected[wrong]}, from ${start[wrong]}`,
    );
  const moved = actual.filter((x, i) => Math.abs(x - start[i]!) > 1e-3);
  expect(moved.length, `${label} moved`).toBeGreaterThan(actual.length / 3);
}

type Tensors = Record<Name, Float32Array>;

const open = (
  recipe: Recipe,
  data: Tensors,
  device: "reference" | "wasm" = "wasm",
) =>
  createOptimizer(
    recipe,
    byName((name) => ({ data: data[name], shape: shapes[name] })),
    { device, minQuantizedSize: 0 },
  );

/** Parameters and states after some steps. */
async function run(
  recipe: Recipe,
  {
    count = 12,
    lr = 0.01,
    scale = 1,
  }: { count?: number; lr?: number; scale?: number } = {},
) {
  const data = byName((name) => startOf(name));
  const optimizer = await open(recipe, data);
  optimizer.lr = lr;
  for (let t = 1; t <= count; t++)
    await optimizer.step(
      byName((name) => gradientOf(name, t).map((x) => x * scale)),
    );
  const states = await Promise.all(names.map((name) => optimizer.state(name)));
  const memory = optimizer.memory();
  optimizer.dispose();
  return { data, states, memory };
}

const same = (a: Tensors, b: Tensors) =>
  names.every((name) => String(bitsOf(a[name])) === String(bitsOf(b[name])));

describe("an option changes what it should, and nothing else", () => {
  type Pair = [
    title: string,
    one: Recipe,
    two: Recipe,
    options?: Parameters<typeof run>[1],
  ];

  const equal: Pair[] = [
    [
      "sgdw without decay is sgd",
      lowbit.sgdw({ weightDecay: 0 }),
      lowbit.sgd(),
    ],
    [
      "sgdw with Nesterov, without decay, is sgd with Nesterov",
      lowbit.sgdw({ weightDecay: 0, nesterov: true, bits: 8 }),
      lowbit.sgd({ nesterov: true, bits: 8 }),
    ],
    [
      "adamw with amsgrad is adam with amsgrad, without decay",
      lowbit.adamw({ amsgrad: true, weightDecay: 0, bits: 8 }),
      lowbit.adam({ amsgrad: true, bits: 8 }),
    ],
    [
      "amsgrad changes nothing while v only grows",
      lowbit.adamw({ amsgrad: true }),
      lowbit.adamw(),
      { count: 1 },
    ],
    [
      "a cap that is not reached: lars is sgd",
      lowbit.lars({ maxUnorm: 1e6, weightDecay: 0 }),
      lowbit.sgd(),
      { scale: 0.01 },
    ],
    [
      "lars with a cap reads no trust coefficient",
      lowbit.lars({ maxUnorm: 0.02, trustCoefficient: 1 }),
      lowbit.lars({ maxUnorm: 0.02 }),
    ],
    [
      "schedules of ademamix that are over",
      lowbit.ademamix({ tAlpha: 1, tBeta3: 1 }),
      lowbit.ademamix(),
    ],
    [
      "adafactor below 1 / sqrt(t): the relative step is lr",
      lowbit.adafactor({ relativeStep: true }),
      lowbit.adafactor({ relativeStep: false }),
      { count: 12, lr: 0.01 },
    ],
    [
      "adafactor with thresholds that are not reached",
      lowbit.adafactor({ clipThreshold: 1e6 }),
      lowbit.adafactor({ clipThreshold: 1e9 }),
    ],
    [
      "nadam: a decay of 0 is the same coupled or not",
      lowbit.nadam({ decoupledWeightDecay: true }),
      lowbit.nadam(),
    ],
    [
      "adagrad: no decay of the rate in the first step",
      lowbit.adagrad({ lrDecay: 10 }),
      lowbit.adagrad(),
      { count: 1 },
    ],
  ];
  test.each(equal)("%s", async (_, one, two, options) => {
    expect(
      same((await run(one, options)).data, (await run(two, options)).data),
    ).toBe(true);
  });

  const rounded: Pair[] = [
    [
      "a cap that is not reached: lamb is adamw",
      lowbit.lamb({ maxUnorm: 1e6, eps: 1e-8 }),
      lowbit.adamw(),
    ],
    [
      "a slow average of which nothing is added: ademamix is adamw",
      lowbit.ademamix({ alpha: 0 }),
      lowbit.adamw(),
    ],
  ];
  test.each(rounded)("%s, but for rounding", async (_, one, two, options) => {
    const [a, b] = [await run(one, options), await run(two, options)];
    for (const name of names)
      expectNear(
        name,
        a.data[name],
        Float64Array.from(b.data[name]),
        startOf(name),
      );
  });

  const different: Pair[] = [
    ...[
      "sgdw",
      "rmsprop",
      "adagrad",
      "lion",
      "lars",
      "lamb",
      "ademamix",
      "adafactor",
      "sm3",
      "factor",
      "nadam",
      "adan",
      "scheduleFreeAdamw",
    ].map((name): Pair => {
      const factory = lowbit.optimizerByName(name);
      return [
        `${name} with weight decay`,
        factory({ weightDecay: 0.1 }),
        factory({ weightDecay: 0 }),
      ];
    }),
    [
      "adamw with amsgrad once v falls",
      lowbit.adamw({ amsgrad: true, beta2: 0.9 }),
      lowbit.adamw({ beta2: 0.9 }),
    ],
    ["sgdw with Nesterov", lowbit.sgdw({ nesterov: true }), lowbit.sgdw()],
    ["sgdw with dampening", lowbit.sgdw({ dampening: 0.5 }), lowbit.sgdw()],
    [
      "decoupled and coupled decay",
      lowbit.sgdw({ weightDecay: 0.1 }),
      lowbit.sgd({ weightDecay: 0.1 }),
    ],
    [
      "rmsprop with momentum",
      lowbit.rmsprop({ momentum: 0.9 }),
      lowbit.rmsprop(),
    ],
    [
      "adagrad with a decay of its rate",
      lowbit.adagrad({ lrDecay: 0.1 }),
      lowbit.adagrad(),
    ],
    [
      "adagrad from another sum",
      lowbit.adagrad({ initialAccumulator: 0.1 }),
      lowbit.adagrad(),
    ],
    ["lars with a cap", lowbit.lars({ maxUnorm: 0.02 }), lowbit.lars()],
    [
      "lars with another cap",
      lowbit.lars({ maxUnorm: 0.02 }),
      lowbit.lars({ maxUnorm: 0.01 }),
    ],
    [
      "lars with another trust coefficient",
      lowbit.lars({ trustCoefficient: 0.01 }),
      lowbit.lars(),
    ],
    ["lamb with a cap", lowbit.lamb({ maxUnorm: 1 }), lowbit.lamb()],
    [
      "lamb with another cap",
      lowbit.lamb({ maxUnorm: 0.1 }),
      lowbit.lamb({ maxUnorm: 0.2 }),
    ],
    [
      "ademamix with a schedule of alpha",
      lowbit.ademamix({ tAlpha: 100 }),
      lowbit.ademamix(),
    ],
    [
      "ademamix with a schedule of beta3",
      lowbit.ademamix({ tBeta3: 100 }),
      lowbit.ademamix(),
    ],
    [
      "adafactor with steps of lr",
      lowbit.adafactor({ relativeStep: false }),
      lowbit.adafactor(),
      { lr: 0.9 },
    ],
    [
      "adafactor with steps of an absolute size",
      lowbit.adafactor({ scaleParameter: false }),
      lowbit.adafactor(),
    ],
    [
      "adafactor with a lower threshold",
      lowbit.adafactor({ clipThreshold: 0.1 }),
      lowbit.adafactor(),
    ],
    [
      "adafactor with a first moment",
      lowbit.adafactor({ beta1: 0.9 }),
      lowbit.adafactor(),
    ],
    [
      "adafactor with another decay rate",
      lowbit.adafactor({ decayRate: 0.5 }),
      lowbit.adafactor(),
    ],
    ["sm3 without momentum", lowbit.sm3({ momentum: 0 }), lowbit.sm3()],
    [
      "nadam with a faster momentum decay",
      lowbit.nadam({ momentumDecay: 1 }),
      lowbit.nadam(),
    ],
    [
      "nadam with decoupled decay",
      lowbit.nadam({ weightDecay: 0.1, decoupledWeightDecay: true }),
      lowbit.nadam({ weightDecay: 0.1 }),
    ],
  ];
  test.each(different)("%s is another run", async (_, one, two, options) => {
    const [a, b] = [await run(one, options), await run(two, options)];
    for (const name of names)
      expect(
        a.data[name].filter((x, i) => Math.abs(x - b.data[name][i]!) > 1e-6)
          .length,
        name,
      ).toBeGreaterThan(lengthOf(name) / 10);
  });

  test("a capped update is no longer than its cap", async () => {
    for (const [recipe, cap] of [
      [lowbit.lamb({ maxUnorm: 0.05, weightDecay: 0 }), 0.05],
      [lowbit.lars({ maxUnorm: 0.02, weightDecay: 0 }), 0.02],
    ] as const) {
      const { data } = await run(recipe, { count: 1, lr: 0.1, scale: 100 });
      for (const name of names) {
        const start = startOf(name);
        const length = (x: Float32Array) => Math.hypot(...x);
        const moved = length(data[name].map((x, i) => x - start[i]!));
        expect(moved / (0.1 * cap * length(start))).toBeCloseTo(1, 4);
      }
    }
  });

  test("lamb's step is as long as the parameter, times lr", async () => {
    for (const scale of [1e-3, 1, 1e3]) {
      const { data } = await run(lowbit.lamb(), { count: 1, lr: 0.1, scale });
      for (const name of names) {
        const start = startOf(name);
        const moved = Math.hypot(...data[name].map((x, i) => x - start[i]!));
        expect(moved / (0.1 * Math.hypot(...start))).toBeCloseTo(1, 4);
      }
    }
  });

  test("adafactor clips to a root mean square of clipThreshold", async () => {
    const { data } = await run(
      lowbit.adafactor({ scaleParameter: false, clipThreshold: 0.25 }),
      { count: 1, lr: 0.1 },
    );
    for (const name of names) {
      const start = startOf(name);
      const moved = Math.hypot(...data[name].map((x, i) => x - start[i]!));
      expect(moved / Math.sqrt(lengthOf(name))).toBeCloseTo(0.1 * 0.25, 5);
    }
  });

  test("tensors of zeros move, under the trust ratios and caps, too", async () => {
    for (const recipe of [
      lowbit.lamb(),
      lowbit.lamb({ maxUnorm: 1 }),
      lowbit.lars(),
      lowbit.lars({ maxUnorm: 0.02 }),
      lowbit.adafactor(),
    ]) {
      const data = byName((name) => new Float32Array(lengthOf(name)));
      const optimizer = await open(recipe, data);
      await optimizer.step(byName((name) => gradientOf(name, 1)));
      optimizer.dispose();
      for (const name of names)
        expect(Math.hypot(...data[name])).toBeGreaterThan(0);
    }
  });

  test("an option that needs a state has it, and nobody else pays", async () => {
    const states = async (recipe: Recipe) =>
      (await run(recipe, { count: 1 })).states.map((one) =>
        Object.keys(one).join(" "),
      );
    expect(await states(lowbit.adamw())).toEqual(["m v", "m v", "m v"]);
    expect(await states(lowbit.adamw({ amsgrad: true }))).toEqual([
      "m v vmax",
      "m v vmax",
      "m v vmax",
    ]);
    expect(await states(lowbit.rmsprop())).toEqual(["v", "v", "v"]);
    expect(await states(lowbit.rmsprop({ momentum: 0.5 }))).toEqual([
      "v m",
      "v m",
      "v m",
    ]);
    expect(await states(lowbit.adafactor())).toEqual([
      "row col",
      "row col",
      "v",
    ]);
    expect(await states(lowbit.adafactor({ beta1: 0.9 }))).toEqual([
      "row col m",
      "row col m",
      "v m",
    ]);
    expect(await states(lowbit.sm3())).toEqual([
      "m row col",
      "m row col",
      "m v",
    ]);
    expect(await states(lowbit.sm3({ momentum: 0 }))).toEqual([
      "row col",
      "row col",
      "v",
    ]);
    expect(await states(lowbit.factor())).toEqual([
      "m row col",
      "m row col",
      "m v",
    ]);
    const { memory } = await run(lowbit.adafactor(), { count: 1 });
    expect(memory.stateBytes).toBe(4 * (24 + 40 + 3 * (8 + 10) + 50));
  });

  test("an average of the parameters goes with every form", async () => {
    const averaged = lowbit.withAverage(lowbit.adamw);
    for (const amsgrad of [false, true]) {
      const plain = await run(lowbit.adamw({ amsgrad, beta2: 0.9 }));
      const { data, states } = await run(averaged({ amsgrad, beta2: 0.9 }));
      expect(same(data, plain.data)).toBe(true);
      for (const one of states) {
        expect("vmax" in one).toBe(amsgrad);
        expect(one).toHaveProperty("average");
      }
    }
  });

  test("an override may choose another form for some tensors", async () => {
    const data = byName(startOf);
    const optimizer = await createOptimizer(
      lowbit.adamw({ bits: 8 }),
      byName((name) => ({ data: data[name], shape: shapes[name] })),
      {
        minQuantizedSize: 0,
        overrides: [{ match: "batch", amsgrad: true }],
      },
    );
    await optimizer.step(byName((name) => gradientOf(name, 1)));
    expect(Object.keys(await optimizer.state("matrix"))).toEqual(["m", "v"]);
    expect(Object.keys(await optimizer.state("batch"))).toEqual([
      "m",
      "v",
      "vmax",
    ]);
    optimizer.dispose();
  });

  test.each<[string, () => unknown, string]>([
    [
      "an alpha of 1",
      () => lowbit.rmsprop({ alpha: 1 }),
      "rmsprop: alpha must be in [0, 1), given 1",
    ],
    [
      "a schedule from nothing",
      () => lowbit.ademamix({ tBeta3: 9, beta1: 0 }),
      "ademamix: a schedule of beta3 needs",
    ],
    [
      "a threshold of 0",
      () => lowbit.adafactor({ clipThreshold: 0 }),
      "adafactor: clipThreshold must be above 0",
    ],
    [
      "no averaging",
      () => lowbit.scheduleFreeAdamw({ beta1: 0 }),
      "scheduleFreeAdamw: beta1 must be above 0",
    ],
    [
      "Nesterov with dampening",
      () => lowbit.sgdw({ nesterov: true, dampening: 0.1 }),
      "sgdw: nesterov needs",
    ],
    [
      "a format for rows",
      () => lowbit.adafactor({ state: { row: { bits: 8 } } }),
      "'row' holds few values",
    ],
    [
      "a state that no form has",
      () => lowbit.adamw({ state: { vmin: {} } }),
      "adamw: unknown state 'vmin'",
    ],
  ])("%s is an error", (_, make, message) => {
    expect(make).toThrow(message);
  });
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
