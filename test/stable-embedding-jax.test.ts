// The stable embedding layer on jax-js, against the one on typed arrays.

import * as jax from "@jax-js/jax";
import { beforeAll, describe, expect, test } from "vitest";
import { adamw8bit, createOptimizer } from "lowbit";
import { stableEmbedding as onJax } from "lowbit/jax";
import { stableEmbedding, withPrefix } from "lowbit/nn";
import { normals } from "./support/numbers.ts";

const { numpy: np, jit, tree, valueAndGrad } = jax;
type Tensor = jax.numpy.Array;
type Params = Record<"weight" | "scale" | "bias", Tensor>;

const NAMES = ["weight", "scale", "bias"] as const;
const size = { vocabulary: 300, width: 24, seed: 9 };
/** [2, 4], with a row that repeats. */
const ids = [7, 0, 299, 7, 41, 7, 2, 2];
const direction = normals(ids.length * size.width, 3);

beforeAll(async () => {
  expect(await jax.init("wasm")).toContain("wasm");
  jax.defaultDevice("wasm");
});

const array = (data: Float32Array<ArrayBuffer>, shape: readonly number[]) =>
  np.array(data).reshape([...shape]);
const idArray = (values: readonly number[], shape: number[]) =>
  np.array(Int32Array.from(values)).reshape(shape);

/** Both layers with the same numbers, a scale and a bias that show. */
function both() {
  const plain = stableEmbedding(size);
  const { weight, scale, bias } = plain.parameters;
  scale.data.set(normals(size.width, 1).map((x) => 1 + x / 3));
  bias.data.set(normals(size.width, 2));
  const params: Params = {
    weight: array(weight.data, weight.shape),
    scale: array(scale.data, scale.shape),
    bias: array(bias.data, bias.shape),
  };
  return { plain, params, layer: onJax(jax, size) };
}

/** Largest difference as a share of the largest expected number. */
function distance(actual: ArrayLike<number>, expected: ArrayLike<number>) {
  expect(actual.length).toBe(expected.length);
  const largest = Math.max(...Array.from(expected, Math.abs));
  const differences = Array.from(actual, (x, i) => Math.abs(x - expected[i]!));
  return Math.max(...differences) / largest;
}

async function expectGradients(
  actual: Params,
  expected: Record<(typeof NAMES)[number], Float32Array>,
  bound = 2e-6,
) {
  for (const name of NAMES)
    expect(
      distance(await actual[name].data(), expected[name]),
      name,
    ).toBeLessThan(bound);
}

test("starts with the numbers of lowbit/nn", async () => {
  const { weight, scale, bias } = onJax(jax, size).init();
  const { parameters } = stableEmbedding(size);
  expect(weight.shape).toEqual([300, 24]);
  expect(await weight.data()).toEqual(parameters.weight.data);
  expect(await scale.data()).toEqual(parameters.scale.data);
  expect(await bias.data()).toEqual(parameters.bias.data);
});

test("gives the same output, eagerly and under jit", async () => {
  const { plain, params, layer } = both();
  const expected = plain.forward(ids).output;
  for (const apply of [layer.apply, jit(layer.apply)]) {
    const output = apply(tree.ref(params), idArray(ids, [2, 4]));
    expect(output.shape).toEqual([2, 4, 24]);
    expect(distance(await output.data(), expected)).toBeLessThan(2e-6);
  }
  tree.dispose(params);
});

// Each ends in another way, as jax-js has no gradient under jit for some.
const losses: Record<
  string,
  {
    loss: (out: Tensor, r: Tensor) => Tensor;
    gradient: (out: Float32Array) => ArrayLike<number>;
  }
> = {
  "a product": {
    loss: (out, r) => np.sum(out.mul(r)),
    gradient: () => direction,
  },
  "a matmul": {
    loss: (out, r) =>
      np
        .sum(
          np
            .matmul(out.reshape([8, 24]), np.transpose(r.ref.reshape([8, 24])))
            .mul(np.eye(8)),
        )
        .add(np.sum(r).mul(0)),
    gradient: () => direction,
  },
  "a sum": {
    loss: (out, r) => np.sum(out).add(np.sum(r).mul(0)),
    gradient: (out) => out.map(() => 1),
  },
  "a reshape and a mean of squares": {
    loss: (out, r) =>
      np
        .mean(np.square(np.transpose(out.reshape([8, 24]))))
        .add(np.sum(r).mul(0)),
    gradient: (out) => out.map((x) => (2 * x) / out.length),
  },
};

describe("the gradients are those of lowbit/nn", () => {
  describe.each(Object.entries(losses))("through %s", (_, one) => {
    test.each([
      ["eagerly", <F>(f: F) => f],
      ["under jit", jit as unknown as <F>(f: F) => F],
    ])("%s", async (_, wrap) => {
      const { plain, params, layer } = both();
      const lossOf = (p: Params, i: Tensor, r: Tensor) =>
        one.loss(layer.apply(p, i), r);
      const step = wrap(valueAndGrad(lossOf));
      const pass = plain.forward(ids);
      const expected = pass.backward(one.gradient(pass.output));
      // Twice: the second call takes what jit has compiled.
      for (let time = 0; time < 2; time++) {
        const [, gradients] = step(
          tree.ref(params),
          idArray(ids, [2, 4]),
          array(direction, [2, 4, 24]),
        );
        await expectGradients(gradients as Params, expected);
      }
      tree.dispose(params);
    });
  });
});

test("may be the output layer, too: the gradients add up", async () => {
  const { plain, params, layer } = both();
  const loss = (p: Params, i: Tensor, r: Tensor) => {
    const table = p.weight.ref;
    const rows = layer.apply(p, i).add(r).reshape([8, 24]);
    return np.sum(np.square(np.matmul(rows, np.transpose(table))));
  };
  const step = jit(valueAndGrad(loss));
  const [, gradients] = step(
    params,
    idArray(ids, [2, 4]),
    array(direction, [2, 4, 24]),
  );

  // By hand, in float64: logits = rows W', loss = sum of their squares.
  const { data: weight } = plain.parameters.weight;
  const pass = plain.forward(ids);
  const rows = pass.output.map((x, i) => x + direction[i]!);
  const ofRows = new Float64Array(rows.length);
  const ofTable = new Float64Array(weight.length);
  for (let n = 0; n < 8; n++)
    for (let v = 0; v < 300; v++) {
      let logit = 0;
      for (let j = 0; j < 24; j++)
        logit += rows[n * 24 + j]! * weight[v * 24 + j]!;
      for (let j = 0; j < 24; j++) {
        ofRows[n * 24 + j]! += 2 * logit * weight[v * 24 + j]!;
        ofTable[v * 24 + j]! += 2 * logit * rows[n * 24 + j]!;
      }
    }
  const expected = pass.backward(ofRows);
  expected.weight.forEach((_, i) => (expected.weight[i]! += ofTable[i]!));
  await expectGradients(gradients as Params, expected, 1e-5);
});

test("takes ids of any shape", () => {
  const { params, layer } = both();
  for (const shape of [[8], [2, 4], [2, 2, 2]])
    expect(layer.apply(tree.ref(params), idArray(ids, shape)).shape).toEqual([
      ...shape,
      24,
    ]);
});

test("owns what it is given: nothing is left, and .ref keeps", async () => {
  const { params, layer } = both();
  const i = idArray(ids, [8]);
  const step = jit(
    valueAndGrad((p: Params, i: Tensor) =>
      np.sum(np.square(layer.apply(p, i))),
    ),
  );
  for (let time = 0; time < 3; time++) {
    const [loss, gradients] = step(tree.ref(params), i.ref);
    await loss.data();
    tree.dispose(gradients);
    for (const name of NAMES) expect(params[name].refCount).toBe(1);
    expect(i.refCount).toBe(1);
  }
  // Without .ref they are consumed.
  await layer.apply(params, i).data();
  expect(() => params.weight.ref).toThrow();
});

test("learns with 8-bit AdamW and 32-bit state for the weight", async () => {
  const layer = onJax(jax, size);
  const params = layer.init();
  const parameters = Object.fromEntries(
    await Promise.all(
      NAMES.map(async (name) => {
        const data = (await params[
          name
        ].ref.data()) as Float32Array<ArrayBuffer>;
        return [name, { data, shape: params[name].shape }] as const;
      }),
    ),
  );
  tree.dispose(params);
  const optimizer = await createOptimizer(
    adamw8bit({ lr: 3e-2 }),
    withPrefix("wte.", parameters),
    { overrides: layer.overrides("wte."), minQuantizedSize: 0 },
  );
  expect(
    optimizer.memory().tensors.map(({ name, bits }) => [name, bits.m]),
  ).toEqual([
    ["wte.weight", 32],
    ["wte.scale", 8],
    ["wte.bias", 8],
  ]);
  const step = jit(
    valueAndGrad((p: Params, i: Tensor, r: Tensor) =>
      np.mean(np.square(layer.apply(p, i).sub(r))),
    ),
  );
  const target = array(normals(4 * 24, 8), [4, 24]);
  const seen: number[] = [];
  for (let time = 0; time < 60; time++) {
    const now = Object.fromEntries(
      NAMES.map((name) => [
        name,
        array(parameters[name]!.data, parameters[name]!.shape),
      ]),
    ) as Params;
    const [loss, gradients] = step(now, idArray([4, 9, 1, 0], [4]), target.ref);
    seen.push((await loss.data())[0]!);
    const read = Object.fromEntries(
      await Promise.all(
        NAMES.map(async (name) => [
          name,
          (await (gradients as Params)[name].data()) as Float32Array,
        ]),
      ),
    ) as Record<string, Float32Array>;
    await optimizer.step(withPrefix("wte.", read));
  }
  expect(seen[0]).toBeGreaterThan(1);
  expect(seen.at(-1)).toBeLessThan(0.05);
  optimizer.dispose();
});
