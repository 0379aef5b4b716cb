import * as jax from "@jax-js/jax";
import { beforeAll, describe, expect, test } from "vitest";
import { createForward, type Tensors } from "./forward.ts";
import { largestArray } from "./heap.ts";
import { initialParameters, parameterCount, parameterShapes } from "./model.ts";
import { Random } from "./random.ts";

const { numpy: np, tree } = jax;
const model = { layers: 2, heads: 2, width: 8, context: 5 };

beforeAll(async () => {
  await jax.init("wasm");
  jax.defaultDevice("wasm");
});

/** Larger than at the start of a run, so that no part of the model is idle. */
function parameters(): Record<string, { data: Float64Array; shape: number[] }> {
  const random = new Random(1, "test");
  return Object.fromEntries(
    Object.entries(parameterShapes(model)).map(([name, shape]) => {
      const data = new Float64Array(shape.reduce((a, b) => a * b));
      return [name, { data: data.map(() => 0.5 * random.normal()), shape }];
    }),
  );
}

const asTensors = (all: ReturnType<typeof parameters>): Tensors =>
  Object.fromEntries(
    Object.entries(all).map(([name, { data, shape }]) => [
      name,
      // A copy, since jax-js may read it later.
      np.array(data.slice(), { shape }),
    ]),
  );

function batch() {
  const random = new Random(2, "test");
  const bytes = () => Int32Array.from({ length: 10 }, () => random.below(256));
  return [
    np.array(bytes(), { shape: [2, 5] }),
    np.array(bytes(), { shape: [2, 5] }),
  ] as const;
}

test("gradients agree with finite differences to 0.2%, in every parameter", async () => {
  const { loss } = createForward(jax, model);
  const run = jax.jit(loss);
  const all = parameters();
  const [, gradients] = jax.jit(jax.valueAndGrad(loss))(
    asTensors(all),
    ...batch(),
  );
  for (const name of Object.keys(all)) {
    const { data } = all[name]!;
    const gradient = await gradients[name]!.data();
    // Along the gradient, the slope is its norm.
    const norm = Math.hypot(...gradient);
    const at = async (distance: number) => {
      const start = data.slice();
      gradient.forEach((g, i) => (data[i]! += (distance * g) / norm));
      const [value] = await run(asTensors(all), ...batch()).data();
      data.set(start);
      return value!;
    };
    const step = 1e-3;
    const slope = ((await at(step)) - (await at(-step))) / (2 * step);
    expect(norm, name).toBeGreaterThan(1e-4);
    expect(slope / norm, name).toBeCloseTo(1, 2.5);
  }
});

describe("the forward pass", () => {
  test("sees no later byte", async () => {
    const { logits } = createForward(jax, model);
    const read = async (last: number) =>
      logits(
        asTensors(parameters()),
        np.array(Int32Array.of(1, 2, 3, 4, last), { shape: [1, 5] }),
      ).data();
    const [a, b] = [await read(5), await read(6)];
    expect(a.subarray(0, 4 * 256)).toEqual(b.subarray(0, 4 * 256));
    expect(a.subarray(4 * 256)).not.toEqual(b.subarray(4 * 256));
  });

  test("begins close to even odds on all bytes", async () => {
    const { loss } = createForward(jax, model);
    const start = initialParameters(model, new Random(0, "test"));
    const tensors = Object.fromEntries(
      Object.entries(start).map(([name, { data, shape }]) => [
        name,
        np.array(data, { shape: [...shape] }),
      ]),
    );
    const [value] = await loss(tensors, ...batch()).data();
    expect(value).toBeCloseTo(Math.log(256), 1);
  });

  test("consumes its arguments and keeps nothing", async () => {
    const { loss } = createForward(jax, model);
    const tensors = asTensors(parameters());
    const held = tree.ref(tensors);
    const run = jax.jit(jax.valueAndGrad(loss));
    const [value, gradients] = run(tensors, ...batch());
    await value.data();
    tree.dispose(gradients);
    run.dispose();
    for (const tensor of Object.values(held)) expect(tensor.refCount).toBe(1);
    tree.dispose(held);
  });
});

test("counts the parameters", () => {
  expect(parameterCount({ layers: 4, heads: 4, width: 128, context: 64 })).toBe(
    834_304,
  );
});

test("the largest array of a step is found among matrices, logits and attention", () => {
  const model = { layers: 9, heads: 2, width: 64, context: 32 };
  expect(largestArray(model, 1)).toBe(4 * 4 * 64 * 64);
  expect(largestArray(model, 100)).toBe(4 * 100 * 32 * 256);
  expect(largestArray({ ...model, context: 512 }, 3)).toBe(
    4 * 3 * 2 * 512 * 512,
  );
});
