// The optimizers of lowbit/jax: every recipe against the engine on arrays of its
// own, and against itself under jit; who owns what; options; errors.

import * as jax from "@jax-js/jax";
import { beforeAll, describe, expect, test } from "vitest";
import * as lowbit from "lowbit";
import * as door from "lowbit/jax";
import {
  adam8bit,
  adamw8bit,
  optimizersFor,
  type JaxOptimizer,
  type JaxOptimizerFactory,
  type OptState,
} from "lowbit/jax";
import { openJax, type Params } from "./support/jax.ts";
import {
  arrays,
  bytesOf,
  expectClose,
  jitUpdate,
  largest,
  names,
  read,
  shapes,
  valuesOf,
} from "./support/jax-arrays.ts";

const { jit, numpy: np, tree } = jax;
const factories = door as unknown as Record<string, JaxOptimizerFactory>;

beforeAll(() => openJax("wasm"));

/** What the door has beside optimizers. */
const others = ["fusedOptimizer", "optimizersFor", "stableEmbedding"];

test("every recipe of the registry is there by its name", () => {
  const exported = Object.keys(door);
  const bound = optimizersFor(jax) as unknown as Record<string, unknown>;
  for (const name of lowbit.optimizers().keys()) {
    expect(exported).toContain(name);
    expect(typeof bound[name]).toBe("function");
  }
  expect(Object.keys(bound).sort()).toEqual(
    exported.filter((name) => !others.includes(name)).sort(),
  );
});

const storing = [...lowbit.optimizers().keys()].filter((name) =>
  /(8bit|4bit\w*)$/.test(name),
);

describe("each recipe", () => {
  test.each(storing)(
    "%s: steps to the bit as on arrays of its own",
    async (name) => {
      const options = { minQuantizedSize: 0, maxGradNorm: 5 };
      const own = Object.fromEntries(
        names.map((one) => [
          one,
          { data: valuesOf(one, 0), shape: shapes[one] },
        ]),
      );
      const expected = await lowbit.createOptimizer(
        lowbit.optimizerByName(name)({ lr: 1e-2 }),
        own,
        { ...options, device: "wasm", threads: 1 },
      );
      const optimizer = factories[name]!(1e-2, options);
      let params = arrays(0);
      let state = optimizer.init(tree.ref(params));
      for (let t = 1; t <= 3; t++) {
        await expected.step(
          Object.fromEntries(names.map((one) => [one, valuesOf(one, t)])),
        );
        [params, state] = await optimizer.step(params, arrays(t), state);
        expect(optimizer.device).toBe("wasm, 1 thread");
      }
      const now = await read(params);
      for (const one of names) expect(now[one], one).toEqual(own[one]!.data);
      expect(optimizer.stats()).toEqual(await expected.stats());
      expect(optimizer.memory(params).stateBytes).toBe(
        expected.memory().stateBytes,
      );
      tree.dispose([params, state]);
      optimizer.dispose();
      expected.dispose();
    },
  );

  // Sums in float32 here and float64 there, in states of few values.
  const reducing = /^(adafactor|factor|lamb|lars|sm3|scheduleFree)/;

  test.each(storing)("%s: the same under jit", async (name) => {
    const make = () => factories[name]!(1e-2, { minQuantizedSize: 0 });
    const [eager, traced] = [make(), make()];
    const update = jitUpdate(traced);
    const params = arrays(0);
    let [a, b] = [eager.init(tree.ref(params)), traced.init(tree.ref(params))];
    for (let t = 1; t <= 3; t++) {
      let fromEager: Params, fromTraced: Params;
      [fromEager, a] = eager.update(arrays(t), a, tree.ref(params));
      [fromTraced, b] = update(arrays(t), b, tree.ref(params));
      await expectClose(fromTraced, fromEager, `step ${t}`);
      tree.dispose([fromEager, fromTraced]);
    }
    const [x, y] = [await bytesOf(a), await bytesOf(b)];
    const all = x.flatMap((bytes) => [...bytes]);
    const differing = y
      .flatMap((bytes) => [...bytes])
      .filter((byte, i) => byte !== all[i]).length;
    const bound = reducing.test(name) ? 0.15 : 0.001;
    expect(differing / all.length).toBeLessThanOrEqual(bound);
    tree.dispose([params, a, b]);
    eager.dispose();
    traced.dispose();
  });
});

describe("without an engine, by operations", () => {
  test.each(["adamw8bit", "adamw4bitRank1", "lion4bit"])(
    "%s on jax-js's cpu backend",
    async (name) => {
      const make = () =>
        factories[name]!(1e-2, { minQuantizedSize: 0, maxGradNorm: 5 });
      const [engine, operations] = [make(), make()];
      let [p, q] = [arrays(0), arrays(0, "cpu")];
      let [a, b] = [engine.init(tree.ref(p)), operations.init(tree.ref(q))];
      for (let t = 1; t <= 2; t++) {
        [p, a] = await engine.step(p, arrays(t), a);
        [q, b] = await operations.step(q, arrays(t, "cpu"), b);
      }
      expect(operations.device).toBe("operations of jax-js");
      expect(q.a!.device).toBe("cpu");
      await expectClose(q, p, name);
      expect(await b.count.data()).toEqual(Uint32Array.of(2));
      tree.dispose([p, q, a, b.states]);
    },
  );

  test("takes schedules and scalars of late steps from a table", async () => {
    const make = () =>
      adamw8bit((count) => 1e-2 / Math.sqrt(count + 1), {
        minQuantizedSize: 0,
        weightDecay: 0,
      });
    const [eager, traced] = [make(), make()];
    const update = jit((g: Params, s: OptState) =>
      traced.update(g, s),
    ) as unknown as JaxOptimizer["update"];
    for (const steps of [0, 1, 8190, 8191, 8192, 12345, 1e6 + 7, 1e7]) {
      const states = () => {
        const { states } = eager.init(arrays(0));
        return { count: np.array(steps, { dtype: np.uint32 }), states };
      };
      const [a, before] = eager.update(arrays(1), states());
      const [b, after] = update(arrays(1), states());
      await expectClose(b, a, `after ${steps} steps`);
      expect(await after.count.data()).toEqual(Uint32Array.of(steps + 1));
      tree.dispose([a, b, before, after.states]);
    }
  });

  test.each(["element", "step", "off"] as const)(
    "leaves out what is not finite as engines do: skipNonFinite '%s'",
    async (skipNonFinite) => {
      const make = () =>
        adamw8bit(1e-2, { minQuantizedSize: 0, skipNonFinite });
      const bad = (): Params => {
        const b = valuesOf("b", 2);
        [b[3], b[40], b[41]] = [NaN, Infinity, -Infinity];
        return { ...arrays(2), b: np.array(b) };
      };
      const [eager, traced] = [make(), make()];
      const update = jitUpdate(traced);
      const params = arrays(0);
      let a = eager.init(tree.ref(params));
      let b = traced.init(tree.ref(params));
      for (const gradients of [() => arrays(1), bad, () => arrays(3)]) {
        let one: Params, two: Params;
        [one, a] = eager.update(gradients(), a, tree.ref(params));
        [two, b] = update(gradients(), b, tree.ref(params));
        const [x, y] = [await read(one), await read(two)];
        for (const name of names)
          x[name]!.forEach((value, i) => {
            const near = Math.abs(value - y[name]![i]!) <= 1e-6;
            if (!near && !(Number.isNaN(value) && Number.isNaN(y[name]![i])))
              expect.fail(`${name} ${i}: ${value}, under jit ${y[name]![i]}`);
          });
        if (gradients === bad) {
          const { a: other, b: broken } = y;
          expect(largest(other!) > 0).toBe(skipNonFinite !== "step");
          expect(broken!.every(Number.isFinite)).toBe(skipNonFinite !== "off");
          if (skipNonFinite !== "off")
            expect([3, 40, 41].map((i) => broken![i])).toEqual([0, 0, 0]);
        }
        tree.dispose([one, two]);
      }
      tree.dispose([params, a, b]);
      eager.dispose();
      traced.dispose();
    },
  );

  test("formats that only engines know say so", () => {
    const optimizer = adamw8bit(1e-3, {
      minQuantizedSize: 0,
      state: { v: { rounding: "preconditioner" } },
    });
    const state = optimizer.init(arrays(0));
    const update = jitUpdate(optimizer);
    expect(() => update(arrays(1), state, arrays(0))).toThrow(
      "the state 'v' has rounding 'preconditioner', which steps by operations of jax-js do not know",
    );
  });
});

describe("who owns what", () => {
  test("what is ours alone changes in place, and old handles end", async () => {
    const optimizer = adam8bit(1e-2, { minQuantizedSize: 0 });
    const params = arrays(0);
    const state = optimizer.init(tree.ref(params));
    const gradients = arrays(1);
    const [next, nextState] = await optimizer.step(params, gradients, state);
    for (const old of [params.a!, gradients.a!, state.count, state.states[0]!])
      expect(() => old.ref).toThrow();
    for (const name of names) expect(next[name]!.refCount).toBe(1);
    expect(nextState.states[0]!.refCount).toBe(1);
    tree.dispose([next, nextState]);
  });

  test("what somebody else holds stays as it is", async () => {
    const optimizer = adam8bit(1e-2, { minQuantizedSize: 0 });
    const params = arrays(0);
    const view = params.a!.ref.reshape([6300]);
    const state = optimizer.init(tree.ref(params));
    const [before, words] = [await read(params), await bytesOf(state)];
    // The first step keeps the state; the second one keeps a view alone.
    const [next, after] = await optimizer.step(
      tree.ref(params),
      arrays(1),
      tree.ref(state),
    );
    expect(await read(params)).toEqual(before);
    expect(await bytesOf(state)).toEqual(words);
    expect((await read(next)).a).not.toEqual(before.a);
    const [again, twice] = await optimizer.step(params, arrays(1), state);
    expect(await view.data()).toEqual(before.a);
    expect(await read(again)).toEqual(await read(next));
    expect(await bytesOf(twice)).toEqual(await bytesOf(after));
    tree.dispose([next, after, again, twice]);
  });

  test("update takes parameters that it does not need, and frees them", () => {
    const optimizer = adam8bit(1e-2);
    const params = arrays(0);
    const state = optimizer.init(tree.ref(params));
    const [updates, next] = optimizer.update(arrays(1), state, params);
    expect(() => params.a!.ref).toThrow();
    const [more, last] = optimizer.update(arrays(2), next);
    tree.dispose([updates, more, last]);
  });

  test.each<[string, (o: JaxOptimizer, s: OptState) => unknown, string]>([
    [
      "a gradient that was consumed",
      (o, s) => {
        const gradients = arrays(1);
        gradients.b!.dispose();
        return o.update(gradients, s, arrays(0));
      },
      "the gradient 'b' was consumed before",
    ],
    [
      "a state that was consumed",
      (o, s) => {
        tree.dispose(o.update(arrays(1), s, arrays(0)) as never);
        return o.update(arrays(1), s, arrays(0));
      },
      "the state was consumed by an update before",
    ],
    [
      "a parameter of another shape",
      (o, s) =>
        o.update(arrays(1), s, { ...arrays(0), b: np.zeros([334]) } as Params),
      "the parameter 'b' has shape [334], and its gradient [333]",
    ],
    [
      "no parameters where the formula reads them",
      (o, s) => o.update(arrays(1), s),
      "this formula reads the parameters",
    ],
    [
      "a state of other parameters",
      (o, { count }) => {
        const { states } = o.init({ a: np.zeros([5000]) });
        return o.update(arrays(1), { count, states }, arrays(0));
      },
      "the state is not of these parameters and options",
    ],
    [
      "a gradient of another type",
      (o, s) =>
        o.update(
          { ...arrays(1), c: np.ones([1]).astype(np.int32) },
          s,
          arrays(0),
        ),
      "the gradient 'c' must be float32, given int32",
    ],
    [
      "trees of different forms",
      (o, s) => o.update(arrays(1), s, { a: np.zeros([70, 90]) } as Params),
      "there are 1 parameters and 3 gradients",
    ],
  ])("%s is an error before anything changes", async (_, wrong, message) => {
    const optimizer = adamw8bit(1e-2, { minQuantizedSize: 0 });
    const state = optimizer.init(arrays(0));
    expect(() => wrong(optimizer, state)).toThrow(message);
  });

  test("a step without parameters is an error", async () => {
    const optimizer = adam8bit(1e-2);
    const state = optimizer.init(arrays(0));
    const gradients = arrays(1);
    await expect(
      optimizer.step(undefined as never, gradients, state),
    ).rejects.toThrow("parameters and gradients are arrays of jax-js");
    tree.dispose([gradients, state.states]);
  });

  test("nothing is consumed by an update that fails", async () => {
    const optimizer = adamw8bit(1e-2, { minQuantizedSize: 0 });
    const state = optimizer.init(arrays(0));
    const words = await bytesOf(state);
    const gradients = arrays(1);
    expect(() => optimizer.update(gradients, state)).toThrow();
    expect(await bytesOf(state)).toEqual(words);
    const [updates, next] = optimizer.update(gradients, state, arrays(0));
    tree.dispose([updates, next]);
  });
});
