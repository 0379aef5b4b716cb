// Saving and loading on TensorFlow.js, by its own means.

import { execFile } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import type { Variable } from "@tensorflow/tfjs-core";
import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import {
  adam32bit,
  adam8bit,
  adamw32bit,
  adamw8bit,
  lion8bit,
  registerWith,
  type LowbitOptimizer,
} from "lowbit/tfjs";
import { normals } from "./support/numbers.ts";
import { backends, tf, useBackend, type BackendName } from "./support/tfjs.ts";

const skipOf = (name: BackendName) =>
  backends.find((one) => one.name === name)!.skip;

interface Part {
  readonly losses: number[];
  readonly weights: string[];
  readonly iterations: number;
  readonly bits: Record<string, number>[];
}

async function part(...args: string[]): Promise<Part> {
  const script = path.join(import.meta.dirname, "support/tfjs-resume.ts");
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ["--conditions=lowbit-source", script, ...args],
    { maxBuffer: 1 << 26 },
  );
  return JSON.parse(stdout.trim().split("\n").at(-1)!) as Part;
}

describe("a model saved in one process goes on in another, bit for bit", () => {
  test.for<[BackendName, string]>([
    // Rank-1 scales, rounding by chance, and what most will take.
    ["cpu", "adamw4bitRank1"],
    ["wasm", "lion4bit"],
    ["webgpu", "adamw8bit"],
  ])("on %s, %s", async ([backend, recipe], context) => {
    const skipReason = skipOf(backend);
    if (skipReason) context.skip(skipReason);
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-tfjs-"));
    try {
      const file = path.join(folder, "model.json");
      const whole = await part(backend, recipe, "first", file);
      const rest = await part(backend, recipe, "again", file);
      expect(whole.iterations).toBe(6);
      // The first kernels have their states in few bits, the biases do not.
      expect(Math.min(...Object.values(whole.bits[0]!))).toBeLessThan(32);
      expect(Math.max(...Object.values(whole.bits[1]!))).toBe(32);
      expect(rest).toEqual(whole);
    } finally {
      fs.rmSync(folder, { recursive: true });
    }
  });
});

describe("weights", () => {
  beforeAll(() => useBackend("cpu"));
  afterEach(() => void vi.restoreAllMocks());

  const shapes = [[40, 30], [30], [30, 40]];
  let count = 0;

  function makeVariables(name = (i: number) => `saving${count++}_${i}`) {
    return shapes.map((shape, i) =>
      tf.variable(
        tf.tensor(
          normals(
            shape.reduce((a, b) => a * b, 1),
            i,
          ),
          shape,
        ),
        true,
        name(i),
      ),
    );
  }

  function step(
    optimizer: { applyGradients: LowbitOptimizer["applyGradients"] },
    variables: Variable[],
    t: number,
  ) {
    const gradients = variables.map(({ name, shape, size }, i) => ({
      name,
      tensor: tf.tensor(normals(size, 100 * t + i), shape),
    }));
    optimizer.applyGradients(gradients);
    tf.dispose(gradients.map(({ tensor }) => tensor));
  }

  const read = (variables: Variable[]) =>
    variables.map((variable) => Array.from(variable.dataSync()));

  test("say everything by name, codes as int32", async () => {
    const variables = makeVariables((i) => `w${i}`);
    const optimizer = adamw8bit(1e-2, { minQuantizedSize: 100 });
    step(optimizer, variables, 1);
    const weights = await optimizer.getWeights();
    expect(weights.map(({ name }) => name)).toEqual([
      "iter",
      "lowbit",
      ...["m", "v"].flatMap((s) => [`w0/${s}/codes`, `w0/${s}/scales`]),
      "w1/m",
      "w1/v",
      ...["m", "v"].flatMap((s) => [`w2/${s}/codes`, `w2/${s}/scales`]),
    ]);
    const [iterations, , codes, scales] = weights.map(({ tensor }) => tensor);
    expect(iterations!.dataSync()[0]).toBe(1);
    expect([codes!.dtype, codes!.shape]).toEqual(["int32", [300]]);
    expect([scales!.dtype, scales!.shape]).toEqual(["float32", [5]]);
    optimizer.dispose();
    tf.dispose(variables);
  });

  test.each([
    [
      "other names at the end",
      (i: number) => `again${count}/kernel${i}_1`,
      (i: number) => `again${count}/kernel${i}`,
    ],
    [
      "no names at all",
      (i: number) => `${count}9${i}`,
      (i: number) => `${count}8${i}`,
    ],
  ])("find their variables under %s", async (_, after, before) => {
    const variables = makeVariables(before);
    const first = adam8bit(1e-2, { minQuantizedSize: 100 });
    for (let t = 1; t < 4; t++) step(first, variables, t);
    const weights = await first.getWeights();
    const copies = variables.map((variable, i) =>
      tf.variable(variable.clone(), true, after(i)),
    );
    const second = adam8bit(1e-2, { minQuantizedSize: 100 });
    await second.setWeights(weights);
    expect(second.iterations).toBe(3);
    for (let t = 4; t < 7; t++) {
      step(first, variables, t);
      step(second, copies, t);
    }
    expect(read(copies)).toEqual(read(variables));
    first.dispose();
    second.dispose();
    tf.dispose([variables, copies]);
  });

  test("that wait for their variables are saved again", async () => {
    const variables = makeVariables();
    const first = adam8bit(1e-2);
    step(first, variables, 1);
    const second = adam8bit(1e-2);
    await second.setWeights(await first.getWeights());
    const third = adam8bit(1e-2);
    await third.setWeights(await second.getWeights());
    const copies = variables.map((one) =>
      tf.variable(one.clone(), true, `${one.name}_1`),
    );
    step(first, variables, 2);
    step(third, copies, 2);
    expect(read(copies)).toEqual(read(variables));
    for (const one of [first, second, third]) one.dispose();
    tf.dispose([variables, copies]);
  });

  test("of TensorFlow.js's own Adam are taken over", async () => {
    const variables = makeVariables();
    const theirs = tf.train.adam(1e-2, 0.9, 0.999, 1e-7);
    for (let t = 1; t < 4; t++) step(theirs, variables, t);
    const copies = variables.map((one) =>
      tf.variable(one.clone(), true, `${one.name}_1`),
    );
    const ours = adam32bit(1e-2, { epsilon: 1e-7 });
    const weights = await theirs.getWeights();
    await ours.setWeights(weights);
    for (let t = 4; t < 7; t++) {
      step(theirs, variables, t);
      step(ours, copies, t);
    }
    const differences = read(copies).flatMap((values, i) => {
      const expected = variables[i]!.dataSync();
      return values.map((value, k) => Math.abs(value - expected[k]!));
    });
    expect(Math.max(...differences)).toBeLessThan(1e-5);
    ours.dispose();
    theirs.dispose();
    tf.dispose([variables, copies]);
  });

  test("in other formats are requantized, and it is said", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const variables = makeVariables();
    const full = adamw32bit(1e-2);
    for (let t = 1; t < 4; t++) step(full, variables, t);
    const copies = variables.map((one) =>
      tf.variable(one.clone(), true, `${one.name}_1`),
    );
    const eight = adamw8bit(1e-2, { minQuantizedSize: 100 });
    await eight.setWeights(await full.getWeights());
    step(full, variables, 4);
    step(eight, copies, 4);
    expect(warn.mock.calls.flat()).toEqual([
      "adamw8bit: 4 states were saved in other formats and were requantized",
    ]);
    // A step of 1e-2, from moments that are off by a few hundredths.
    const [a, b] = [read(copies), read(variables)].map((all) => all.flat());
    const off = a!.map((value, i) => Math.abs(value - b![i]!));
    expect(Math.max(...off)).toBeLessThan(5e-3);
    expect(Math.max(...off)).toBeGreaterThan(0);
    full.dispose();
    eight.dispose();
    tf.dispose([variables, copies]);
  });

  test("that fit nothing are spoken of", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const variables = makeVariables();
    const first = adamw8bit(1e-2);
    step(first, variables.slice(0, 1), 1);
    const second = adamw8bit(1e-2);
    await second.setWeights(await first.getWeights());
    step(second, variables.slice(1, 2), 2);
    expect(warn.mock.calls.flat().join()).toContain(
      `adamw8bit: no saved state fits ${variables[1]!.name}; they begin without`,
    );
    first.dispose();
    second.dispose();
    tf.dispose(variables);
  });

  test("of another optimizer, another version or no optimizer are refused", async () => {
    const variables = makeVariables();
    const first = adamw8bit(1e-2);
    step(first, variables, 1);
    const before = read(variables);
    const weights = await first.getWeights();
    await expect(lion8bit().setWeights(weights)).rejects.toThrow(
      "lion8bit: setWeights: the states are those of adamw",
    );
    const torn = tf.tensor1d([1, 2, 3], "int32");
    await expect(
      adamw8bit().setWeights([weights[0]!, { name: "lowbit", tensor: torn }]),
    ).rejects.toThrow(
      "adamw8bit: setWeights: 'lowbit' is damaged: it should hold JSON",
    );
    torn.dispose();
    await expect(adamw8bit().setWeights(weights.slice(1))).rejects.toThrow(
      "'iter' must come first",
    );
    const second = adamw8bit();
    await expect(second.setWeights(weights.slice(0, 3))).rejects.toThrow(
      "is missing",
    );
    expect(second.iterations).toBe(0);
    const text = JSON.stringify({ format: "lowbit", version: 99 }).padEnd(36);
    const future = tf.tensor(
      new Int32Array(new TextEncoder().encode(text).buffer),
      undefined,
      "int32",
    );
    await expect(
      adamw8bit().setWeights([weights[0]!, { name: "lowbit", tensor: future }]),
    ).rejects.toThrow("version 99 of the weights; this release reads 1");
    expect(read(variables)).toEqual(before);
    tf.dispose([variables, future]);
    first.dispose();
  });

  test("can be read while training goes on", async () => {
    const variables = makeVariables();
    const optimizer = adamw8bit(1e-2, { minQuantizedSize: 100 });
    step(optimizer, variables, 1);
    const values = async (
      weights: Awaited<ReturnType<LowbitOptimizer["getWeights"]>>,
    ) =>
      Promise.all(
        weights.map(async ({ tensor }) => Array.from(await tensor.data())),
      );
    const expected = await values(await optimizer.getWeights());
    const promise = optimizer.getWeights();
    step(optimizer, variables, 2);
    expect(await values(await promise)).toEqual(expected);
    optimizer.dispose();
    tf.dispose(variables);
  });
});

test("50 saves of a model leave no tensors behind", async () => {
  await useBackend("cpu");
  registerWith(tf);
  const model = tf.sequential();
  model.add(tf.layers.dense({ units: 8, inputShape: [8] }));
  const optimizer = adamw8bit(1e-3, { minQuantizedSize: 0 });
  model.compile({ optimizer, loss: "meanSquaredError" });
  const [x, y] = [tf.ones([4, 8]), tf.zeros([4, 8])];
  await model.fit(x, y, { epochs: 1, verbose: 0 });
  const save = () =>
    model.save(
      tf.io.withSaveHandler(async () => ({
        modelArtifactsInfo: {
          dateSaved: new Date(),
          modelTopologyType: "JSON",
        },
      })),
      { includeOptimizer: true },
    );
  const before = tf.memory().numTensors;
  await save();
  const after = tf.memory().numTensors;
  for (let i = 0; i < 49; i++) await save();
  expect(tf.memory().numTensors).toBe(after);
  optimizer.dispose();
  expect(tf.memory().numTensors).toBe(before);
  tf.dispose([x, y]);
  model.dispose();
});
