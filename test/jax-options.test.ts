// optax on lowbit/jax: optimizers in a chain, and their options by its names.

import * as jax from "@jax-js/jax";
import { beforeAll, describe, expect, test } from "vitest";
import * as lowbit from "lowbit";
import * as door from "lowbit/jax";
import {
  adam32bit,
  adam8bit,
  adamw32bit,
  adamw8bit,
  lamb32bit,
  scaleByAdam8bit,
  sgd32bit,
  type JaxOptimizer,
  type JaxOptimizerFactory,
  type OptState,
} from "lowbit/jax";
import { openJax, type Params, type Tensor } from "./support/jax.ts";
import {
  arrays,
  bytesOf,
  expectClose,
  names,
  read,
  shapes,
  valuesOf,
} from "./support/jax-arrays.ts";

const { jit, numpy: np, tree } = jax;
const factories = door as unknown as Record<string, JaxOptimizerFactory>;

beforeAll(() => openJax("wasm"));

describe("as part of a chain", () => {
  /** optax's chain(clipByGlobalNorm, ours, addDecayedWeights, scale), by hand. */
  const chain =
    (ours: JaxOptimizer, most: number, decay: number, rate: number) =>
    (gradients: Params, state: OptState, params: Params) => {
      const squares = Object.values(gradients).map((g) =>
        np.sum(np.square(g.ref)),
      );
      const norm = np.sqrt(squares.reduce((x, y) => x.add(y)));
      const factor = np.minimum(1, np.array(most).div(norm));
      const clipped = Object.fromEntries(
        Object.entries(gradients).map(([name, g]) => [name, g.mul(factor.ref)]),
      );
      factor.dispose();
      const [direction, next] = ours.update(clipped, state, tree.ref(params));
      const updates = Object.fromEntries(
        Object.entries(direction).map(([name, u]) => [
          name,
          u.add(params[name]!.mul(decay)).mul(-rate),
        ]),
      );
      return [updates, next] as [Params, OptState];
    };

  test("equals the same optimizer with its own clipping and decay", async () => {
    const whole = adamw8bit(1e-2, {
      minQuantizedSize: 0,
      weightDecay: 0.1,
      maxGradNorm: 3,
    });
    const part = scaleByAdam8bit({ minQuantizedSize: 0 });
    const chained = chain(part, 3, 0.1, 1e-2);
    const compiled = jit(
      chain(scaleByAdam8bit({ minQuantizedSize: 0 }), 3, 0.1, 1e-2),
    );
    const params = arrays(0);
    let a = whole.init(tree.ref(params));
    let b = part.init(tree.ref(params));
    let c = part.init(tree.ref(params));
    for (let t = 1; t <= 3; t++) {
      let one: Params, two: Params, three: Params;
      [one, a] = whole.update(arrays(t), a, tree.ref(params));
      [two, b] = chained(arrays(t), b, tree.ref(params));
      [three, c] = compiled(arrays(t), c, tree.ref(params)) as [
        Params,
        OptState,
      ];
      await expectClose(two, one, `step ${t}`);
      await expectClose(three, one, `step ${t} under jit`);
      tree.dispose([one, two, three]);
    }
    tree.dispose([params, a, b, c]);
  });

  const scaled = Object.keys(door).filter((name) =>
    /^scaleBy.*8bit$/.test(name),
  );
  test.each(scaled)("%s times -lr is the recipe's update", async (name) => {
    const plain = name.replace(/^scaleBy(.)/, (_, first: string) =>
      first.toLowerCase(),
    );
    const common = { minQuantizedSize: 0, bits: undefined };
    const direction = (
      door as unknown as Record<string, (options: object) => JaxOptimizer>
    )[name]!(common);
    const decays =
      "weightDecay" in lowbit.optimizerByName(plain).definition.hyper;
    const whole = factories[plain]!(0.25, {
      ...common,
      ...(decays ? { weightDecay: 0 } : {}),
    } as never);
    const params = arrays(0);
    let [a, b] = [
      direction.init(tree.ref(params)),
      whole.init(tree.ref(params)),
    ];
    for (let t = 1; t <= 2; t++) {
      let one: Params, two: Params;
      [one, a] = direction.update(arrays(t), a, tree.ref(params));
      [two, b] = whole.update(arrays(t), b, tree.ref(params));
      const turned = tree.map((u: Tensor) => u.mul(-0.25), one) as Params;
      await expectClose(turned, two, `step ${t}`);
      tree.dispose([turned, two]);
    }
    tree.dispose([params, a, b]);
    direction.dispose();
    whole.dispose();
  });
});

describe("options", () => {
  test("carry optax's names", async () => {
    const own = Object.fromEntries(
      names.map((one) => [one, { data: valuesOf(one, 0), shape: shapes[one] }]),
    );
    const expected = await lowbit.createOptimizer(
      lowbit.adamw32bit({ lr: 1e-2, beta1: 0.8, beta2: 0.95, eps: 1e-6 }),
      own,
      {
        device: "wasm",
        threads: 1,
        overrides: [{ match: "b", beta1: 0.5, lr: 0.5 }],
      },
    );
    const optimizer = adamw32bit(() => 1e-2, {
      b1: 0.8,
      b2: 0.95,
      eps: 1e-6,
      overrides: [{ match: "b", b1: 0.5, lr: () => 0.5 }],
    });
    await expected.step(
      Object.fromEntries(names.map((one) => [one, valuesOf(one, 1)])),
    );
    const params = arrays(0);
    const state = optimizer.init(tree.ref(params));
    const [next] = await optimizer.step(params, arrays(1), state);
    const now = await read(next);
    for (const one of names) expect(now[one]).toEqual(own[one]!.data);
  });

  test("a schedule counts the steps before, as optax's do", async () => {
    const seen: number[] = [];
    const optimizer = sgd32bit((count) => {
      seen.push(count);
      return 0.5 ** count;
    });
    const gradient = () => ({ w: np.ones([3]) });
    let state = optimizer.init(gradient());
    const values: number[] = [];
    for (let t = 0; t < 3; t++) {
      let updates: Params;
      [updates, state] = optimizer.update(gradient(), state);
      values.push((await updates.w!.data())[0]!);
    }
    // Momentum of ones: 1, 1.9, 2.71.
    [-1, -0.95, -0.6775].forEach((x, i) => expect(values[i]).toBeCloseTo(x, 6));
    expect(seen).toContain(0);
  });

  test.each(["constant", "linear", "cosine", "wsd", "steps"] as const)(
    "lowbit's own schedule '%s' begins with its rate, too",
    async (name) => {
      const lr = lowbit.schedules[name]({ lr: 0.5, steps: 10, every: 5 });
      const optimizer = sgd32bit(lr);
      const gradient = () => ({ w: np.ones([3]) });
      const [updates, state] = optimizer.update(
        gradient(),
        optimizer.init(gradient()),
      );
      expect((await updates.w.data())[0]).toBe(-0.5);
      tree.dispose(state as never);
    },
  );

  test("a mask says where weight decay applies", async () => {
    const params = () => ({ layer: { w: np.ones([4, 4]), b: np.ones([4]) } });
    const zeros = () => ({ layer: { w: np.zeros([4, 4]), b: np.zeros([4]) } });
    for (const mask of [
      { layer: { w: true, b: false } },
      (p: ReturnType<typeof params>) => ({
        layer: { w: p.layer.w.ndim > 1, b: p.layer.b.ndim > 1 },
      }),
    ]) {
      const optimizer = adamw8bit(0.1, { weightDecay: 0.5, mask });
      const state = optimizer.init(params());
      const [{ layer }] = optimizer.update(zeros(), state, params());
      expect((await layer.w.data())[0]).toBeCloseTo(-0.05, 6);
      expect((await layer.b.data())[0]).toBe(0);
    }
    const wrong = adamw8bit(0.1, { mask: { layer: { w: true } } });
    expect(() => wrong.init(params())).toThrow("it has nothing for 'layer.b'");
  });

  test("a leaf without a gradient keeps its parameter and its state", async () => {
    const optimizer = adam32bit(0.1);
    const params = () => ({ a: np.ones([6]), b: np.ones([6]) });
    const state = optimizer.init(params());
    const before = await bytesOf(state);
    const gradients = { a: np.ones([6]), b: null as unknown as Tensor };
    const [next, after] = await optimizer.step(params(), gradients, state);
    expect((await next.a.data())[0]).toBeCloseTo(0.9, 6);
    expect(await next.b.data()).toEqual(new Float32Array(6).fill(1));
    const changed = (await bytesOf(after))[0]!.filter(
      (byte, i) => byte !== before[0]![i],
    );
    expect(changed.length).toBeGreaterThan(0);
  });

  test.each<[string, () => unknown, string]>([
    [
      "b1's old name",
      () => adam8bit(1e-3, { beta1: 0.9 } as never),
      "did you mean 'b1'",
    ],
    [
      "a rate among the options",
      () => adam8bit(1e-3, { lr: 1 } as never),
      "the learning rate is the first argument",
    ],
    [
      "a wrong rate",
      () => adam8bit(-1),
      "adam8bit: lr must be a finite number",
    ],
    [
      "a value out of range",
      () => adam8bit(1e-3, { b1: 1 }),
      "beta1 must be in [0, 1)",
    ],
    [
      "an override that matches nothing",
      () =>
        adam8bit(1e-3, { overrides: [{ match: "x", bits: 32 }] }).init(
          arrays(0),
        ),
      "there is no tensor 'x'",
    ],
    [
      "overrides that are no list",
      () => adam8bit(1e-3, { overrides: { match: "a" } as never }),
      "overrides must be a list, such as [{ match: /bias/, weightDecay: 0 }], given object",
    ],
    [
      "a second number",
      () => adam8bit(1e-3, 0.9 as never),
      "adam8bit: options are an object, such as { b2: 0.99 }, given 0.9",
    ],
    [
      "a rate for a direction",
      () => scaleByAdam8bit(1e-3 as never),
      "scaleByAdam8bit: options are an object, such as { b2: 0.99 }, given 0.001",
    ],
    [
      "nothing to optimize",
      () => adam8bit(1e-3).init(undefined as never),
      "adam8bit: parameters and gradients are arrays of jax-js, in objects or lists, given undefined",
    ],
    [
      "leaves that are no arrays",
      () => adam8bit(1e-3).init({ a: 3 } as never),
      "'a' is no array of jax-js, given Number",
    ],
  ])("%s is an error", (_, wrong, message) => {
    expect(wrong).toThrow(message);
  });

  test("parameters are needed only where the formula reads them", () => {
    const needs = (optimizer: JaxOptimizer) => {
      const state = optimizer.init(arrays(0));
      try {
        tree.dispose(optimizer.update(arrays(1), state) as never);
        return false;
      } catch (error) {
        expect(String(error)).toContain("reads the parameters");
        return true;
      }
    };
    expect(needs(adam8bit(1e-3))).toBe(false);
    expect(needs(adam8bit((count) => 1e-3 * count))).toBe(false);
    expect(needs(adamw8bit(1e-3, { weightDecay: 0 }))).toBe(false);
    expect(needs(adamw8bit(1e-3))).toBe(true);
    expect(needs(lamb32bit(1e-3, { weightDecay: 0 }))).toBe(true);
  });
});
