// The edge cases of numerics.md, on every engine, the reference among them:
// here what must come out is said outright.

import {
  adam,
  adamw,
  createOptimizer,
  dequantize,
  optimizers,
  sgd,
  unpackCodes,
  type OptimizerOptions,
  type Recipe,
} from "lowbit";
import { describe, expect, test } from "vitest";
import {
  expectConformance,
  expectSameBits,
  expectSameStates,
  gradientsOf,
  optimizerOn,
  startOf,
} from "./support/conformance.ts";
import {
  describeEngines,
  engines,
  type EngineEntry,
} from "./support/engines.ts";
import * as formulas from "./support/formulas.ts";
import { gradientAt, normals } from "./support/numbers.ts";

const quantizedAll = { minQuantizedSize: 0 };

/** The recipes with states of every kind, 32-bit left out. */
const lowBit = (hyper: Record<string, number>): [string, Recipe][] =>
  [...optimizers()]
    .filter(([name]) => /[48]bit/.test(name))
    .map(([name, factory]) => [name, factory(hyper)]);

describeEngines((engine) => {
  edgeCases(engine);
  if (engine.name !== "reference") agreement(engine);
});

function edgeCases(engine: EngineEntry) {
  test("an empty tensor takes a step, alone and beside others", async () => {
    for (const sizes of [[0], [0, 5, 0]]) {
      const { optimizer, parameters } = await optimizerOn(
        engine,
        adamw({ bits: 8 }),
        startOf(sizes),
        quantizedAll,
      );
      await optimizer.step(gradientsOf({ sizes }, 1));
      expect(parameters.t0).toHaveLength(0);
      expect((await optimizer.stats()).step).toBe(1);
      const { m } = await optimizer.state("t0");
      expect(m).toMatchObject({
        kind: "quantized",
        codes: { length: 0 },
        scales: { length: 0 },
      });
      optimizer.dispose();
    }
  });

  test("an optimizer of no tensors takes a step", async () => {
    const { optimizer } = await optimizerOn(engine, adamw({ bits: 8 }), {});
    await optimizer.step({});
    expect(optimizer.steps).toBe(1);
    optimizer.dispose();
  });

  test("one element follows Adam by hand", async () => {
    const start = { t0: Float32Array.of(1) };
    const { optimizer, parameters } = await optimizerOn(
      engine,
      adam({ bits: 8, lr: 0.1 }),
      start,
      quantizedAll,
    );
    // The first step of Adam is lr * sign(g), whatever the gradient's size.
    await optimizer.step({ t0: Float32Array.of(-3e-3) });
    expect(parameters.t0![0]).toBeCloseTo(1.1, 5);
    const { m, v } = await optimizer.state("t0");
    const scale = (state: unknown) =>
      (state as { scales: Float32Array }).scales[0]!;
    expect(scale(m)).toBeCloseTo(3e-4, 9);
    expect(scale(v) / 9e-9).toBeCloseTo(1, 5);
    optimizer.dispose();
  });

  test("without a gradient nothing ever moves, from the first step on for 1,000", async () => {
    const start = startOf([257, 1, 600]);
    // v first has gradients elsewhere in its block for t2, none at all for t0 and t1.
    const silent = (i: number) => i % 3 === 0;
    // The whole registry does this in family-recipes.test.ts.
    const some = engine.slow ? /^adamw8|^sgd4/ : /^(adamw?|sgd|factor)\d/;
    const recipes = lowBit({ weightDecay: 0 }).filter(([name]) =>
      some.test(name),
    );
    for (const [name, recipe] of recipes) {
      const { optimizer, parameters } = await optimizerOn(
        engine,
        recipe,
        start,
        quantizedAll,
      );
      const gradients = {
        t0: new Float32Array(257),
        t1: new Float32Array(1),
        t2: new Float32Array(600),
      };
      const steps = 1000;
      for (let t = 1; t <= steps; t++) {
        gradients.t2.forEach(
          (_, i) => (gradients.t2[i] = silent(i) ? 0 : Math.sin(i + t)),
        );
        await optimizer.step(gradients);
      }
      expectSameBits(`t0 with ${name}`, parameters.t0!, start.t0!);
      expectSameBits(`t1 with ${name}`, parameters.t1!, start.t1!);
      const only = (values: Float32Array) => values.filter((_, i) => silent(i));
      expectSameBits(
        `silent elements of t2 with ${name}`,
        only(parameters.t2!),
        only(start.t2!),
      );
      expect(parameters.t2![1], "an element with gradients").not.toBe(
        start.t2![1],
      );
      for (const state of Object.values(await optimizer.state("t0")))
        if (state.kind === "quantized")
          // Adafactor adds its eps1 of 1e-30 to every square.
          expect(
            state.scales.every((scale) =>
              name.startsWith("adafactor") ? scale < 2e-30 : scale === 0,
            ),
          ).toBe(true);
      optimizer.dispose();
    }
  }, 120_000);

  test("an element whose v is 0 stays, even where m's codebook has no 0", async () => {
    const start = startOf([300]);
    const recipe = adamw({
      weightDecay: 0,
      state: { m: { bits: 8, codebook: "dynamic-nozero" }, v: { bits: 8 } },
    });
    const { optimizer, parameters } = await optimizerOn(
      engine,
      recipe,
      start,
      quantizedAll,
    );
    for (let t = 1; t <= 50; t++)
      await optimizer.step({
        t0: Float32Array.from({ length: 300 }, (_, i) =>
          i % 2 ? 0 : Math.cos(i + t),
        ),
      });
    const odd = (values: Float32Array) => values.filter((_, i) => i % 2);
    expectSameBits(
      "elements without a gradient",
      odd(parameters.t0!),
      odd(start.t0!),
    );
    optimizer.dispose();
  });

  test("once gradients stop, weights follow the momentum and come to rest", async () => {
    const start = startOf([300]);
    const { optimizer, parameters } = await optimizerOn(
      engine,
      adam({ bits: 8, beta2: 0.9 }),
      start,
      quantizedAll,
    );
    for (let t = 1; t <= 3; t++)
      await optimizer.step({ t0: gradientAt(300, 5, 1) });
    const zero = { t0: new Float32Array(300) };
    const before = parameters.t0!.slice();
    await optimizer.step(zero);
    expect(parameters.t0!.some((value, i) => value !== before[i])).toBe(true);
    for (let t = 0; t < 997; t++) await optimizer.step(zero);
    // 0.9^997 of anything is below the smallest normal float32 of v: all is 0.
    const { m, v } = await optimizer.state("t0");
    for (const state of [m!, v!])
      if (state.kind === "quantized")
        expect(state.scales).toEqual(new Float32Array(2));
    const rest = parameters.t0!.slice();
    await optimizer.step(zero);
    expectSameBits("at rest", parameters.t0!, rest);
    expect(rest.every(Number.isFinite)).toBe(true);
    optimizer.dispose();
  });

  test("a block whose largest magnitude is negative keeps it as its scale", async () => {
    const start = { t0: new Float32Array(512) };
    const { optimizer } = await optimizerOn(
      engine,
      sgd({ bits: 8 }),
      start,
      quantizedAll,
    );
    const gradient = normals(512, 3, 0.1);
    gradient[100] = -8;
    gradient[300] = 4;
    await optimizer.step({ t0: gradient });
    const { m } = await optimizer.state("t0");
    if (m!.kind !== "quantized" || m!.format.kind !== "quantized")
      throw new Error("m is not quantized");
    expect([...m!.scales]).toEqual([8, 4]);
    const codes = unpackCodes(m!.codes, 8, 512);
    expect(codes[100]).toBe(0);
    expect(codes[300]).toBe(255);
    const values = dequantize({ ...m!, length: 512, format: m!.format });
    expect(values[100]).toBe(Math.fround(-0.99296875 * 8));
    expect(values[300]).toBe(4);
    optimizer.dispose();
  });

  test("denormals neither spread nor become NaN", async () => {
    const start = startOf([600]);
    for (const recipe of [
      adamw({ bits: 8 }),
      sgd({ bits: 8 }),
      sgd({ bits: 4 }),
      adamw({ bits: 4 }),
    ]) {
      const { optimizer, parameters } = await optimizerOn(
        engine,
        recipe,
        start,
        quantizedAll,
      );
      const gradient = Float32Array.from({ length: 600 }, (_, i) =>
        i < 256 ? 1e-41 * (i - 100) : i === 300 ? 1 : i % 2 ? 1e-41 : -1e-38,
      );
      for (let t = 0; t < 5; t++) await optimizer.step({ t0: gradient });
      expect(parameters.t0!.every(Number.isFinite)).toBe(true);
      expect((await optimizer.stats()).nonFinite).toBe(0);
      for (const state of Object.values(await optimizer.state("t0"))) {
        if (state.kind !== "quantized" || state.format.kind !== "quantized")
          throw new Error("not quantized");
        const values = dequantize({
          ...state,
          length: 600,
          format: state.format,
        });
        // The first block holds denormals alone: too small to count.
        expect(state.scales[0]).toBe(0);
        expect(
          values
            .subarray(0, state.format.blockSize)
            .every((value) => value === 0),
        ).toBe(true);
        expect(values.every(Number.isFinite)).toBe(true);
      }
      optimizer.dispose();
    }
  });

  test("an outlier of 1e30 stands beside 1e-30 in one block", async () => {
    const start = { t0: new Float32Array(512).fill(1) };
    const gradient = Float32Array.from({ length: 512 }, (_, i) =>
      i === 7 ? 1e30 : 1e-30,
    );
    const momentum = await optimizerOn(
      engine,
      sgd({ bits: 8, lr: 1e-30 }),
      start,
      quantizedAll,
    );
    await momentum.optimizer.step({ t0: gradient });
    const { m } = await momentum.optimizer.state("t0");
    if (m!.kind !== "quantized" || m!.format.kind !== "quantized")
      throw new Error("m is not quantized");
    expect([...m!.scales]).toEqual([Math.fround(1e30), Math.fround(1e-30)]);
    const values = dequantize({ ...m!, length: 512, format: m!.format });
    expect(values[7]).toBe(Math.fround(1e30));
    expect(values[8]).toBe(0);
    expect(values[300]).toBe(Math.fround(1e-30));
    expect(momentum.parameters.t0![7]).toBeCloseTo(0, 5);
    expect(momentum.parameters.t0![8]).toBe(1);
    momentum.optimizer.dispose();

    // Adam's v would overflow there: the element is left out and counted.
    const adamRun = await optimizerOn(
      engine,
      adam({ bits: 8, lr: 0.1 }),
      start,
      quantizedAll,
    );
    gradient.fill(1e-3).set([1e30], 7);
    await adamRun.optimizer.step({ t0: gradient });
    expect((await adamRun.optimizer.stats()).nonFinite).toBe(1);
    expect(adamRun.parameters.t0![7]).toBe(1);
    expect(adamRun.parameters.t0![8]).toBeCloseTo(0.9, 4);
    adamRun.optimizer.dispose();
  });

  test("gradients near the largest float32 keep their scale", async () => {
    const start = { t0: new Float32Array(256).fill(1) };
    const { optimizer } = await optimizerOn(
      engine,
      sgd({ bits: 8, lr: 0 }),
      start,
      quantizedAll,
    );
    const gradient = Float32Array.from({ length: 256 }, (_, i) =>
      i % 2 ? 8e37 : -4e37,
    );
    await optimizer.step({ t0: gradient });
    const { m } = await optimizer.state("t0");
    if (m!.kind !== "quantized" || m!.format.kind !== "quantized")
      throw new Error("m is not quantized");
    expect([...m!.scales]).toEqual([Math.fround(8e37)]);
    const values = dequantize({ ...m!, length: 256, format: m!.format });
    expect(values[1]! / 8e37).toBeCloseTo(1, 6);
    expect(values[0]! / -4e37).toBeCloseTo(1, 1);
    optimizer.dispose();
  });

  for (const bits of [32, 8, 4])
    test(`elements with NaN and infinite gradients stay bit for bit and are counted, in ${bits} bits`, async () => {
      const sizes = [300, 4097];
      const start = startOf(sizes);
      const recipe = adamw({ bits, lr: 1e-2 });
      const { optimizer, parameters } = await optimizerOn(
        engine,
        recipe,
        start,
        quantizedAll,
      );
      const clean = await optimizerOn(engine, recipe, start, quantizedAll);
      const bad = [0, 1, 127, 128, 299];
      for (let t = 1; t <= 3; t++) {
        const gradients = gradientsOf({ sizes }, t);
        const zeroed = { t0: gradients.t0!.slice(), t1: gradients.t1! };
        bad.forEach((at, i) => {
          gradients.t0![at] = [NaN, Infinity, -Infinity][i % 3]!;
          zeroed.t0[at] = 0;
        });
        await optimizer.step(gradients);
        await clean.optimizer.step(zeroed);
        expect(await optimizer.stats()).toMatchObject({
          nonFinite: bad.length,
          skipped: false,
          step: t,
        });
      }
      const kept = (values: Float32Array) =>
        values.filter((_, i) => bad.includes(i));
      expectSameBits(
        "elements left out",
        kept(parameters.t0!),
        kept(start.t0!),
      );
      // The others are those of a run whose gradient was 0 there.
      const others = (values: Float32Array) =>
        values.filter((_, i) => !bad.includes(i));
      expectSameBits(
        "other elements",
        others(parameters.t0!),
        others(clean.parameters.t0!),
      );
      expectSameBits("the other tensor", parameters.t1!, clean.parameters.t1!);
      optimizer.dispose();
      clean.optimizer.dispose();
    });

  test("one bad gradient leaves the whole step out with skipNonFinite 'step', and the next one goes on", async () => {
    const sizes = [300, 4097];
    const start = startOf(sizes);
    const { optimizer, parameters } = await optimizerOn(
      engine,
      adamw({ bits: 8 }),
      start,
      { skipNonFinite: "step" },
    );
    await optimizer.step(gradientsOf({ sizes }, 1));
    const before = {
      t0: parameters.t0!.slice(),
      t1: parameters.t1!.slice(),
      state: await optimizer.state("t1"),
    };
    const gradients = gradientsOf({ sizes }, 2);
    gradients.t0![299] = -Infinity;
    gradients.t1![4096] = NaN;
    await optimizer.step(gradients);
    expect(await optimizer.stats()).toMatchObject({
      nonFinite: 2,
      skipped: true,
    });
    expectSameBits("t0", parameters.t0!, before.t0);
    expectSameBits("t1", parameters.t1!, before.t1);
    expectSameStates("t1", await optimizer.state("t1"), before.state);
    await optimizer.step(gradientsOf({ sizes }, 3));
    expect(await optimizer.stats()).toMatchObject({
      nonFinite: 0,
      skipped: false,
    });
    expect(parameters.t0![299]).not.toBe(before.t0[299]);
    optimizer.dispose();
  });

  test("with skipNonFinite 'off' a NaN goes where the formula takes it", async () => {
    const start = startOf([300]);
    const { optimizer, parameters } = await optimizerOn(
      engine,
      sgd({ bits: 32 }),
      start,
      { skipNonFinite: "off" },
    );
    const gradient = new Float32Array(300).fill(0.5);
    gradient[3] = NaN;
    await optimizer.step({ t0: gradient });
    expect(parameters.t0![3]).toBeNaN();
    expect(parameters.t0!.filter(Number.isNaN)).toHaveLength(1);
    optimizer.dispose();
  });

  test("a maximal norm bounds the step of all tensors together", async () => {
    const start = { t0: new Float32Array(3), t1: new Float32Array(5000) };
    const { optimizer, parameters } = await optimizerOn(
      engine,
      sgd({ lr: 1, momentum: 0 }),
      start,
      { maxGradNorm: 0.5 },
    );
    const gradients = {
      t0: Float32Array.of(3, 0, NaN),
      t1: new Float32Array(5000),
    };
    gradients.t1[4999] = -4;
    await optimizer.step(gradients);
    // The norm of the finite gradients is 5, so each is a tenth of itself.
    const stats = await optimizer.stats();
    expect(stats.gradNorm).toBeCloseTo(5, 5);
    expect(stats.nonFinite).toBe(1);
    expect(parameters.t0![0]).toBeCloseTo(-0.3, 6);
    expect(parameters.t0![2]).toBe(0);
    expect(parameters.t1![4999]).toBeCloseTo(0.4, 6);
    optimizer.dispose();
  });

  for (const offset of [4, 12, 20])
    test(`a parameter and a gradient ${offset} bytes into larger buffers leave their neighbours alone`, async () => {
      for (const size of [1, 255, 1001, 4097]) {
        const inside = <T extends Float32Array>(values: T) => {
          const buffer = new Float32Array(values.length + 16).fill(123.5);
          const view = new Float32Array(buffer.buffer, offset, values.length);
          view.set(values);
          return { buffer, view };
        };
        const start = startOf([size]).t0!;
        const p = inside(start);
        const g = inside(gradientAt(size, 1, 1));
        const plain = await optimizerOn(
          engine,
          adamw({ bits: 8, lr: 0.1 }),
          { t0: start },
          quantizedAll,
        );
        const optimizer = await createOptimizer(
          adamw({ bits: 8, lr: 0.1 }),
          { t0: { data: p.view, shape: [size] } },
          { ...quantizedAll, ...(await engine.open()) },
        );
        for (let t = 0; t < 3; t++) {
          await optimizer.step({ t0: g.view });
          await plain.optimizer.step({ t0: g.view.slice() });
        }
        expectSameBits("the view", p.view, plain.parameters.t0!);
        expect(p.view[size - 1]).not.toBe(start[size - 1]);
        const outside = (values: Float32Array) => [
          ...values.subarray(0, offset / 4),
          ...values.subarray(offset / 4 + size),
        ];
        expect(new Set(outside(p.buffer))).toEqual(new Set([123.5]));
        expect(new Set(outside(g.buffer))).toEqual(new Set([123.5]));
        expectSameBits("the gradient", g.view, gradientAt(size, 1, 1));
        optimizer.dispose();
        plain.optimizer.dispose();
      }
    });

  test("memory stays the same over 1,000 steps", async () => {
    const sizes = [5, 4097];
    const { optimizer } = await optimizerOn(
      engine,
      adamw({ bits: 8 }),
      startOf(sizes),
      { maxGradNorm: 1 },
    );
    const gradients = gradientsOf({ sizes }, 1);
    await optimizer.step(gradients);
    const before = optimizer.memory();
    const steps = engine.name === "reference" ? 10 : 1000;
    for (let t = 2; t <= steps; t++) await optimizer.step(gradients);
    expect(optimizer.memory()).toEqual(before);
    optimizer.dispose();
  }, 120_000);

  test("two optimizers side by side do not disturb each other", async () => {
    const sizes = [300, 4097];
    const alone = await optimizerOn(engine, adamw({ bits: 8 }), startOf(sizes));
    const one = await optimizerOn(engine, adamw({ bits: 8 }), startOf(sizes));
    const two = await optimizerOn(engine, sgd({ bits: 4 }), startOf([5000]), {
      seed: 9,
    });
    for (let t = 1; t <= 5; t++) {
      await alone.optimizer.step(gradientsOf({ sizes }, t));
      await Promise.all([
        one.optimizer.step(gradientsOf({ sizes }, t)),
        two.optimizer.step(gradientsOf({ sizes: [5000] }, t)),
      ]);
    }
    two.optimizer.dispose();
    await one.optimizer.step(gradientsOf({ sizes }, 6));
    await alone.optimizer.step(gradientsOf({ sizes }, 6));
    for (const name of ["t0", "t1"])
      expectSameBits(name, one.parameters[name]!, alone.parameters[name]!);
    one.optimizer.dispose();
    alone.optimizer.dispose();
  });

  test("states that are read and written into a new optimizer continue the run bit for bit", async () => {
    const sizes = [300, 4097];
    for (const bits of [32, 8, 4]) {
      const first = await optimizerOn(
        engine,
        sgd({ bits }),
        startOf(sizes),
        quantizedAll,
      );
      for (let t = 1; t <= 3; t++)
        await first.optimizer.step(gradientsOf({ sizes }, t));
      const second = await optimizerOn(
        engine,
        sgd({ bits }),
        first.parameters,
        quantizedAll,
      );
      for (const name of ["t0", "t1"])
        await second.optimizer.setState(
          name,
          await first.optimizer.state(name),
        );
      // With dampening 0 the step's number does not matter to sgd.
      await first.optimizer.step(gradientsOf({ sizes }, 4));
      await second.optimizer.step(gradientsOf({ sizes }, 4));
      for (const name of ["t0", "t1"]) {
        expectSameBits(name, second.parameters[name]!, first.parameters[name]!);
        expectSameStates(
          name,
          await second.optimizer.state(name),
          await first.optimizer.state(name),
        );
      }
      first.optimizer.dispose();
      second.optimizer.dispose();
    }
  });

  test("resident parameters and gradients give the numbers of given ones", async () => {
    const size = 4097;
    const start = startOf([size]).t0!;
    const given = await optimizerOn(engine, adamw({ bits: 8 }), { t0: start });
    const optimizer = await createOptimizer(
      adamw({ bits: 8 }),
      { t0: { data: start.slice(), shape: [size] } },
      { resident: true, ...(await engine.open()) },
    );
    const p = optimizer.parameter("t0");
    const g = optimizer.gradient("t0");
    if (p instanceof Float32Array && g instanceof Float32Array) {
      for (let t = 1; t <= 3; t++) {
        g.set(gradientAt(size, 1, t));
        await optimizer.step();
        await given.optimizer.step({ t0: gradientAt(size, 1, t) });
      }
      expectSameBits("the parameter", p, given.parameters.t0!);
    } else expect(engine.name).toBe("webgpu");
    optimizer.dispose();
    given.optimizer.dispose();
  });

  test("null leaves a tensor and its state as they are", async () => {
    const sizes = [300, 4097];
    const { optimizer, parameters } = await optimizerOn(
      engine,
      adamw({ bits: 8 }),
      startOf(sizes),
    );
    await optimizer.step(gradientsOf({ sizes }, 1));
    const before = {
      p: parameters.t1!.slice(),
      state: await optimizer.state("t1"),
      other: parameters.t0!.slice(),
    };
    await optimizer.step({ ...gradientsOf({ sizes }, 2), t1: null });
    expectSameBits("t1", parameters.t1!, before.p);
    expectSameStates("t1", await optimizer.state("t1"), before.state);
    expect(parameters.t0![5]).not.toBe(before.other[5]);
    optimizer.dispose();
  });
}

function agreement(engine: EngineEntry) {
  const odd: Record<string, (i: number, step: number) => number> = {
    "denormals among ordinary numbers": (i, step) =>
      i % 3 ? Math.sin(i + step) : 1e-40 * i,
    "numbers from 1e-30 to 1e15": (i, step) =>
      Math.sin(i + step) * 10 ** ((i % 46) - 30),
    "one sign": (i, step) => -Math.abs(Math.sin(i * step)),
    "few values": (i, step) => ((i * step) % 5) - 2,
  };
  for (const [title, value] of Object.entries(odd))
    for (const bits of [8, 4])
      test(`gradients of ${title} give the reference's numbers in ${bits} bits`, () =>
        expectConformance(engine, {
          recipe: adam({ bits }),
          sizes: [257, 4097],
          options: quantizedAll,
          gradient: (size, _, step) =>
            Float32Array.from({ length: size }, (_, i) => value(i, step)),
        }));

  test("more than 2^24 elements are all reached", async () => {
    const size = 2 ** 24 + 77;
    const block = 256;
    const start = new Float32Array(size);
    const gradients = [new Float32Array(size), new Float32Array(size)];
    for (let i = 0; i < size; i++) {
      const hash = Math.imul(i, 0x9e3779b1) >> 8;
      start[i] = hash * 2 ** -23;
      gradients[0]![i] = (hash % 1000) * 1e-4;
      gradients[1]![i] = (hash % 777) * 1e-4;
    }
    const recipe = adamw({ bits: 8 });
    const { optimizer, parameters } = await optimizerOn(engine, recipe, {
      t0: start,
    });
    if (engine.slow) gradients.pop();
    for (const gradient of gradients) await optimizer.step({ t0: gradient });
    const state = await optimizer.state("t0");
    const result = parameters.t0!;
    optimizer.dispose();
    // Blocks do not know of each other, so a few of them can be run alone.
    const lastBlock = Math.floor(size / block) * block;
    for (const [from, to] of [
      [0, 1024],
      [2 ** 23 - 512, 2 ** 23 + 512],
      [2 ** 24 - 1024, 2 ** 24],
      [lastBlock - block, size],
    ] as const) {
      const part = await optimizerOn(
        { open: async () => ({ device: "reference" }) },
        recipe,
        { t0: start.slice(from, to) },
        quantizedAll,
      );
      for (const gradient of gradients)
        await part.optimizer.step({ t0: gradient.slice(from, to) });
      const expected = await part.optimizer.state("t0");
      const distance = result
        .subarray(from, to)
        .reduce(
          (max, value, i) =>
            Math.max(max, Math.abs(value - part.parameters.t0![i]!)),
          0,
        );
      expect(distance, `elements ${from} to ${to}`).toBeLessThanOrEqual(
        engine.exact ? 0 : 3e-7,
      );
      for (const name of ["m", "v"]) {
        const [actual, wanted] = [state[name]!, expected[name]!];
        if (actual.kind !== "quantized" || wanted.kind !== "quantized")
          throw new Error("not quantized");
        const codes = actual.codes.subarray(from, to);
        const different = codes.filter(
          (code, i) => code !== wanted.codes[i],
        ).length;
        const far = codes.filter(
          (code, i) => Math.abs(code - wanted.codes[i]!) > 1,
        ).length;
        expect(different, `codes of ${name} from ${from}`).toBeLessThanOrEqual(
          engine.exact ? 0 : 2,
        );
        expect(far).toBe(0);
        const scales = actual.scales.slice(from / block, Math.ceil(to / block));
        scales.forEach((scale, i) =>
          expect(Math.abs(scale / wanted.scales[i]! - 1)).toBeLessThanOrEqual(
            1e-6,
          ),
        );
      }
      part.optimizer.dispose();
    }
    // Every element moved, the gradient being 0 for few.
    let still = 0;
    for (let i = 0; i < size; i++)
      if (result[i] === start[i] && gradients[0]![i] !== 0 && start[i] !== 0)
        still++;
    expect(still).toBe(0);
  }, 300_000);
}

// An engine that differs from another in how it shares the work alone.
for (const engine of engines) {
  const twin = engines.find(({ name }) => name === engine.twinOf);
  if (!twin) continue;
  const same = async (
    recipe: Recipe,
    options: OptimizerOptions = { maxGradNorm: 1, minQuantizedSize: 0 },
    spoil: (gradient: Float32Array) => void = () => {},
  ) => {
    const sizes = [3, 4097, 150_001, 0, 65_536];
    const one = await optimizerOn(engine, recipe, startOf(sizes), options);
    const two = await optimizerOn(twin, recipe, startOf(sizes), options);
    for (let t = 1; t <= 4; t++) {
      const gradients = gradientsOf({ sizes }, t);
      spoil(gradients.t4!);
      await one.optimizer.step(gradients);
      await two.optimizer.step(gradients);
    }
    for (const name of Object.keys(one.parameters)) {
      expectSameBits(name, one.parameters[name]!, two.parameters[name]!);
      expectSameStates(
        name,
        await one.optimizer.state(name),
        await two.optimizer.state(name),
      );
    }
    one.optimizer.dispose();
    two.optimizer.dispose();
  };
  describe(
    `${engine.name}, beside ${twin.name}`,
    { skip: !!engine.skipReason, meta: { skipReason: engine.skipReason } },
    () => {
      for (const [name, factory] of optimizers())
        test(`${name} is the same to the bit`, () => same(factory()));
      for (let bits = 2; bits <= 8; bits++)
        test(`${bits} bits with different blocks are the same to the bit`, () =>
          same(
            adamw({
              state: {
                m: { bits, blockSize: 64 },
                v: { bits, blockSize: 2048 },
              },
            }),
          ));
      test("stochastic rounding is the same to the bit", () =>
        same(
          adamw({
            bits: 4,
            state: {
              m: { rounding: "stochastic" },
              v: { rounding: "stochastic", blockSize: 32 },
            },
          }),
        ));
      test("one scale a tensor is the same to the bit", () =>
        same(
          adamw({
            bits: 8,
            state: { m: { scale: "tensor" }, v: { scale: "tensor" } },
          }),
        ));
      for (const [name, factory] of Object.entries(formulas))
        test(`the formula '${name}' is the same to the bit`, () =>
          same(factory({ bits: 8 })));
      test("gradients that are not finite are left out alike, to the bit", () =>
        same(adamw({ bits: 8 }), { maxGradNorm: 1, minQuantizedSize: 0 }, (g) =>
          g.set([NaN, Infinity, -Infinity]),
        ));
      test("small tensors in 32 bits are the same to the bit", () =>
        same(adamw({ bits: 4 }), {}));
    },
  );
}
