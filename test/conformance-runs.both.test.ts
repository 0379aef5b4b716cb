// What steps leave out, bound and share, and how runs go on, on every engine, the
// reference among them.

import { adamw, createOptimizer, sgd } from "lowbit";
import { expect, test } from "vitest";
import {
  expectSameBits,
  expectSameStates,
  gradientsOf,
  optimizerOn,
  startOf,
  quantizedAll,
} from "./support/conformance.ts";
import { describeEngines } from "./support/engines.ts";
import { gradientAt } from "./support/numbers.ts";

describeEngines((engine) => {
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
});
