// Options by tensor: groups and overrides, and what the memory report says of them.

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
import { device, open } from "./support/handles.ts";

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
