// Numbers at the edge, on every engine, the reference among them: here what
// must come out is said outright.

import {
  adam,
  adamw,
  dequantize,
  optimizers,
  sgd,
  unpackCodes,
  type Recipe,
} from "lowbit";
import { expect, test } from "vitest";
import {
  expectSameBits,
  gradientsOf,
  optimizerOn,
  startOf,
  quantizedAll,
} from "./support/conformance.ts";
import { describeEngines } from "./support/engines.ts";
import { gradientAt, normals } from "./support/numbers.ts";

/** The recipes with states of every kind, 32-bit left out. */
const lowBit = (hyper: Record<string, number>): [string, Recipe][] =>
  [...optimizers()]
    .filter(([name]) => /[48]bit/.test(name))
    .map(([name, factory]) => [name, factory(hyper)]);

describeEngines((engine) => {
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
});
