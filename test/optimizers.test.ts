// The optimizers in 32 bits against PyTorch's algorithms, written down here in
// float64 from its documentation: torch.optim.Adam, AdamW and SGD.

import {
  adam,
  adamw,
  createOptimizer,
  defineOptimizer,
  optimizerByName,
  optimizers,
  sgd,
  type Recipe,
  type RecipeOptions,
} from "lowbit";
import { describe, expect, test } from "vitest";
import { gradientAt, normals } from "./support/numbers.ts";
import { expectSameBits } from "./support/conformance.ts";

const length = 500;
const steps = 200;
const rate = (t: number) =>
  0.01 * (1 + Math.cos((Math.PI * t) / steps)) * Math.min(1, t / 10);

type Rule = (p: number, g: number, lr: number, t: number) => number;

/** torch.optim.Adam (coupled) and AdamW (decoupled) for one element. */
function torchAdam({
  beta1 = 0.9,
  beta2 = 0.999,
  eps = 1e-8,
  weightDecay = 0,
  decoupled = false,
}): () => Rule {
  return () => {
    let m = 0;
    let v = 0;
    return (p, g, lr, t) => {
      if (decoupled) p *= 1 - lr * weightDecay;
      else g += weightDecay * p;
      m = beta1 * m + (1 - beta1) * g;
      v = beta2 * v + (1 - beta2) * g ** 2;
      const unbiased = m / (1 - beta1 ** t);
      const denominator = Math.sqrt(v) / Math.sqrt(1 - beta2 ** t) + eps;
      return p - (lr * unbiased) / denominator;
    };
  };
}

/** torch.optim.SGD for one element. */
function torchSgd({
  momentum = 0,
  dampening = 0,
  nesterov = false,
  weightDecay = 0,
}): () => Rule {
  return () => {
    let buffer: number | undefined;
    return (p, g, lr) => {
      g += weightDecay * p;
      if (momentum !== 0) {
        buffer =
          buffer === undefined ? g : momentum * buffer + (1 - dampening) * g;
        g = nesterov ? g + momentum * buffer : buffer;
      }
      return p - lr * g;
    };
  };
}

const cases: [string, Recipe, () => Rule][] = [
  ["adam", adam(), torchAdam({})],
  [
    "adam with L2 decay",
    adam({ weightDecay: 0.1 }),
    torchAdam({ weightDecay: 0.1 }),
  ],
  [
    "adam with other betas and eps",
    adam({ beta1: 0.8, beta2: 0.95, eps: 1e-3 }),
    torchAdam({ beta1: 0.8, beta2: 0.95, eps: 1e-3 }),
  ],
  ["adam without momentum", adam({ beta1: 0 }), torchAdam({ beta1: 0 })],
  ["adamw", adamw(), torchAdam({ weightDecay: 0.01, decoupled: true })],
  [
    "adamw with strong decay",
    adamw({ weightDecay: 0.5, beta2: 0.98 }),
    torchAdam({ weightDecay: 0.5, beta2: 0.98, decoupled: true }),
  ],
  ["sgd", sgd(), torchSgd({ momentum: 0.9 })],
  ["sgd without momentum", sgd({ momentum: 0 }), torchSgd({})],
  [
    "sgd without momentum, with L2 decay",
    sgd({ momentum: 0, weightDecay: 0.1 }),
    torchSgd({ weightDecay: 0.1 }),
  ],
  [
    "sgd with dampening",
    sgd({ momentum: 0.8, dampening: 0.3 }),
    torchSgd({ momentum: 0.8, dampening: 0.3 }),
  ],
  [
    "sgd with Nesterov's momentum",
    sgd({ nesterov: true }),
    torchSgd({ momentum: 0.9, nesterov: true }),
  ],
  [
    "sgd with everything",
    sgd({ momentum: 0.7, nesterov: true, weightDecay: 0.05 }),
    torchSgd({ momentum: 0.7, nesterov: true, weightDecay: 0.05 }),
  ],
];

describe.each(["reference", "wasm"] as const)("on %s", (device) => {
  test.each(cases)(
    `%s goes PyTorch's way for ${steps} steps of a changing learning rate`,
    async (_, recipe, torch) => {
      const start = normals(length, 1, 0.5);
      const data = start.slice();
      const optimizer = await createOptimizer(
        recipe,
        { p: { data, shape: [length] } },
        { device },
      );
      optimizer.lr = rate;
      const rules = Array.from({ length }, torch);
      const expected = Float64Array.from(start);
      for (let t = 1; t <= steps; t++) {
        const g = gradientAt(length, 3, t);
        await optimizer.step({ p: g });
        rules.forEach(
          (rule, i) => (expected[i] = rule(expected[i]!, g[i]!, rate(t), t)),
        );
      }
      optimizer.dispose();
      // float32 rounds 200 times: half an ulp each, of the parameter as it was.
      const wrong = data.findIndex((value, i) => {
        const size = Math.max(
          Math.abs(start[i]!),
          Math.abs(expected[i]!),
          0.01,
        );
        return !(Math.abs(value - expected[i]!) <= 1e-5 * size);
      });
      if (wrong >= 0)
        expect.fail(
          `element ${wrong} is ${data[wrong]}, PyTorch has ${expected[wrong]}`,
        );
      expect(
        data.filter((value, i) => Math.abs(value - start[i]!) > 1e-3).length,
      ).toBeGreaterThan(length / 2);
    },
  );
});

describe("without weight decay", () => {
  for (const bits of [32, 8, 4])
    test(`adamw is adam, bit for bit, in ${bits} bits`, async () => {
      const size = 5000;
      const run = async (recipe: Recipe) => {
        const data = normals(size, 2);
        const optimizer = await createOptimizer(
          recipe,
          { p: { data, shape: [size] } },
          { device: "reference" },
        );
        for (let t = 1; t <= 10; t++)
          await optimizer.step({ p: gradientAt(size, 4, t) });
        return { data, state: await optimizer.state("p") };
      };
      const one = await run(adam({ bits, weightDecay: 0 }));
      const two = await run(adamw({ bits, weightDecay: 0 }));
      expectSameBits("parameters", one.data, two.data);
      expect(one.state).toEqual(two.state);
      // With decay they differ: the comparison can fail.
      const three = await run(adamw({ bits, weightDecay: 0.1 }));
      expect(three.data).not.toEqual(one.data);
    });
});

describe("low-bit runs stay near the 32-bit run", () => {
  // Minimizing a quadratic from noisy gradients: how much more of the loss is
  // left than in 32 bits, as a part of the loss at the start.
  test.each<[string, Recipe, number]>([
    ["adamw in 8 bits", adamw({ bits: 8, lr: 0.01 }), 0.002],
    ["adamw in 4 bits", adamw({ bits: 4, lr: 0.01 }), 0.06],
    ["sgd in 8 bits", sgd({ bits: 8, lr: 0.05 }), 0.002],
    [
      "sgd in 4 bits, stochastic",
      optimizerByName("sgd4bit")({ lr: 0.05 }),
      0.06,
    ],
  ])("%s", async (_, recipe, excess) => {
    const size = 4096;
    const curvature = normals(size, 8).map((z) => Math.exp(0.3 * z));
    const run = async (recipe: Recipe) => {
      const data = normals(size, 9);
      const optimizer = await createOptimizer(
        recipe,
        { p: { data, shape: [size] } },
        { device: "reference" },
      );
      for (let t = 1; t <= 300; t++) {
        const noise = normals(size, 1000 + t, 0.1);
        await optimizer.step({
          p: data.map((x, i) => curvature[i]! * x + noise[i]!),
        });
      }
      return (
        data.reduce((sum, x, i) => sum + (curvature[i]! * x * x) / 2, 0) / size
      );
    };
    const before =
      normals(size, 9).reduce(
        (sum, x, i) => sum + (curvature[i]! * x * x) / 2,
        0,
      ) / size;
    const plain = await run({ ...recipe, storage: { bits: 32 } });
    const low = await run(recipe);
    expect(plain).toBeLessThan(before / 5);
    expect(low - plain).toBeLessThan(excess * before);
  });
});

describe("optimizers by name", () => {
  test.each([
    "adamw8bit",
    "adamw_8bit",
    "AdamW8bit",
    "ADAMW-8BIT",
    "AdamW 8bit",
  ])("'%s' is adamw8bit", (name) => {
    expect(optimizerByName(name).optimizerName).toBe("adamw8bit");
  });

  test("every name of the registry finds itself, and makes a recipe of that name", () => {
    expect(optimizers().size).toBeGreaterThanOrEqual(13);
    for (const [name, factory] of optimizers()) {
      expect(optimizerByName(name)).toBe(factory);
      expect(factory().name).toBe(name);
      expect(factory({ lr: 0.5 }).lr).toBe(0.5);
    }
  });

  test("every optimizer comes in 32, 8 and 4 bits", () => {
    const names = [...optimizers().keys()];
    for (const base of names.filter((name) => !name.includes("bit")))
      for (const bits of [32, 8, 4]) {
        const recipe = optimizerByName(`${base}${bits}bit`)();
        expect(recipe.optimizer.name).toBe(base);
        expect(recipe.storage.bits).toBe(bits);
      }
  });

  test("an unknown name is an error with the nearest one", () => {
    expect(() => optimizerByName("adamw9bit")).toThrow(
      /^optimizerByName: unknown optimizer 'adamw9bit'; did you mean 'adamw\dbit'\? There are adafactor, adafactor32bit, /,
    );
    expect(() => optimizerByName("xyz")).toThrow(
      "unknown optimizer 'xyz'; there are adafactor, ",
    );
    expect(() => optimizerByName(undefined as never)).toThrow(
      "unknown optimizer 'undefined'",
    );
  });
});

describe("options of a recipe", () => {
  test.each<[string, () => unknown, string | RegExp]>([
    [
      "an unknown option",
      () => adamw({ weigthDecay: 0.1 } as never),
      "adamw: unknown option 'weigthDecay'; did you mean 'weightDecay'? There are lr, beta1, beta2, eps, weightDecay, amsgrad, bits, blockSize, state",
    ],
    [
      "an option far from all",
      () => adamw({ foo: 1 } as never),
      "adamw: unknown option 'foo'; there are lr, ",
    ],
    [
      "an option of another optimizer",
      () => sgd({ beta1: 0.9 } as never),
      "sgd: unknown option 'beta1'",
    ],
    [
      "an option unknown to a recipe, which is named",
      () => optimizerByName("adamw8bit")({ beta9: 1 } as never),
      "adamw8bit: unknown option 'beta9'",
    ],
    [
      "a beta of 1",
      () => adam({ beta1: 1 }),
      "adam: beta1 must be in [0, 1), given 1",
    ],
    [
      "a negative beta",
      () => adam({ beta2: -0.1 }),
      "adam: beta2 must be in [0, 1), given -0.1",
    ],
    [
      "a negative eps",
      () => adam({ eps: -1 }),
      "adam: eps must be 0 or more, given -1",
    ],
    [
      "a decay of NaN",
      () => adam({ weightDecay: NaN }),
      "adam: weightDecay must be finite, given NaN",
    ],
    [
      "a word as a number",
      () => adam({ eps: "1e-8" as never }),
      "adam: eps must be a number, given 1e-8",
    ],
    [
      "a number as a switch",
      () => sgd({ nesterov: 1 as never }),
      "sgd: nesterov must be a boolean, given 1",
    ],
    [
      "a negative learning rate",
      () => adam({ lr: -1 }),
      "adam: lr must be a finite number, 0 or more, or a function of the step, given -1",
    ],
    [
      "an infinite learning rate",
      () => adam({ lr: Infinity }),
      "given Infinity",
    ],
    [
      "Nesterov without momentum",
      () => sgd({ nesterov: true, momentum: 0 }),
      "sgd: nesterov needs a momentum above 0 and no dampening, given momentum 0",
    ],
    [
      "Nesterov with dampening",
      () => sgd({ nesterov: true, dampening: 0.5 }),
      "dampening 0.5",
    ],
    ["9 bits", () => adamw({ bits: 9 }), /bits must be 2 to 8.*given 9/],
    [
      "an unknown state",
      () => adamw({ state: { w: { bits: 8 } } }),
      "adamw: unknown state 'w'; there are m, v",
    ],
    [
      "other bits than the name says",
      () => optimizerByName("adamw8bit")({ bits: 4 }),
      "adamw8bit: bits are 8 by its name, given 4; use adamw({ bits: 4 })",
    ],
  ])("%s is an error", (_, make, message) => {
    expect(make).toThrow(message);
  });

  test("an option of undefined counts as left out", () => {
    expect(adamw({ eps: undefined, bits: undefined } as never)).toEqual(
      adamw(),
    );
  });

  test("a state's format wins over bits and blockSize, and keeps a recipe's other choices", () => {
    const recipe = optimizerByName("sgd4bit")({
      blockSize: 64,
      state: { m: { codebook: "dynamic" } },
    } as unknown as RecipeOptions);
    expect(recipe.storage).toEqual({
      bits: 4,
      blockSize: 64,
      state: { m: { rounding: "stochastic", codebook: "dynamic" } },
    });
  });

  test("an optimizer of one's own takes part like any other", async () => {
    const mine = defineOptimizer({
      name: "signsgd",
      hyper: { lr: 0.1 },
      state: {},
      update: "p = p - lr * sign(g)",
    });
    const data = Float32Array.of(1, 1, 1);
    const optimizer = await createOptimizer(mine(), {
      p: { data, shape: [3] },
    });
    await optimizer.step({ p: Float32Array.of(5, -5, 0) });
    expect([...data]).toEqual([0.9, 1.1, 1].map(Math.fround));
    expect(optimizer.memory().stateBytes).toBe(0);
    optimizer.dispose();
  });
});
