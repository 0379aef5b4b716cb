// Four models on jax-js, from the same start, with our optimizers and with a
// plain Adam in jax-js's own operations.

import { beforeAll, describe, expect, test } from "vitest";
import * as jax from "@jax-js/jax";
import * as lowbit from "lowbit";
import {
  adam32bit,
  adam8bit,
  adamw4bit,
  fusedOptimizer,
  lamb8bit,
  lion4bit,
  type JaxOptimizer,
  type OptState,
} from "lowbit/jax";
import {
  losses,
  models,
  openJax,
  plainAdam,
  skipReason,
  type Backend,
  type Params,
} from "./support/jax.ts";
import { jitUpdate } from "./support/jax-arrays.ts";
import { normals } from "./support/numbers.ts";

const { jit, numpy: np, tree } = jax;

const STEPS = 12;
const RATE = 3e-3;

const arrays = (t: number): Params => ({
  a: np.array(normals(48 * 50, t, 0.3), { shape: [48, 50] }),
  b: np.array(normals(150, 100 + t, 0.3)),
});
const read = async (array: jax.numpy.Array) =>
  (await array.ref.data()) as Float32Array<ArrayBuffer>;

const distance = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!) / Math.abs(b[i]!)));

describe.each<Backend>(["wasm", "webgpu"])("on %s", (backend) => {
  const skip = skipReason(backend);
  describe(
    "the losses follow those of jax-js's Adam",
    { skip: !!skip, meta: { skipReason: skip } },
    () => {
      beforeAll(() => openJax(backend));

      test.each(Object.entries(models))("%s", async (_, model) => {
        const expected = await losses(model, plainAdam(RATE), STEPS);
        expect(expected.at(-1)).toBeLessThan(expected[0]!);
        const run = async (optimizer: JaxOptimizer) => {
          const seen = await losses(model, optimizer, STEPS, () =>
            expect(optimizer.device).toMatch(RegExp(`^${backend}`)),
          );
          optimizer.dispose();
          return seen;
        };
        const whole = await run(adam32bit(RATE));
        const small = await run(adam8bit(RATE, { minQuantizedSize: 0 }));
        expect(distance(whole, expected), "32 bits").toBeLessThan(1e-6);
        expect(distance(small, expected), "8 bits").toBeLessThan(1e-3);
      });
    },
  );

  describe("one step", { skip: !!skip, meta: { skipReason: skip } }, () => {
    beforeAll(() => openJax(backend));

    test.each([
      ["adamw4bit", () => adamw4bit(1e-2, { minQuantizedSize: 0 })],
      ["adam8bit", () => adam8bit(1e-2, { minQuantizedSize: 0 })],
      ["lamb8bit", () => lamb8bit(1e-2, { minQuantizedSize: 0 })],
      ["lion4bit", () => lion4bit(1e-2, { minQuantizedSize: 0 })],
    ])("%s is the same under jit", async (_, make) => {
      const [eager, traced] = [make(), make()];
      const update = jitUpdate(traced);
      const params = arrays(0);
      let a = eager.init(tree.ref(params));
      let b = traced.init(tree.ref(params));
      for (let t = 1; t <= 2; t++) {
        const gradients = arrays(t);
        await jax.blockUntilReady(gradients);
        let one: Params, two: Params;
        [one, a] = eager.update(tree.ref(gradients), a, tree.ref(params));
        [two, b] = update(gradients, b, tree.ref(params));
        expect(eager.device).toMatch(RegExp(`^${backend}`));
        for (const name of ["a", "b"]) {
          const [x, y] = [await read(one[name]!), await read(two[name]!)];
          const worst = Math.max(...x.map((v, i) => Math.abs(v - y[i]!)));
          expect(worst).toBeLessThan(2e-5 * Math.max(...x.map(Math.abs)));
        }
        tree.dispose([one, two]);
      }
      // The first array has the codes and scales; on WebGPU another one has what
      // kernels leave there.
      const x = new Uint8Array((await read(a.states[0]!)).buffer);
      const y = new Uint8Array((await read(b.states[0]!)).buffer);
      const differing = x.filter((byte, i) => byte !== y[i]).length;
      expect(differing / x.length).toBeLessThanOrEqual(0.001);
      tree.dispose([params, a, b]);
    });

    test.each(["element", "step"] as const)(
      "what is not finite is left out under jit as well: %s",
      async (skipNonFinite) => {
        const make = () =>
          adam8bit(1e-2, { minQuantizedSize: 0, skipNonFinite });
        const [eager, traced] = [make(), make()];
        const update = jit((g: Params, s: OptState) =>
          traced.update(g, s),
        ) as unknown as JaxOptimizer["update"];
        let [a, b] = [eager.init(arrays(0)), traced.init(arrays(0))];
        for (let t = 1; t <= 3; t++) {
          const values = normals(150, t, 0.3);
          if (t === 2) values.set([NaN, Infinity, -Infinity], 70);
          const gradient = () => ({ a: arrays(t).a!, b: np.array(values) });
          let [one, two]: Params[] = [];
          [one, a] = eager.update(gradient(), a);
          [two, b] = update(gradient(), b);
          for (const name of ["a", "b"]) {
            const [x, y] = [await read(one[name]!), await read(two[name]!)];
            const off = x.map((v, i) => Math.abs(v - y[i]!));
            expect(Math.max(...off)).toBeLessThan(1e-6);
          }
          const left = await read(two.b!);
          if (t === 2) expect([...left.slice(70, 73)]).toEqual([0, 0, 0]);
          tree.dispose([one, two]);
        }
        tree.dispose([a, b]);
      },
    );

    test("fusedOptimizer keeps the state itself", async () => {
      const recipe = lowbit.adamw8bit({ lr: 1e-2 });
      const own = Object.fromEntries(
        await Promise.all(
          Object.entries(arrays(0)).map(async ([name, array]) => [
            name,
            { data: await read(array), shape: array.shape },
          ]),
        ),
      ) as Record<string, { data: Float32Array; shape: number[] }>;
      const options = { minQuantizedSize: 0, maxGradNorm: 1 };
      const expected = await lowbit.createOptimizer(recipe, own, options);
      let params = arrays(0);
      const fused = await fusedOptimizer(jax, recipe, params, options);
      for (let t = 1; t <= 3; t++) {
        const gradients = arrays(t);
        await expected.step({
          a: await read(gradients.a!),
          b: await read(gradients.b!),
        });
        params = await fused.step(params, gradients);
      }
      expect(fused.handle.device).toMatch(RegExp(`^${backend}`));
      for (const name of ["a", "b"]) {
        const [x, y] = [await read(params[name]!), own[name]!.data];
        const worst = Math.max(...x.map((v, i) => Math.abs(v - y[i]!)));
        expect(worst).toBeLessThan(backend === "wasm" ? 1e-9 : 1e-6);
      }
      expect((await fused.handle.stats()).step).toBe(3);
      // What it saved, another one goes on with.
      const again = await fusedOptimizer(jax, recipe, params, options);
      await again.handle.load(await fused.handle.save());
      expect(await again.handle.state("a")).toEqual(
        await fused.handle.state("a"),
      );
      await expect(
        fused.step({ a: params.a! } as Params, arrays(4)),
      ).rejects.toThrow("must have the form of the parameters");
      tree.dispose(params);
      for (const one of [fused, again, expected]) one.dispose();
    });
  });
});
