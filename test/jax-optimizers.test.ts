// The optimizers of lowbit/jax: every recipe against the engine on arrays of its
// own, and against itself under jit; who owns what; options; errors.

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
  optimizersFor,
  scaleByAdam8bit,
  sgd32bit,
  type JaxOptimizer,
  type JaxOptimizerFactory,
  type OptState,
} from "lowbit/jax";
import { openJax, type Params, type Tensor } from "./support/jax.ts";
import { normals } from "./support/numbers.ts";

const { jit, numpy: np, tree } = jax;
const factories = door as unknown as Record<string, JaxOptimizerFactory>;

beforeAll(() => openJax("wasm"));

const shapes = { a: [70, 90], b: [333], c: [1] };
const names = Object.keys(shapes) as (keyof typeof shapes)[];
const sizeOf = (shape: readonly number[]) => shape.reduce((x, y) => x * y, 1);
const valuesOf = (name: keyof typeof shapes, t: number) =>
  normals(sizeOf(shapes[name]), 31 * t + name.charCodeAt(0), 0.5);
const arrays = (t: number, device?: "cpu" | "wasm"): Params =>
  Object.fromEntries(
    names.map((name) => [
      name,
      np.array(valuesOf(name, t), {
        shape: shapes[name],
        ...(device ? { device } : {}),
      }),
    ]),
  );
/** Numbers of every leaf; keeps the arrays. */
const read = async (params: Params): Promise<Record<string, Float32Array>> =>
  Object.fromEntries(
    await Promise.all(
      Object.entries(params).map(async ([name, array]) => [
        name,
        (await array.ref.data()) as Float32Array,
      ]),
    ),
  ) as Record<string, Float32Array>;
const bytesOf = async ({ states }: OptState) =>
  Promise.all(
    states.map(
      async (words) =>
        new Uint8Array(
          ((await words.ref.data()) as Uint32Array).slice().buffer,
        ),
    ),
  );
const largest = (values: Float32Array) =>
  values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** Whether two sets of updates agree: to rounding of the updates and of the parameters. */
async function expectClose(actual: Params, expected: Params, note: string) {
  const [a, b] = [await read(actual), await read(expected)];
  for (const name of names) {
    const bound = 2e-5 * largest(b[name]!) + 5e-7;
    const worst = largest(a[name]!.map((x, i) => x - b[name]![i]!));
    expect(worst, `${note} ${name}`).toBeLessThan(bound);
  }
}

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
    const update = jit((g: Params, s: OptState, p: Params) =>
      traced.update(g, s, p),
    ) as unknown as JaxOptimizer["update"];
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
      const update = jit((g: Params, s: OptState, p: Params) =>
        traced.update(g, s, p),
      ) as unknown as JaxOptimizer["update"];
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
    const update = jit((g: Params, s: OptState, p: Params) =>
      optimizer.update(g, s, p),
    ) as unknown as JaxOptimizer["update"];
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
