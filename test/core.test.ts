// The object a user holds: options, groups and overrides, schedules, reports,
// errors, and its end.

import {
  adamw,
  adamw4bit,
  adamw4bitRank1,
  adamw8bit,
  createOptimizer,
  estimateMemory,
  optimizerByName,
  sgd,
  sgd4bit,
  type FormatOptions,
  type OptimizerOptions,
  type Recipe,
} from "lowbit";
import { describe, expect, test } from "vitest";
import { expectSameBits, expectSameStates } from "./support/conformance.ts";
import { gradientAt, normals } from "./support/numbers.ts";

const device = "reference";

/** Parameters of these sizes by name. */
const parametersOf = (sizes: Readonly<Record<string, number>>) =>
  Object.fromEntries(
    Object.entries(sizes).map(([name, size], i) => [
      name,
      { data: normals(size, i + 1), shape: [size] },
    ]),
  );

const open = (
  sizes: Readonly<Record<string, number>>,
  recipe: Recipe = adamw({ bits: 8 }),
  options: OptimizerOptions = {},
) => {
  const parameters = parametersOf(sizes);
  return createOptimizer(recipe, parameters, { device, ...options }).then(
    (optimizer) => ({ optimizer, parameters }),
  );
};

describe("creating an optimizer", () => {
  test.each<[string, () => Promise<unknown>, string]>([
    [
      "an unknown option",
      () => open({ a: 1 }, adamw(), { maxGradnorm: 1 } as never),
      "createOptimizer: unknown option 'maxGradnorm'; did you mean 'maxGradNorm'?",
    ],
    [
      "an option far from all",
      () => open({ a: 1 }, adamw(), { zzz: 1 } as never),
      "unknown option 'zzz'; there are device, groups, overrides",
    ],
    [
      "an unknown device",
      () => open({ a: 1 }, adamw(), { device: "cuda" as never }),
      "device must be 'wasm', 'webgpu', 'reference', a GPUDevice or an engine, given cuda",
    ],
    [
      "a maximal norm of 0",
      () => open({ a: 1 }, adamw(), { maxGradNorm: 0 }),
      "maxGradNorm must be above 0, given 0; leave it out for no limit",
    ],
    [
      "an unknown way to skip",
      () => open({ a: 1 }, adamw(), { skipNonFinite: "all" as never }),
      "skipNonFinite must be 'element', 'step' or 'off', given 'all'",
    ],
    [
      "a negative seed",
      () => open({ a: 1 }, adamw(), { seed: -1 }),
      "seed must be an integer from 0 to 2^32 - 1, given -1",
    ],
    [
      "no threads",
      () => open({ a: 1 }, adamw(), { threads: 0 }),
      "threads must be an integer, 1 or more, given 0",
    ],
    [
      "a negative minimum",
      () => open({ a: 1 }, adamw(), { minQuantizedSize: -1 }),
      "minQuantizedSize must be a number of elements, 0 or more, given -1",
    ],
    [
      "a factory that was not called",
      () => open({ a: 1 }, adamw8bit as never),
      "the first argument must be a recipe, such as adamw8bit({ lr: 1e-3 }), given the function itself; call it",
    ],
    [
      "a name instead of a recipe",
      () => open({ a: 1 }, "adamw8bit" as never),
      "must be a recipe",
    ],
    [
      "data of another size",
      () =>
        createOptimizer(
          adamw(),
          { a: { data: new Float32Array(3), shape: [2, 2] } },
          { device },
        ),
      "'a' must have 4 elements (shape [2, 2]), given 3",
    ],
    [
      "data of another type",
      () =>
        createOptimizer(
          adamw(),
          { a: { data: new Float64Array(4), shape: [4] } },
          { device },
        ),
      "the data of 'a' must be a Float32Array on device 'reference', given Float64Array",
    ],
    [
      "a shape that is no list",
      () =>
        createOptimizer(
          adamw(),
          { a: { data: new Float32Array(4), shape: 4 as never } },
          { device },
        ),
      "shape",
    ],
    [
      "no recipe at all",
      () => open({ a: 1 }, null as never),
      "the first argument must be a recipe",
    ],
    [
      "no parameters",
      () => createOptimizer(adamw(), undefined as never, { device }),
      "the parameters must be as in { w: { data: new Float32Array(6), shape: [2, 3] } }, given Undefined",
    ],
    [
      "an array that does not say its shape",
      () =>
        createOptimizer(
          adamw(),
          { a: new Float32Array(4) as never },
          { device },
        ),
      "the parameter 'a' must be as in { w: { data: new Float32Array(6), shape: [2, 3] } }, given Float32Array",
    ],
    [
      "overrides that are no list",
      () =>
        open({ a: 1 }, adamw(), {
          overrides: { match: "a", bits: 8 } as never,
        }),
      "overrides must be a list, such as [{ match: /bias/, weightDecay: 0 }], given object",
    ],
    [
      "a maximal norm that is text",
      () => open({ a: 1 }, adamw(), { maxGradNorm: "1" as never }),
      "maxGradNorm must be above 0, given 1",
    ],
    [
      "half an element",
      () => createOptimizer(adamw(), { a: { shape: [1.5] } }, { device }),
      "the shape of 'a' must hold integers, 0 or more, given [1.5]",
    ],
    [
      "a negative size",
      () => createOptimizer(adamw(), { a: { shape: [-1] } }, { device }),
      "given [-1]",
    ],
    [
      "too large a shape",
      () =>
        createOptimizer(
          adamw(),
          { a: { shape: [2 ** 30, 2 ** 30] } },
          { device },
        ),
      "more elements than a number can count",
    ],
  ])(
    "with %s is an error that says what is allowed",
    async (_, make, message) => {
      await expect(make).rejects.toThrow(message);
    },
  );

  test("with one array under two names is an error: a tied weight would be updated twice", async () => {
    const data = new Float32Array(4);
    await expect(
      createOptimizer(
        adamw(),
        { head: { data, shape: [4] }, wte: { data, shape: [4] } },
        { device },
      ),
    ).rejects.toThrow(
      "'head' and 'wte' are the same array; give a tied weight once",
    );
  });

  test("with views that overlap is an error, with views side by side none", async () => {
    const all = new Float32Array(10);
    const views = (start: number) => ({
      b: { data: all.subarray(start), shape: [10 - start] },
      a: { data: all.subarray(0, 6), shape: [6] },
    });
    await expect(
      createOptimizer(adamw(), views(5), { device }),
    ).rejects.toThrow("'a' and 'b' overlap in memory; give a tied weight once");
    (await createOptimizer(adamw(), views(6), { device })).dispose();
  });

  test("a shape of [] is one element, a 0 in it none", async () => {
    const optimizer = await createOptimizer(
      sgd(),
      { one: { shape: [] }, none: { shape: [3, 0] } },
      { device },
    );
    expect(optimizer.memory().tensors.map(({ size }) => size)).toEqual([1, 0]);
  });

  test("without data the engine keeps the parameter, zeros at first", async () => {
    const optimizer = await createOptimizer(
      sgd({ lr: 1 }),
      { a: { shape: [3] } },
      { device },
    );
    await optimizer.step({ a: Float32Array.of(1, 2, 3) });
    expect([...(optimizer.parameter("a") as Float32Array)]).toEqual([
      -1, -2, -3,
    ]);
  });

  test("parameters given are updated in place", async () => {
    const { optimizer, parameters } = await open({ a: 5 });
    expect(optimizer.parameter("a")).toBe(parameters.a!.data);
  });
});

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

describe("groups and overrides", () => {
  const sizes = { "h.0.w": 5000, "h.1.w": 5000, "h.0.bias": 64, wte: 8192 };
  const bitsOf = async (
    options: OptimizerOptions,
    recipe = adamw({ bits: 8 }),
  ) => {
    const { optimizer } = await open(sizes, recipe, options);
    return Object.fromEntries(
      optimizer.memory().tensors.map(({ name, bits }) => [name, bits.m]),
    );
  };

  test("4096 elements are quantized, 4095 are not", async () => {
    const { optimizer } = await open({ a: 4095, b: 4096, c: 4097 });
    expect(optimizer.memory().tensors.map(({ bits }) => bits)).toEqual([
      { m: 32, v: 32 },
      { m: 8, v: 8 },
      { m: 8, v: 8 },
    ]);
    expect(optimizer.memory().tensors[0]!.why).toBe(
      "float32: 4095 elements are fewer than minQuantizedSize 4096",
    );
  });

  test("the shape's product counts, not its longest side", async () => {
    const optimizer = await createOptimizer(
      adamw({ bits: 8 }),
      { a: { shape: [64, 64] }, b: { shape: [4095, 1] } },
      { device },
    );
    expect(optimizer.memory().tensors.map(({ bits }) => bits.m)).toEqual([
      8, 32,
    ]);
  });

  test("bits by name hold for a small tensor too", async () => {
    expect(
      await bitsOf({ overrides: [{ match: "h.0.bias", bits: 4 }] }),
    ).toMatchObject({ "h.0.bias": 4, wte: 8 });
  });

  test("later overrides win over earlier ones, and both over the group", async () => {
    const options: OptimizerOptions = {
      groups: [
        { name: "all", parameters: () => true, bits: 32, weightDecay: 0.5 },
      ],
      overrides: [
        { match: /w$/, bits: 4 },
        { match: "h.1.w", bits: 2 },
        { match: ["wte"], weightDecay: 0 },
      ],
    };
    expect(await bitsOf(options)).toEqual({
      "h.0.w": 4,
      "h.1.w": 2,
      "h.0.bias": 32,
      wte: 32,
    });
    const { optimizer } = await open(sizes, adamw({ bits: 8 }), options);
    const rows = Object.fromEntries(
      optimizer.explain().map((row) => [row.name, row]),
    );
    expect(rows.wte).toMatchObject({
      weightDecay: 0,
      rules: "group 'all' (a predicate); override 2 (wte)",
    });
    expect(rows["h.0.w"]).toMatchObject({
      weightDecay: 0.5,
      why: "override 0 (/w$/)",
    });
    expect(rows["h.1.w"]!.why).toBe("override 1 ('h.1.w')");
  });

  test("a state's format keeps what an override leaves out", async () => {
    const words = async (recipe: Recipe, state: FormatOptions) => {
      const overrides = [{ match: "wte", state: { m: state } }];
      const { optimizer } = await open(sizes, recipe, { overrides });
      const { formats } = optimizer
        .memory()
        .tensors.find(({ name }) => name === "wte")!;
      // As the same option of the recipe has it.
      const own = await open(sizes, {
        ...recipe,
        ...(optimizerByName(recipe.name) as typeof adamw)({
          state: { m: state },
        }),
      });
      expect(own.optimizer.memory().tensors.at(-1)!.formats).toEqual(formats);
      return formats.m;
    };
    expect(await words(adamw4bit(), { rounding: "stochastic" })).toBe(
      "4-bit signed nf4, block 128, stochastic rounding",
    );
    expect(await words(adamw4bit(), { bits: 4, blockSize: 64 })).toBe(
      "4-bit signed nf4, block 64",
    );
    // NF4 has 4 bits; what else was said stays.
    expect(await words(adamw4bit(), { bits: 8 })).toBe(
      "8-bit signed dynamic, block 256",
    );
    expect(await words(sgd4bit(), { blockSize: 64 })).toBe(
      "4-bit signed nf4, block 64, stochastic rounding",
    );
    expect(await words(sgd4bit(), { bits: 16 })).toBe(
      "bfloat16, stochastic rounding",
    );
    expect(await words(sgd4bit(), { bits: 32 })).toBe("float32");
    const { optimizer } = await open(sizes, adamw4bitRank1(), {
      overrides: [
        { match: /./, state: { v: { blockSize: 64 } } },
        { match: "wte", state: { v: { scale: "block" } } },
        { match: "h.0.w", state: { v: { bits: 16 } } },
      ],
    });
    const formats = Object.fromEntries(
      optimizer.memory().tensors.map((row) => [row.name, row.formats.v]),
    );
    expect(formats.wte).toBe("4-bit unsigned linear-nozero, block 64");
    expect(formats["h.0.w"]).toBe("bfloat16");
  });

  test("a pattern with the flag g or y matches every tensor, each time", async () => {
    for (const match of [/w/g, /h\.\d\.w/y, /^h/gm])
      expect(await bitsOf({ overrides: [{ match, bits: 4 }] })).toMatchObject({
        "h.0.w": 4,
        "h.1.w": 4,
      });
  });

  test("a predicate sees name, shape and size", async () => {
    expect(
      await bitsOf({
        overrides: [
          {
            match: ({ size, name, shape }) =>
              size > 8000 && name === "wte" && shape[0] === 8192,
            bits: 4,
          },
        ],
      }),
    ).toMatchObject({
      wte: 4,
      "h.0.w": 8,
    });
  });

  test("a group's learning rate is its own; the others follow the optimizer's", async () => {
    const { optimizer, parameters } = await open(
      { a: 1, b: 1, c: 1 },
      sgd({ lr: 1, momentum: 0 }),
      {
        groups: [{ parameters: "b", lr: 10 }],
        overrides: [{ match: "c", lr: (t) => 100 * t }],
      },
    );
    for (const { data } of Object.values(parameters)) data.fill(0);
    const g = Float32Array.of(1);
    await optimizer.step({ a: g, b: g, c: g });
    optimizer.lr = 2;
    await optimizer.step({ a: g, b: g, c: g });
    expect(["a", "b", "c"].map((name) => parameters[name]!.data[0])).toEqual([
      -3, -20, -300,
    ]);
  });

  test("hyperparameters of an override act on its tensors alone", async () => {
    const { optimizer, parameters } = await open(
      { a: 1, b: 1 },
      adamw({ lr: 0.1, weightDecay: 1 }),
      {
        overrides: [{ match: "b", weightDecay: 0 }],
      },
    );
    for (const { data } of Object.values(parameters)) data.fill(1);
    const g = Float32Array.of(0);
    await optimizer.step({ a: g, b: g });
    expect(parameters.a!.data[0]).toBe(Math.fround(0.9));
    expect(parameters.b!.data[0]).toBe(1);
  });

  test.each<[string, OptimizerOptions, string | RegExp]>([
    [
      "matches nothing",
      { overrides: [{ match: /nothing/, bits: 4 }] },
      "createOptimizer: override 0 (/nothing/) matches no tensor; the names are h.0.w, h.1.w, h.0.bias, wte",
    ],
    [
      "names a tensor that is not there",
      { overrides: [{ match: "wtr", bits: 4 }] },
      "there is no tensor 'wtr'; did you mean 'wte'?",
    ],
    [
      "names one of several wrongly",
      { overrides: [{ match: ["wte", "h.2.w"], bits: 4 }] },
      "there is no tensor 'h.2.w'; did you mean 'h.",
    ],
    [
      "has an unknown option",
      { overrides: [{ match: "wte", weightdecay: 0 }] },
      "override 0 ('wte'): unknown option 'weightdecay'; did you mean 'weightDecay'?",
    ],
    [
      "has a bad value",
      { overrides: [{ match: "wte", eps: -1 }] },
      "eps must be 0 or more, given -1",
    ],
    [
      "has bad bits",
      { overrides: [{ match: "wte", bits: 9 }] },
      /bits must be 2 to 8.*given 9/,
    ],
    [
      "has a bad minimum",
      { overrides: [{ match: "wte", minQuantizedSize: NaN }] },
      "minQuantizedSize must be a number of elements",
    ],
    [
      "has no match",
      { overrides: [{ bits: 4 } as never] },
      "match must be a name, a list of names, a pattern or a function, given undefined",
    ],
  ])("an override that %s is an error", async (_, options, message) => {
    await expect(bitsOf(options)).rejects.toThrow(message);
  });

  test("a tensor in two groups is an error", async () => {
    await expect(
      bitsOf({
        groups: [
          { name: "first", parameters: /w/, lr: 1 },
          { parameters: ["wte"], lr: 2 },
        ],
      }),
    ).rejects.toThrow(
      "createOptimizer: 'wte' is in group 'first' (/w/) and in group 1 (wte); a tensor is in one group",
    );
  });

  test("a group that matches nothing is an error", async () => {
    await expect(
      bitsOf({ groups: [{ name: "bias", parameters: /biases/, lr: 1 }] }),
    ).rejects.toThrow("group 'bias' (/biases/) matches no tensor");
  });
});

describe("the memory report", () => {
  const sizes = { small: 100, odd: 4999, even: 8192, none: 0 };
  const options: OptimizerOptions = {
    overrides: [
      {
        match: "odd",
        state: { m: { bits: 2 }, v: { bits: 5, blockSize: 32 } },
      },
    ],
  };

  test("is the sum of the bytes that are really there, and what the estimate said", async () => {
    for (const recipe of [
      adamw(),
      adamw({ bits: 8 }),
      adamw({ bits: 4 }),
      adamw({ bits: 3, blockSize: 4096 }),
    ]) {
      const { optimizer } = await open(sizes, recipe, options);
      const report = optimizer.memory();
      let bytes = 0;
      for (const name of Object.keys(sizes))
        for (const state of Object.values(await optimizer.state(name)))
          bytes +=
            state.kind === "float"
              ? state.values.byteLength
              : state.codes.byteLength + state.scales.byteLength;
      expect(report.stateBytes).toBe(bytes);
      expect(report.tensors.reduce((sum, row) => sum + row.bytes, 0)).toBe(
        bytes,
      );
      expect(report.parameters).toBe(100 + 4999 + 8192);
      expect(report.stateBytes32).toBe(8 * report.parameters);
      expect(report.bytesPerParameter).toBe(bytes / report.parameters);
      const shapes = Object.fromEntries(
        Object.entries(sizes).map(([name, size]) => [name, [size]]),
      );
      expect(estimateMemory(shapes, recipe, options)).toEqual({
        ...report,
        workspaceBytes: 0,
      });
    }
  });

  test("counts by hand", () => {
    const report = estimateMemory({ a: [4096], b: [100] }, adamw({ bits: 8 }));
    expect(report.stateBytes).toBe(2 * (4096 + 16 * 4) + 2 * 400);
    expect(
      estimateMemory([[64, 64], [10]], sgd({ bits: 4 })).tensors.map(
        ({ bytes }) => bytes,
      ),
    ).toEqual([2048 + 32 * 4, 40]);
    expect(estimateMemory({}, adamw())).toMatchObject({
      stateBytes: 0,
      parameters: 0,
      bytesPerParameter: 0,
    });
  });

  test("says in words what each tensor has and why", async () => {
    const { optimizer } = await open(sizes, adamw8bit(), options);
    expect(optimizer.explain()).toMatchObject([
      {
        name: "small",
        shape: "[100]",
        state: "m: float32; v: float32",
        bytes: 800,
        "bytes in 32-bit": 800,
        why: "float32: 100 elements are fewer than minQuantizedSize 4096",
        lr: 1e-3,
        beta1: 0.9,
      },
      {
        name: "odd",
        state:
          "m: 2-bit signed dynamic, block 128; v: 5-bit unsigned dynamic, block 32, stored in 8 bits",
        why: "override 0 ('odd')",
      },
      {
        name: "even",
        state:
          "m: 8-bit signed dynamic, block 256; v: 8-bit unsigned dynamic, block 256",
        bytes: 2 * (8192 + 128),
        why: "adamw8bit",
      },
      { name: "none", bytes: 0 },
    ]);
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
