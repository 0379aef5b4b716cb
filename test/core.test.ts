// The object a user holds: learning rates, steps, states, errors, and its end.

import { adamw, sgd } from "lowbit";
import { describe, expect, test } from "vitest";
import { expectSameBits, expectSameStates } from "./support/conformance.ts";
import { gradientAt, normals } from "./support/numbers.ts";
import { open } from "./support/handles.ts";

describe("the learning rate", () => {
  test("is called for with the step's number, from 1", async () => {
    const asked: number[] = [];
    const lr = (step: number) => {
      asked.push(step);
      return 0.1 * step;
    };
    const { optimizer } = await open({ a: 1 }, sgd({ lr, momentum: 0 }));
    asked.length = 0;
    for (let t = 0; t < 3; t++) await optimizer.step({ a: Float32Array.of(1) });
    expect(asked).toEqual([1, 2, 3]);
    expect(await optimizer.stats()).toMatchObject({ step: 3, lr: 0.1 * 3 });
    // What the next step would take.
    expect(optimizer.lr).toBeCloseTo(0.4);
  });

  test("of a step is what the parameter moves by", async () => {
    const { optimizer, parameters } = await open(
      { a: 1 },
      sgd({ lr: (t) => t, momentum: 0 }),
    );
    parameters.a!.data[0] = 0;
    const path: number[] = [];
    for (let t = 0; t < 3; t++) {
      await optimizer.step({ a: Float32Array.of(1) });
      path.push(parameters.a!.data[0]!);
    }
    expect(path).toEqual([-1, -3, -6]);
    optimizer.lr = 0.5;
    await optimizer.step({ a: Float32Array.of(1) });
    expect(parameters.a!.data[0]).toBe(-6.5);
    optimizer.lr = (t) => t * 2;
    await optimizer.step({ a: Float32Array.of(1) });
    expect(parameters.a!.data[0]).toBe(-16.5);
  });

  test("of 0 moves nothing, but the states go on", async () => {
    const { optimizer, parameters } = await open({ a: 3 }, adamw({ lr: 0 }));
    const before = parameters.a!.data.slice();
    await optimizer.step({ a: Float32Array.of(1, 2, 3) });
    expectSameBits("a", parameters.a!.data, before);
    expect((await optimizer.state("a")).m).toMatchObject({
      values: Float32Array.of(0.1, 0.2, 0.3),
    });
  });

  test("that a schedule gets wrong is an error that changes nothing", async () => {
    const { optimizer, parameters } = await open(
      { a: 3 },
      sgd({ lr: (t) => (t === 2 ? NaN : 0.1) }),
    );
    await optimizer.step({ a: Float32Array.of(1, 2, 3) });
    const before = parameters.a!.data.slice();
    await expect(
      optimizer.step({ a: Float32Array.of(1, 2, 3) }),
    ).rejects.toThrow(
      "sgd: the learning rate of step 2 must be a finite number, 0 or more, the schedule gave NaN",
    );
    expectSameBits("a", parameters.a!.data, before);
    expect(optimizer.steps).toBe(1);
    // And the optimizer is not stuck.
    optimizer.lr = 0.1;
    await optimizer.step({ a: Float32Array.of(1, 2, 3) });
    expect(optimizer.steps).toBe(2);
  });

  test("that is set to nonsense is an error", async () => {
    const { optimizer } = await open({ a: 3 });
    for (const lr of [-1, NaN, Infinity, "1" as never])
      expect(() => {
        optimizer.lr = lr;
      }).toThrow(
        "lr must be a finite number, 0 or more, or a function of the step",
      );
    expect(optimizer.lr).toBe(1e-3);
  });
});

describe("a step", () => {
  const sizes = { a: 300, b: 4097 };
  const gradients = (t = 1) => ({
    a: gradientAt(300, 1, t),
    b: gradientAt(4097, 2, t),
  });

  test.each<[string, () => Record<string, unknown>, string]>([
    [
      "a gradient of another size",
      () => ({ ...gradients(), b: new Float32Array(4096) }),
      "'b' must have 4097 elements (shape [4097]), given 4096",
    ],
    [
      "a gradient missing",
      () => ({ a: gradients().a }),
      "no gradient for 'b'; a step takes one for every parameter",
    ],
    [
      "a gradient too many",
      () => ({ ...gradients(), c: new Float32Array(1) }),
      "there is no tensor 'c'",
    ],
    [
      "a misspelled name",
      () => ({ ...gradients(), bb: gradients().b }),
      "there is no tensor 'bb'; did you mean 'b'?",
    ],
    [
      "a plain list",
      () => ({ ...gradients(), a: [1, 2, 3] }),
      "the gradient of 'a' must be a Float32Array on device 'reference', given Array",
    ],
    [
      "float64 numbers",
      () => ({ ...gradients(), a: new Float64Array(300) }),
      "given Float64Array",
    ],
  ])(
    "with %s is an error that leaves everything as it was",
    async (_, bad, message) => {
      const { optimizer, parameters } = await open(sizes);
      await optimizer.step(gradients());
      const before = {
        a: parameters.a!.data.slice(),
        b: parameters.b!.data.slice(),
        stats: await optimizer.stats(),
      };
      const states = {
        a: await optimizer.state("a"),
        b: await optimizer.state("b"),
      };
      await expect(optimizer.step(bad())).rejects.toThrow(message);
      for (const name of ["a", "b"] as const) {
        expectSameBits(name, parameters[name]!.data, before[name]);
        expectSameStates(name, await optimizer.state(name), states[name]);
      }
      expect(await optimizer.stats()).toEqual(before.stats);
      // As if it had not been: the next step is step 2.
      const clean = await open(sizes);
      await clean.optimizer.step(gradients());
      await optimizer.step(gradients(2));
      await clean.optimizer.step(gradients(2));
      expectSameBits(
        "b after the next step",
        parameters.b!.data,
        clean.parameters.b!.data,
      );
    },
  );

  test("that begins before the last one ended is an error, and the last one ends well", async () => {
    const { optimizer, parameters } = await open(sizes);
    const clean = await open(sizes);
    const first = optimizer.step(gradients());
    await expect(optimizer.step(gradients(2))).rejects.toThrow(
      "adamw: the step before has not ended; await optimizer.step(...)",
    );
    await first;
    await clean.optimizer.step(gradients());
    expect(optimizer.steps).toBe(1);
    expectSameBits("a", parameters.a!.data, clean.parameters.a!.data);
    await optimizer.step(gradients(2));
    expect(optimizer.steps).toBe(2);
  });

  test("does not write to the gradient", async () => {
    const { optimizer } = await open(sizes, adamw({ weightDecay: 0.1 }), {
      maxGradNorm: 1e-3,
    });
    const given = gradients();
    await optimizer.step(given);
    expectSameBits("a", given.a, gradients().a);
    expectSameBits("b", given.b, gradients().b);
  });

  test("repeats to the bit from the same start, and differs from another seed where rounding is stochastic", async () => {
    const recipe = sgd({ bits: 4, state: { m: { rounding: "stochastic" } } });
    const run = async (seed: number) => {
      const { optimizer } = await open({ a: 5000 }, recipe, { seed });
      for (let t = 1; t <= 3; t++)
        await optimizer.step({ a: gradientAt(5000, 1, t) });
      const { m } = await optimizer.state("a");
      return (m as { codes: Uint8Array }).codes;
    };
    expect(await run(1)).toEqual(await run(1));
    expect(await run(2)).not.toEqual(await run(1));
  });

  test("draws other numbers for each step, tensor and state", async () => {
    const stochastic = {
      rounding: "stochastic",
      codebook: "linear",
      bits: 4,
    } as const;
    const { optimizer } = await open(
      { a: 4096, b: 4096 },
      sgd({ momentum: 0, state: { m: stochastic } }),
    );
    // The same gradient for both, at every step: only the draws differ.
    const g = normals(4096, 5);
    const seen: string[] = [];
    for (let t = 0; t < 2; t++) {
      await optimizer.step({ a: g, b: g });
      for (const name of ["a", "b"])
        seen.push(
          String(
            ((await optimizer.state(name)).m as { codes: Uint8Array }).codes,
          ),
        );
    }
    expect(new Set(seen).size).toBe(4);
  });
});

describe("states", () => {
  test("that are read are copies", async () => {
    const { optimizer } = await open({ a: 4096 });
    await optimizer.step({ a: gradientAt(4096, 1, 1) });
    const before = await optimizer.state("a");
    const copy = await optimizer.state("a");
    if (copy.m!.kind === "quantized") {
      copy.m!.codes.fill(0);
      copy.m!.scales.fill(0);
    }
    expectSameStates("a", await optimizer.state("a"), before);
  });

  test.each<[string, Record<string, unknown>, string]>([
    [
      "an unknown name",
      { w: { kind: "float", values: new Float32Array(4096) } },
      "adamw: unknown state 'w'; there are m, v",
    ],
    [
      "another kind",
      { m: { kind: "float", values: new Float32Array(4096) } },
      "setState: a/m is stored as quantized, given float",
    ],
    [
      "too few codes",
      {
        m: {
          kind: "quantized",
          codes: new Uint8Array(4095),
          scales: new Float32Array(16),
        },
      },
      "setState: a/m has 4096 bytes of codes, given 4095",
    ],
    [
      "too few scales",
      {
        m: {
          kind: "quantized",
          codes: new Uint8Array(4096),
          scales: new Float32Array(15),
        },
      },
      "setState: a/m has 16 scales, given 15",
    ],
  ])("written with %s are an error", async (_, states, message) => {
    const { optimizer } = await open({ a: 4096 });
    await optimizer.step({ a: gradientAt(4096, 1, 1) });
    const before = await optimizer.state("a");
    // A good v beside the bad state must not be written either.
    await expect(
      optimizer.setState("a", { v: before.m!, ...states } as never),
    ).rejects.toThrow(message);
    expectSameStates("a", await optimizer.state("a"), before);
  });

  test("of a tensor that is not there are an error with the nearest name", async () => {
    const { optimizer } = await open({ wte: 1 });
    await expect(optimizer.state("wre")).rejects.toThrow(
      "adamw: there is no tensor 'wre'; did you mean 'wte'?",
    );
    expect(() => optimizer.parameter("x")).toThrow("there is no tensor 'x'");
  });

  test("start at zero", async () => {
    const { optimizer } = await open({ a: 4096 });
    for (const state of Object.values(await optimizer.state("a")))
      if (state.kind === "quantized")
        expect(state.scales).toEqual(new Float32Array(16));
  });
});

describe("the end", () => {
  test("may come twice", async () => {
    const { optimizer } = await open({ a: 1 });
    optimizer.dispose();
    optimizer.dispose();
    optimizer[Symbol.dispose]();
  });

  test("leaves nothing to use", async () => {
    const { optimizer } = await open({ a: 1 });
    optimizer.dispose();
    const message = "adamw: the optimizer was disposed";
    await expect(optimizer.step({ a: new Float32Array(1) })).rejects.toThrow(
      message,
    );
    await expect(optimizer.state("a")).rejects.toThrow(message);
    await expect(optimizer.setState("a", {})).rejects.toThrow(message);
    for (const use of [
      () => optimizer.stats(),
      () => optimizer.memory(),
      () => optimizer.explain(),
      () => optimizer.parameter("a"),
      () => optimizer.device,
    ])
      expect(use).toThrow(message);
  });

  test("memory for gradients is there only when they are resident", async () => {
    const { optimizer } = await open({ a: 3 });
    expect(() => optimizer.gradient("a")).toThrow(
      "create the optimizer with { resident: true }",
    );
    const resident = await open({ a: 3 }, sgd({ lr: 1 }), { resident: true });
    (resident.optimizer.gradient("a") as Float32Array).set([1, 2, 3]);
    const p = resident.optimizer.parameter("a") as Float32Array;
    const before = p.slice();
    await resident.optimizer.step();
    expect([...p]).toEqual(
      [1, 2, 3].map((g, i) => Math.fround(before[i]! - g)),
    );
  });
});
