// The stable embedding layer on typed arrays.

import { describe, expect, test } from "vitest";
import { adamw8bit, createOptimizer, lion4bit, type Recipe } from "lowbit";
import { stableEmbedding, withPrefix } from "lowbit/nn";
import { normals } from "./support/numbers.ts";

const size = { vocabulary: 300, width: 20 };
const ids = [7, 0, 299, 7, 41, 7];

/** With a scale and a bias that a mistake would show in. */
function trained(options: Partial<Parameters<typeof stableEmbedding>[0]> = {}) {
  const embedding = stableEmbedding({ ...size, ...options });
  const { scale, bias } = embedding.parameters;
  scale.data.set(normals(scale.data.length, 1).map((x) => 1 + x / 3));
  bias.data.set(normals(bias.data.length, 2));
  return embedding;
}

type Values = Record<"weight" | "scale" | "bias", ArrayLike<number>>;

/**
 * bitsandbytes' nn.StableEmbedding in float64: F.embedding, then torch's
 * LayerNorm, (x - E[x]) / sqrt(Var[x] + eps) * weight + bias.
 */
function transcription(values: Values, width: number, ids: number[]): number[] {
  const mean = (x: number[]) => x.reduce((a, b) => a + b, 0) / x.length;
  return ids.flatMap((id) => {
    const row = Array.from(
      { length: width },
      (_, j) => values.weight[id * width + j]!,
    );
    const expected = mean(row);
    const variance = mean(row.map((x) => (x - expected) ** 2));
    return row.map(
      (x, j) =>
        ((x - expected) / Math.sqrt(variance + 1e-5)) * values.scale[j]! +
        values.bias[j]!,
    );
  });
}

const valuesOf = ({ parameters }: ReturnType<typeof stableEmbedding>) => ({
  weight: Float64Array.from(parameters.weight.data),
  scale: Float64Array.from(parameters.scale.data),
  bias: Float64Array.from(parameters.bias.data),
});

const furthest = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  expect(a.length).toBe(b.length);
  return Array.from(a).reduce(
    (most, x, i) => Math.max(most, Math.abs(x - b[i]!)),
    0,
  );
};

describe("the initial weight", () => {
  test("is uniform within sqrt(6 / (vocabulary + width))", () => {
    const { weight } = stableEmbedding({
      vocabulary: 5000,
      width: 40,
      seed: 1,
    }).parameters;
    const bound = Math.sqrt(6 / 5040);
    const n = weight.data.length;
    const moment = (power: number) =>
      weight.data.reduce((sum, x) => sum + (x / bound) ** power, 0) / n;
    // Moments of the uniform distribution, and 5 of their standard errors.
    expect(Math.abs(moment(1))).toBeLessThan(5 * Math.sqrt(1 / 3 / n));
    expect(Math.abs(moment(2) - 1 / 3)).toBeLessThan(5 * Math.sqrt(4 / 45 / n));
    expect(Math.abs(moment(4) - 1 / 5)).toBeLessThan(
      5 * Math.sqrt(16 / 225 / n),
    );
    const largest = weight.data.reduce((a, x) => Math.max(a, Math.abs(x)), 0);
    expect(largest).toBeLessThanOrEqual(Math.fround(bound));
    expect(largest).toBeGreaterThan(0.9999 * bound);
  });

  test("has neighbours, in rows and columns, that know nothing of each other", () => {
    const width = 64;
    const { data } = stableEmbedding({ vocabulary: 2000, width, seed: 5 })
      .parameters.weight;
    for (const distance of [1, width]) {
      let product = 0;
      let square = 0;
      for (let i = distance; i < data.length; i++) {
        product += data[i]! * data[i - distance]!;
        square += data[i]! ** 2;
      }
      expect(Math.abs(product / square)).toBeLessThan(
        5 / Math.sqrt(data.length),
      );
    }
  });

  test("is the same for the same seed, and another for another", () => {
    const weight = (seed?: number) =>
      stableEmbedding({ ...size, ...(seed === undefined ? {} : { seed }) })
        .parameters.weight.data;
    expect(weight(3)).toEqual(weight(3));
    expect(weight()).toEqual(weight(0));
    expect(furthest(weight(3), weight(4))).toBeGreaterThan(0.1);
  });

  test("comes with scale 1 and bias 0", () => {
    const { weight, scale, bias } = stableEmbedding(size).parameters;
    expect(weight.shape).toEqual([300, 20]);
    expect(scale).toEqual({ data: new Float32Array(20).fill(1), shape: [20] });
    expect(bias).toEqual({ data: new Float32Array(20), shape: [20] });
  });
});

describe("forward", () => {
  test("is a look-up and a layer norm", () => {
    const embedding = trained();
    const { output } = embedding.forward(ids);
    const expected = transcription(valuesOf(embedding), size.width, ids);
    expect(furthest(output, expected)).toBeLessThan(1e-6);
  });

  test("has rows of mean 0 and variance 1 at first, for any vocabulary", () => {
    // eps takes its share: the weight's variance is bound^2 / 3.
    for (const vocabulary of [10, 1000, 20_000]) {
      const width = 64;
      const { output } = stableEmbedding({ vocabulary, width }).forward([3]);
      const mean = output.reduce((a, b) => a + b, 0) / width;
      const variance = output.reduce((a, b) => a + b * b, 0) / width;
      expect(Math.abs(mean)).toBeLessThan(1e-6);
      expect(variance).toBeGreaterThan(0.85);
      expect(variance).toBeLessThan(1);
    }
  });

  test("takes typed arrays, and no ids at all", () => {
    const embedding = trained();
    expect(embedding.forward(Uint8Array.of(7, 41)).output).toEqual(
      embedding.forward([7, 41]).output,
    );
    const { output, backward } = embedding.forward([]);
    expect(output.length).toBe(0);
    expect(backward([]).weight.every((x) => x === 0)).toBe(true);
  });

  test("sees parameters that were changed in place", () => {
    const embedding = trained();
    embedding.parameters.weight.data.fill(1);
    const { output } = embedding.forward([1]);
    expect(output).toEqual(embedding.parameters.bias.data);
  });
});

describe("backward", () => {
  test("agrees with finite differences in float64", () => {
    const embedding = trained({ vocabulary: 9, width: 5, seed: 2 });
    const some = [4, 0, 8, 4, 4, 1];
    const direction = normals(some.length * 5, 7);
    const values = valuesOf(embedding);
    const loss = () =>
      transcription(values, 5, some).reduce(
        (sum, y, i) => sum + y * direction[i]!,
        0,
      );
    const gradients = embedding.forward(some).backward(direction);
    for (const name of ["weight", "scale", "bias"] as const) {
      const array = values[name];
      const differences = Array.from(array, (x, i) => {
        const h = 1e-5;
        array[i] = x + h;
        const above = loss();
        array[i] = x - h;
        const below = loss();
        array[i] = x;
        return (above - below) / (2 * h);
      });
      const largest = Math.max(...differences.map(Math.abs));
      expect(largest, name).toBeGreaterThan(0.5);
      expect(
        furthest(gradients[name], differences) / largest,
        name,
      ).toBeLessThan(1e-6);
    }
  });

  test("adds up what ids that repeat receive", () => {
    const embedding = trained();
    const { width } = size;
    const gradient = normals(3 * width, 3);
    const all = embedding.forward([7, 41, 7]).backward(gradient).weight;
    const alone = [7, 41, 7].map((id, i) =>
      embedding
        .forward([id])
        .backward(gradient.slice(i * width, (i + 1) * width))
        .weight.slice(id * width, (id + 1) * width),
    );
    const row = (id: number) => all.slice(id * width, (id + 1) * width);
    expect(row(41)).toEqual(alone[1]);
    expect(
      furthest(
        row(7),
        alone[0]!.map((x, j) => x + alone[2]![j]!),
      ),
    ).toBeLessThan(1e-6);
    // Nothing for the others.
    expect(all.filter((x) => x !== 0).length).toBeLessThanOrEqual(2 * width);
  });

  test("adds to the gradients it is given", () => {
    const embedding = trained();
    const gradient = normals(2 * size.width, 4);
    const pass = embedding.forward([1, 2]);
    const once = pass.backward(gradient);
    const twice = pass.backward(gradient, pass.backward(gradient));
    for (const name of ["weight", "scale", "bias"] as const)
      expect(twice[name]).toEqual(once[name].map((x) => 2 * x));
  });

  test("keeps ids and rows of its own", () => {
    const embedding = trained();
    const mine = Int32Array.of(5, 6);
    const gradient = normals(2 * size.width, 4);
    const pass = embedding.forward(mine);
    const before = pass.backward(gradient);
    mine.fill(0);
    pass.output.fill(NaN);
    expect(pass.backward(gradient)).toEqual(before);
  });
});

describe("overrides", () => {
  const body = { data: new Float32Array(6000), shape: [60, 100] };

  test.each<[string, Recipe]>([
    ["adamw8bit", adamw8bit()],
    ["lion4bit", lion4bit()],
  ])("give %s 32-bit state for the weight alone", async (name, recipe) => {
    const embedding = stableEmbedding(size);
    const optimizer = await createOptimizer(
      recipe,
      { ...withPrefix("wte.", embedding.parameters), body },
      { overrides: embedding.overrides("wte."), minQuantizedSize: 0 },
    );
    const { tensors } = optimizer.memory();
    const bits = Number(/\d+/.exec(name)![0]);
    expect(
      tensors.map((tensor) => [
        tensor.name,
        ...new Set(Object.values(tensor.bits)),
      ]),
    ).toEqual([
      ["wte.weight", 32],
      ["wte.scale", bits],
      ["wte.bias", bits],
      ["body", bits],
    ]);
    const [weight] = optimizer.explain();
    expect(weight!.bytes).toBe(weight!["bytes in 32-bit"]);
    expect(weight!.why).toContain("override 0 ('wte.weight')");
    optimizer.dispose();
  });

  test("leave hyperparameters and the rate alone", async () => {
    const embedding = stableEmbedding(size);
    const { weight } = embedding.parameters;
    const before = weight.data.slice();
    const optimizer = await createOptimizer(
      adamw8bit({ lr: 0.25, weightDecay: 0 }),
      withPrefix("e.", embedding.parameters),
      { overrides: embedding.overrides("e.") },
    );
    const { backward } = embedding.forward([3]);
    await optimizer.step(withPrefix("e.", backward(normals(20, 1))));
    const moved = weight.data.map((x, i) => x - before[i]!);
    // The first step of Adam is the learning rate, in the rows looked up.
    moved.forEach((x, i) =>
      expect(Math.abs(x)).toBeCloseTo(i >= 60 && i < 80 ? 0.25 : 0, 4),
    );
    optimizer.dispose();
  });

  test("need no prefix", () => {
    expect(stableEmbedding(size).overrides()).toEqual([
      { match: "weight", bits: 32 },
    ]);
  });
});

describe("messages", () => {
  test.each<[string, () => unknown]>([
    [
      "stableEmbedding: vocabulary must be a whole number, 1 or more, given 0",
      () => stableEmbedding({ vocabulary: 0, width: 4 }),
    ],
    [
      "stableEmbedding: width must be a whole number, 1 or more, given undefined",
      () => stableEmbedding({ vocabulary: 4 } as never),
    ],
    [
      "stableEmbedding: seed must be a whole number from 0 to 4294967295, given -1",
      () => stableEmbedding({ ...size, seed: -1 }),
    ],
    [
      "stableEmbedding: eps must be a number above 0, given NaN",
      () => stableEmbedding({ ...size, eps: NaN }),
    ],
    [
      "stableEmbedding: give { vocabulary, width }, given undefined",
      () => stableEmbedding(undefined as never),
    ],
    [
      "stableEmbedding: an id is a whole number from 0 to 299 (vocabulary 300), given 300 at 1",
      () => stableEmbedding(size).forward([1, 300]),
    ],
    [
      "stableEmbedding: an id is a whole number from 0 to 299 (vocabulary 300), given 0.5 at 0",
      () => stableEmbedding(size).forward([0.5]),
    ],
    [
      "stableEmbedding: the output of 2 ids has 40 numbers, its gradient 20; give one for each",
      () => stableEmbedding(size).forward([1, 2]).backward(normals(20, 1)),
    ],
    [
      "stableEmbedding: 'bias' has 20 numbers, the gradient to add to is missing",
      () => {
        const { backward } = stableEmbedding(size).forward([1]);
        const { weight, scale } = backward(normals(20, 1));
        return backward(normals(20, 1), { weight, scale } as never);
      },
    ],
  ])("%s", (message, cause) => {
    expect(cause).toThrow(message);
  });
});
