// applyUpdates: what jax-js's own addition gives, and who owns what.

import * as jax from "@jax-js/jax";
import { beforeAll, describe, expect, test } from "vitest";
import {
  adam8bit,
  applyUpdates,
  optimizersFor,
  type OptState,
} from "lowbit/jax";
import {
  openJax,
  skipReason,
  type Backend,
  type Params,
  type Tensor,
} from "./support/jax.ts";
import { normals } from "./support/numbers.ts";

const { jit, numpy: np, tree } = jax;

const shapes = { a: [70, 90], b: [333], c: [1], d: [] };
const sizeOf = (shape: readonly number[]) => shape.reduce((x, y) => x * y, 1);
const values = (shape: readonly number[], seed: number) => {
  const all = normals(sizeOf(shape), seed, 0.5);
  if (all.length > 300)
    all.set([NaN, Infinity, -Infinity, -0, 1e-42], 17 * seed);
  return all;
};
const make = (seed: number) => ({
  layer: Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => [
      name,
      np.array(values(shape, seed + i), { shape }),
    ]),
  ) as Params,
  last: [np.array(values([40], seed), { shape: [5, 8] })],
});
/** Bits, so that NaN and -0 count; keeps the arrays. A device may take tiny numbers for 0. */
const read = async (of: unknown) => {
  const [leaves] = tree.flatten(of as never) as unknown as [Tensor[]];
  return Promise.all(
    leaves.map(async (array) => {
      const numbers = (await array.ref.data()) as Float32Array;
      const normal = numbers.map((x) => (Math.abs(x) < 1e-37 ? x * 0 : x));
      return [...new Uint32Array(normal.buffer)];
    }),
  );
};

describe.each<Backend>(["wasm", "webgpu"])("on %s", (backend) => {
  const skip = skipReason(backend);
  describe("applyUpdates", { skip: !!skip, meta: { skipReason: skip } }, () => {
    beforeAll(() => openJax(backend));

    test("adds, to the bit, where the parameters are", async () => {
      const expected = tree.map(
        (p: Tensor, u: Tensor) => p.add(u),
        make(1) as never,
        make(2) as never,
      );
      const [params, updates] = [make(1), make(2)];
      const sums = applyUpdates(params, updates);
      expect(await read(sums)).toEqual(await read(expected));
      const { a } = sums.layer;
      expect([a!.shape, a!.device, a!.refCount]).toEqual([
        [70, 90],
        backend,
        1,
      ]);
      for (const old of [params.layer.a!, updates.layer.a!, params.last[0]!])
        expect(() => old.ref).toThrow();
      // Another copy's functions are the same.
      const again = optimizersFor(jax).applyUpdates(make(1), make(2));
      expect(await read(again)).toEqual(await read(expected));
      tree.dispose([sums, expected, again] as never);
    });

    test("what somebody else holds stays as it is", async () => {
      const params = make(1);
      const view = params.layer.a!.ref.reshape([6300]);
      const lazy = params.layer.b!.ref.mul(2);
      const before = await read(params);
      const sums = applyUpdates(tree.ref(params), make(2));
      expect(await read(params)).toEqual(before);
      const more = applyUpdates(params, make(2));
      expect(await read(more)).toEqual(await read(sums));
      const untouched = make(1).layer;
      expect(await read(view)).toEqual(await read(untouched.a));
      expect(await read(lazy)).toEqual(await read(untouched.b!.mul(2)));
      tree.dispose([sums, more, view, lazy] as never);
    });

    test("one array in several places", async () => {
      const p = np.array(values([333], 1));
      const twice = applyUpdates([p.ref, p.ref], [np.ones([333]), p.ref]);
      const once = [p.ref.add(1), p.ref.add(p.ref)];
      expect(await read(twice)).toEqual(await read(once));
      tree.dispose([p, twice, once] as never);
    });

    test("a leaf without an update stays, and other types are added too", async () => {
      const params = { a: np.ones([6]), b: np.array(Int32Array.of(1, 2)) };
      const { a, b } = applyUpdates(params, {
        a: null as unknown as Tensor,
        b: np.array(Int32Array.of(3, 4)),
      });
      expect(await a.data()).toEqual(new Float32Array(6).fill(1));
      expect(await b.data()).toEqual(Int32Array.of(4, 6));
      const c = applyUpdates(
        { a: np.ones([6]), b: np.ones([2]) },
        { a: null as unknown as Tensor, b: np.ones([2]) },
      );
      expect(await c.a.data()).toEqual(new Float32Array(6).fill(1));
      expect(await c.b.data()).toEqual(new Float32Array(2).fill(2));
    });

    test("runs under jit, with an update before it", async () => {
      const optimizer = adam8bit(1e-2, { minQuantizedSize: 0 });
      const start = () => ({ w: np.array(values([40], 5)) });
      const gradient = () => ({ w: np.array(values([40], 6)) });
      const step = (p: Params, g: Params, s: OptState): [Params, OptState] => {
        const [updates, next] = optimizer.update(g, s);
        return [applyUpdates(p, updates), next];
      };
      const traced = jit(step as never) as unknown as typeof step;
      const run = (by: typeof step) =>
        by(start(), gradient(), optimizer.init(start()));
      const [[a, one], [b, two]] = [run(step), run(traced)];
      const [x, y] = [await a.w!.data(), await b.w!.data()];
      x.forEach((value, i) => expect(y[i]).toBeCloseTo(value, 5));
      tree.dispose([one, two] as never);
      optimizer.dispose();
    });

    test.each<[string, () => [Params, Params], string]>([
      [
        "trees of other forms",
        () => [{ a: np.ones([2]) }, { a: np.ones([2]), b: np.ones([2]) }],
        "applyUpdates: there are 1 parameters and 2 updates",
      ],
      [
        "another name",
        () => [{ a: np.ones([2]) }, { b: np.ones([2]) }],
        "the parameter 'a' has no update, where 'b' has",
      ],
      [
        "another shape",
        () => [{ a: np.ones([2]) }, { a: np.ones([1, 2]) }],
        "the parameter 'a' has shape [2], and its update [1, 2]",
      ],
      [
        "an update that was consumed",
        () => {
          const a = np.ones([2]);
          a.dispose();
          return [{ a: np.ones([2]) }, { a }];
        },
        "the update 'a' was consumed before",
      ],
    ])("%s is an error, and nothing is consumed", (_, given, message) => {
      const [params, updates] = given();
      expect(() => applyUpdates(params, updates)).toThrow(message);
      expect(params.a!.refCount).toBe(1);
      tree.dispose(params);
    });
  });
});
