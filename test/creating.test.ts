// What createOptimizer takes, and what it refuses.

import { adamw, adamw8bit, createOptimizer, sgd } from "lowbit";
import { describe, expect, test } from "vitest";
import { device, open } from "./support/handles.ts";

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
