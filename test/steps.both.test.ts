// What happens around a step: limits on gradients, accumulation, schedules,
// averages of parameters.
import { afterAll, describe, expect, test } from "vitest";
import {
  adamw,
  adamw32bit,
  adamw4bit,
  adamw8bit,
  createOptimizer,
  defineOptimizer,
  schedules,
  sgd32bit,
  withAverage,
  type Recipe,
} from "lowbit";
import { engines } from "./support/engines.ts";
import { normals } from "./support/numbers.ts";

const size = 5000;
const values = (seed: number, scale = 1) => normals(size, seed, scale);

/** Plain gradient descent shows a gradient as it reached the formula. */
const descent = defineOptimizer({
  name: "descent",
  hyper: { lr: 1 },
  state: {},
  update: "p = p - lr * g",
});

describe.each(engines)("$name", ({ open, close, skipReason }) => {
  afterAll(async () => close?.());
  const make = async (
    recipe: Parameters<typeof createOptimizer>[0],
    data: Float32Array,
    options: Parameters<typeof createOptimizer>[2] = {},
  ) =>
    createOptimizer(
      recipe,
      { w: { data, shape: [size] } },
      { ...(await open()), ...options },
    );
  const it = (name: string, run: () => Promise<void>) =>
    test(name, async (context) => {
      if (skipReason) context.skip(skipReason);
      await run();
    });

  it("maxGradValue cuts off each element, and keeps skipping what is not finite", async () => {
    const data = new Float32Array(size);
    const gradient = values(1, 2);
    gradient[7] = NaN;
    gradient[8] = Infinity;
    using optimizer = await make(descent(), data, { maxGradValue: 0.5 });
    await optimizer.step({ w: gradient });
    gradient.forEach((g, i) => {
      const cut = Math.max(-0.5, Math.min(0.5, g));
      expect(data[i]).toBeCloseTo(Number.isFinite(g) ? -cut : 0, 6);
    });
    expect((await optimizer.stats()).nonFinite).toBe(2);
  });

  it("accumulates the mean of n gradients, and steps at every n-th call", async () => {
    const start = values(2);
    const gradients = [3, 4, 5, 6, 7, 8].map((seed) => values(seed));
    const data = start.slice();
    using optimizer = await make(adamw8bit({ lr: 1e-2 }), data, {
      accumulate: 3,
    });
    const plain = start.slice();
    using other = await make(adamw8bit({ lr: 1e-2 }), plain);
    for (const [i, gradient] of gradients.entries()) {
      await optimizer.step({ w: gradient });
      if (i === 1)
        expect([...data.slice(0, 99)]).toEqual([...start.slice(0, 99)]);
    }
    expect(optimizer.steps).toBe(2);
    for (const three of [gradients.slice(0, 3), gradients.slice(3)]) {
      const mean = three[0]!.map(
        (_, i) => (three[0]![i]! + three[1]![i]! + three[2]![i]!) / 3,
      );
      await other.step({ w: mean });
    }
    data.forEach((value, i) => expect(value).toBeCloseTo(plain[i]!, 4));
    expect(optimizer.memory().workspaceBytes).toBeGreaterThan(
      other.memory().workspaceBytes + 4 * size - 1,
    );
  });

  it("percentileClipping cuts an outlier down to the norms before it", async () => {
    const data = new Float32Array(size);
    using optimizer = await make(descent(), data, { percentileClipping: 50 });
    const unit = values(9);
    const norm = (x: Float32Array) => Math.hypot(...x);
    const scales = [1, 2, 3, 4, 5];
    for (const scale of scales)
      await optimizer.step({ w: unit.map((x) => x * scale) });
    const before = data.slice();
    await optimizer.step({ w: unit.map((x) => x * 1000) });
    const moved = data.map((x, i) => x - before[i]!);
    // The median of the norms seen, 3 times that of `unit`.
    expect(norm(moved) / norm(unit)).toBeCloseTo(3, 2);
    expect((await optimizer.stats()).gradNorm! / norm(unit)).toBeCloseTo(
      1000,
      0,
    );
  });

  it("percentileClipping makes nothing of steps without a gradient", async () => {
    const data = new Float32Array(size);
    using optimizer = await make(descent(), data, { percentileClipping: 5 });
    await optimizer.step({ w: new Float32Array(size) });
    const before = data.slice();
    await optimizer.step({ w: values(9) });
    expect(data).toEqual(before.map((x, i) => x - values(9)[i]!));
  });

  it("withAverage keeps a moving average and changes nothing else", async () => {
    const data = values(10);
    const plain = data.slice();
    using optimizer = await make(
      withAverage(adamw)({ bits: 8, averageDecay: 0.9 }),
      data,
    );
    using other = await make(adamw({ bits: 8 }), plain);
    let average: number[] = [];
    for (let t = 1; t <= 5; t++) {
      const gradient = values(20 + t);
      await optimizer.step({ w: gradient });
      await other.step({ w: gradient });
      average =
        t === 1
          ? [...plain]
          : average.map((a, i) => a + (1 - 0.9) * (plain[i]! - a));
    }
    expect(data.every((value, i) => Object.is(value, plain[i]))).toBe(true);
    const { average: stored } = await optimizer.state("w");
    if (stored?.kind !== "float") throw new Error("average is not float32");
    stored.values.forEach((value, i) =>
      expect(value).toBeCloseTo(average[i]!, 5),
    );
  });
});

test("withAverage keeps what a recipe says of storage, and the average as told", async () => {
  const bitsOf = async (recipe: Recipe) => {
    using optimizer = await createOptimizer(
      recipe,
      { w: { shape: [100] } },
      { device: "reference", minQuantizedSize: 0 },
    );
    return optimizer.memory().tensors[0]!.formats;
  };
  expect(await bitsOf(withAverage(adamw4bit)())).toEqual({
    m: "4-bit signed nf4, block 128",
    v: "4-bit unsigned linear-nozero, block 128",
    average: "float32",
  });
  expect(
    await bitsOf(
      withAverage(adamw4bit)({
        state: { m: { blockSize: 64 }, average: { bits: 16 } },
      }),
    ),
  ).toEqual({
    m: "4-bit signed nf4, block 64",
    v: "4-bit unsigned linear-nozero, block 128",
    average: "bfloat16",
  });
  expect(() => withAverage(adamw4bit)({ bits: 8 })).toThrow(
    "adamw4bit: bits are 4 by its name, given 8",
  );
  expect(() => withAverage(adamw)({ averageDecay: 1.5 })).toThrow(
    "adamwAverage: averageDecay must be in [0, 1), given 1.5",
  );
});

describe("schedules", () => {
  test("warm up to lr, and end at min", () => {
    const options = { lr: 1, warmup: 10, steps: 110, min: 0.1 };
    for (const name of ["linear", "cosine", "wsd"] as const) {
      const rate = schedules[name](options);
      expect(rate(1), name).toBeCloseTo(0.1, 12);
      expect(rate(10), name).toBe(1);
      expect(rate(110), name).toBeCloseTo(0.1, 12);
      expect(rate(1000), name).toBeCloseTo(0.1, 12);
    }
    expect(schedules.linear(options)(60)).toBeCloseTo(0.55, 12);
    expect(schedules.cosine(options)(60)).toBeCloseTo(0.55, 12);
    expect(schedules.cosine(options)(35)).toBeCloseTo(
      0.1 + 0.9 * ((1 + Math.SQRT1_2) / 2),
      12,
    );
    expect(schedules.wsd(options)(90)).toBeCloseTo(1, 12);
    expect(schedules.wsd(options)(100)).toBeCloseTo(0.55, 12);
    expect(schedules.constant({ lr: 3, warmup: 2 })(1)).toBe(1.5);
    expect(schedules.constant({ lr: 3 })(1e6)).toBe(3);
    const stairs = schedules.steps({ lr: 1, every: 10, factor: 0.5 });
    expect([1, 10, 11, 21].map(stairs)).toEqual([1, 1, 0.5, 0.25]);
  });

  test("know a step 0, with which some hosts begin", () => {
    const options = { lr: 2, steps: 100, every: 10 };
    for (const name of [
      "constant",
      "linear",
      "cosine",
      "wsd",
      "steps",
    ] as const) {
      expect(schedules[name](options)(0), name).toBe(2);
      expect(schedules[name]({ ...options, warmup: 4 })(0), name).toBe(0);
      expect(schedules[name]({ ...options, warmup: 4 })(4), name).toBe(2);
    }
  });

  test("say what is wrong", () => {
    expect(() => schedules.cosine({ lr: -1, steps: 5 })).toThrow(
      "cosine: lr must be a finite number, 0 or more, given -1",
    );
    expect(() => schedules.linear({ lr: 1, steps: 5, warmup: 5 })).toThrow(
      "linear: steps must be more than warmup 5, given 5",
    );
    expect(() => schedules.wsd({ lr: 1, steps: 5, decay: 2 })).toThrow(
      "wsd: decay must be a share of the steps in (0, 1], given 2",
    );
  });

  test("drive the optimizer by its own count of steps", async () => {
    const data = new Float32Array(3);
    const lr = schedules.linear({ lr: 4, steps: 4 });
    using optimizer = await createOptimizer(
      sgd32bit({ lr, momentum: 0 }),
      { w: { data, shape: [3] } },
      { device: "reference" },
    );
    const seen: number[] = [];
    for (let t = 1; t <= 4; t++) {
      const before = data[0]!;
      await optimizer.step({ w: new Float32Array(3).fill(1) });
      seen.push(before - data[0]!);
    }
    expect(seen).toEqual([3, 2, 1, 0]);
  });
});

test.each([
  ["maxGradValue", 0, "maxGradValue must be above 0, given 0"],
  ["percentileClipping", 100, "must be a percentile from 1 to 99, given 100"],
  ["accumulate", 1.5, "accumulate must be an integer, 1 or more, given 1.5"],
])("%s = %s is refused with the reason", async (key, value, message) => {
  await expect(
    createOptimizer(
      adamw32bit(),
      { w: { data: new Float32Array(1), shape: [1] } },
      { [key]: value },
    ),
  ).rejects.toThrow(message);
});
