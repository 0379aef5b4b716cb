// What each option of an optimizer changes, and what it does not.

import * as lowbit from "lowbit";
import { createOptimizer, type Recipe } from "lowbit";
import { describe, expect, test } from "vitest";
import {
  byName,
  expectNear,
  gradientOf,
  lengthOf,
  names,
  open,
  run,
  same,
  shapes,
  startOf,
} from "./support/family.ts";

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
