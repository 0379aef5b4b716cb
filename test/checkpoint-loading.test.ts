// What a load takes, says and refuses.

import {
  adamw,
  adamw8bit,
  defineOptimizer,
  FileError,
  lion8bit,
  type ByteSource,
} from "lowbit";
import { describe, expect, test } from "vitest";
import { advance, runOn } from "./support/checkpoints.ts";
import { engines } from "./support/engines.ts";

const wasm = engines[1]!;

describe("what a load says", () => {
  test("which states it requantized, and how far that is off", async () => {
    const first = await runOn(wasm, adamw8bit());
    await advance(first, 1, 2, 3);
    const file = await first.optimizer.save();
    const blocks = await runOn(wasm, adamw8bit({ blockSize: 64 }));
    const { requantized } = await blocks.optimizer.load(file);
    expect(requantized[0]).toEqual({
      tensor: "matrix",
      state: "m",
      from: "8-bit signed dynamic, block 256",
      to: "8-bit signed dynamic, block 64",
    });
    const before = (await first.optimizer.toFloat32()).tensors.matrix!.m!;
    const after = (await blocks.optimizer.toFloat32()).tensors.matrix!.m!;
    const largest = Math.max(...before.map(Math.abs));
    // Entries of the 8-bit map lie at most 0.014 of the largest apart.
    before.forEach((value, i) =>
      expect(Math.abs(value - after[i]!)).toBeLessThan(0.008 * largest),
    );
    // A rounding is no other storage.
    const rounded = await runOn(
      wasm,
      adamw8bit({ state: { m: { rounding: "stochastic" } } }),
    );
    expect((await rounded.optimizer.load(file)).requantized).toEqual([]);
  });

  test("what differs, and that a learning rate comes with the file", async () => {
    const first = await runOn(wasm, adamw8bit({ lr: 1e-3 }));
    await advance(first, 1);
    first.optimizer.lr = 5e-4;
    const file = await first.optimizer.save();
    const second = await runOn(
      wasm,
      adamw8bit({ lr: 1e-2, beta2: 0.95, weightDecay: 0 }),
      { seed: 3, overrides: [{ match: "vector", weightDecay: 0.2 }] },
    );
    const { differences } = await second.optimizer.load(file);
    expect(differences).toEqual([
      { what: "lr", saved: 5e-4, here: 1e-2, used: "saved" },
      { what: "seed", saved: 0, here: 3, used: "here" },
      { what: "beta2", saved: 0.999, here: 0.95, used: "here" },
      { what: "weightDecay", saved: 0.01, here: 0, used: "here" },
      {
        what: "weightDecay of 'vector'",
        saved: 0.01,
        here: 0.2,
        used: "here",
      },
    ]);
    expect(second.optimizer.lr).toBe(5e-4);
    const scheduled = await runOn(wasm, adamw8bit({ lr: (t) => 1 / t }));
    await scheduled.optimizer.load(file);
    expect(scheduled.optimizer.lr).toBe(1 / 2);
  });

  test("that a formula of the same name has changed", async () => {
    const define = (factor: number) =>
      defineOptimizer({
        name: "mine",
        hyper: { lr: 0.1 },
        state: { m: "signed" },
        update: `
          m = ${factor} * m + g
          p = p - lr * m`,
      });
    const first = await runOn(wasm, define(0.9)(), { shapes: { w: [4] } });
    const second = await runOn(wasm, define(0.8)(), { shapes: { w: [4] } });
    const { differences } = await second.optimizer.load(
      await first.optimizer.save(),
    );
    expect(differences).toEqual([
      {
        what: "update of 'w'",
        saved: "m = 0.9 * m + g\np = p - lr * m",
        here: "m = 0.8 * m + g\np = p - lr * m",
        used: "here",
      },
    ]);
  });
});

describe("refuses, and changes nothing:", () => {
  const shapes = { w: [16, 20], b: [30] };
  const cases: [string, () => Promise<Uint8Array>, string][] = [
    [
      "another optimizer",
      async () => (await runOn(wasm, lion8bit(), { shapes })).optimizer.save(),
      "adamw8bit: load: the file is of 'lion' (lion8bit), and this optimizer is 'adamw'",
    ],
    [
      "another shape",
      async () =>
        (
          await runOn(wasm, adamw8bit(), { shapes: { w: [20, 16], b: [30] } })
        ).optimizer.save(),
      "'w' has the shape [20, 16] in the file, and [16, 20] here",
    ],
    [
      "tensors missing and others too many",
      async () =>
        (
          await runOn(wasm, adamw8bit(), { shapes: { w: [16, 20], c: [30] } })
        ).optimizer.save(),
      "the file has no tensor 'b'; this optimizer has no tensor 'c', which the file has",
    ],
    [
      "states too many",
      async () =>
        (
          await runOn(wasm, adamw({ bits: 8, amsgrad: true }), { shapes })
        ).optimizer.save(),
      "this optimizer has no state of 'w' 'vmax', which the file has",
    ],
    [
      "another accumulation's midst",
      async () => {
        const run = await runOn(wasm, adamw8bit(), { shapes, accumulate: 2 });
        await advance(run, 1);
        return run.optimizer.save();
      },
      "the file was saved after 1 of 2 gradients of a step, and this optimizer takes a step every 1; create it with accumulate: 2",
    ],
  ];

  test.each(cases)("%s", async (_, make, message) => {
    const run = await runOn(wasm, adamw8bit(), { shapes });
    await advance(run, 1, 2);
    const before = await run.optimizer.save();
    const error = await run.optimizer.load(await make()).catch((e) => e);
    expect(error).toBeInstanceOf(FileError);
    expect(error.message).toContain(message);
    expect(await run.optimizer.save()).toEqual(before);
  });

  test("and a source that fails midway keeps steps from being taken", async () => {
    const run = await runOn(wasm, adamw8bit(), { shapes });
    await advance(run, 1);
    const file = await run.optimizer.save();
    let reads = 0;
    const failing: ByteSource = {
      size: file.length,
      read: (start, end) => {
        // Everything is read once before the first write.
        if (++reads > 16) throw new Error("the disk is gone");
        return file.subarray(start, end);
      },
    };
    await expect(run.optimizer.load(failing)).rejects.toThrow("disk is gone");
    await expect(advance(run, 2)).rejects.toThrow(
      "adamw8bit: load ended midway and left states of two kinds; load a file again",
    );
    await expect(run.optimizer.save()).rejects.toThrow("load a file again");
    await run.optimizer.load(file);
    await advance(run, 2);
    expect(run.optimizer.steps).toBe(2);
  });
});
