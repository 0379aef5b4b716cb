// States of bitsandbytes, torchao and lpmm, recorded on a GPU: read, written
// back, and continued here; and lowbit's own states through every layout.

import fs from "node:fs";
import path from "node:path";
import {
  adafactor,
  adagrad8bit,
  ademamix32bit,
  lamb8bit,
  lion8bit,
  nadam32bit,
  rmsprop,
  rmsprop8bit,
  sgd8bit,
  adamw,
  adamw32bit,
  adamw4bitBlock,
  adamw4bitRank1,
  adamw8bit,
  adafactor8bit,
  ademamix8bit,
  createOptimizer,
  factor4bit,
  sgd,
  type Recipe,
} from "lowbit";
import {
  readSafetensors,
  readState,
  type LayoutName,
  type SafeTensor,
} from "lowbit/io";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { forTorchao, goOn } from "../examples/interchange.ts";
import { recognise } from "./support/golden.ts";
import { normals, relativeDistance, ulps } from "./support/numbers.ts";
import { pythonState } from "./support/python-state.ts";
import type { Recording } from "./support/recordings.ts";
import { expectParameters, expectState } from "./support/replay.ts";
import { all, byName, write } from "./support/interchange.ts";

const root = path.resolve(import.meta.dirname, "..");
const runs = all.filter(({ tensors }) => tensors.has("grads"));
const named = runs.map((run) => [run.name, run] as const);

const changesOf = ({ changes }: Awaited<ReturnType<typeof write>>) => [
  ...new Set(changes.map(({ change }) => change)),
];

describe("a state of Python's", () => {
  test.each(named)("%s comes back as it was", async (_, run) => {
    const python = pythonState(run, 2);
    const open = await readState(python.bytes);
    const written = await write(open, { to: open.layout });
    expect(changesOf(written)).toEqual(["kept"]);
    const back = readSafetensors(written.bytes).tensors;
    for (const [key, theirs] of Object.entries(python.tensors))
      expectSameTensor(back[key.replace(".0.", ".w.")]!, theirs, key, run);
    // Nothing is in it that Python did not write, but a step where there was none.
    const extra = Object.keys(back).filter(
      (key) => !python.tensors[key.replace(".w.", ".0.")],
    );
    expect(extra).toEqual(run.name.includes("sgd4") ? ["state.w.step"] : []);
  });

  test.each(named)("%s is continued here", async (_, run) => {
    const known = recognise(run);
    if (known.kind !== "replay") throw new Error(known.kind);
    const begun = 2;
    const open = await readState(pythonState(run, begun).bytes, {
      step: begun,
    });
    // Some replays take a variant of bitsandbytes' formula, of another name.
    const { name: optimizer } = known.recipe.optimizer;
    const checkpoint = { ...open.checkpoint, optimizer };
    const { bytes } = await write({ ...open, checkpoint }, { to: "lowbit" });
    const data = known.parameter(begun).slice();
    const mine = await createOptimizer(
      known.recipe,
      { w: { data, shape: known.shape } },
      { device: "wasm", minQuantizedSize: 0 },
    );
    try {
      const report = await mine.load(bytes);
      expect(mine.steps).toBe(begun);
      // Codes are taken over as they are; the replay's own FP8 table counts 0 once.
      expect(report.requantized.length).toBe(run.name.includes("fp8") ? 2 : 0);
      for (let t = begun + 1; t <= known.steps; t++) {
        await mine.step({ w: known.gradient(t) });
        expectParameters(known, t, data);
        const states = await mine.state("w");
        for (const [state, expected] of Object.entries(known.state(t)))
          expectState(
            `${state} after step ${t}`,
            states[state]!,
            expected,
            known,
            known.brokenBlocks[state],
          );
      }
    } finally {
      mine.dispose();
    }
  });

  test("is what its library decodes", async () => {
    // Codes, tables and scales by their definitions, in float64.
    const run = byName("ao_adamw4bit");
    const { tensors } = pythonState(run, 3);
    const at = (key: string) => tensors[`state.0.exp_avg.${key}`]!.data;
    const [codes, scales, table] = ["codes", "scale", "qmap"].map(at) as [
      Uint8Array,
      Float32Array,
      Float32Array,
    ];
    const values = Float32Array.from({ length: 5120 }, (_, i) => {
      const byte = codes[i >> 1]!;
      return table[i % 2 ? byte & 15 : byte >> 4]! * scales[i >> 7]!;
    });
    const open = await readState(pythonState(run, 3).bytes);
    const { bytes } = await write(open, { to: "float32" });
    const plain = readSafetensors(bytes).tensors["state.w.exp_avg"]!;
    expect(relativeDistance(plain.data as Float32Array, values)).toBeLessThan(
      1e-6,
    );
  });
});

function expectSameTensor(
  mine: SafeTensor,
  theirs: SafeTensor,
  key: string,
  run: Recording,
): void {
  expect(mine.dtype, key).toBe(theirs.dtype);
  const [a, b] = [mine.data, theirs.data] as [Float32Array, Float32Array];
  if (run.name.includes("fp8") && key.endsWith(".scale")) {
    // Times 448 and back: an ulp may be lost.
    a.forEach((value, i) => expect(ulps(value, b[i]!)).toBeLessThanOrEqual(1));
    return;
  }
  const lpmm = theirs.dtype === "I8";
  // The last byte lpmm allocates is never written; the fused kernel does not pad.
  const length = run.name.includes("fused")
    ? b.length
    : b.length - (lpmm ? 1 : 0);
  const wrong = b.findIndex((value, i) => i < length && value !== a[i]);
  expect(wrong, `first other value of ${key}`).toBe(-1);
  if (run.name.includes("fused")) return;
  expect(mine.shape, key).toEqual(theirs.shape);
}

/** Large enough for every library's rules, in multiples of their blocks. */
const shapes = { w: [64, 160], ln: [100], head: [33, 256] };

/** An optimizer of ours that has taken some steps. */
async function trained(recipe: Recipe) {
  const data = Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => [
      name,
      { shape, data: normals(size(shape), i + 1) },
    ]),
  );
  const mine = await createOptimizer(recipe, data, { device: "wasm" });
  for (let t = 1; t <= 3; t++) await mine.step(gradients(t));
  return { mine, data };
}

const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const gradients = (t: number) =>
  Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => [
      name,
      normals(size(shape), 100 * t + i, 0.1),
    ]),
  );

describe("a state of ours", () => {
  const exact: [string, LayoutName, Recipe][] = [
    ["adamw8bit", "bitsandbytes", adamw8bit()],
    ["adamw8bit", "torchao", adamw8bit()],
    ["adamw4bit, in blocks", "torchao", adamw({ bits: 4 })],
    ["adamw4bit, in blocks", "lpmm", adamw({ bits: 4 })],
    ["adamw4bitRank1", "lpmm", adamw4bitRank1()],
    ["factor4bit", "lpmm", factor4bit()],
    ["sgd in 4 bits, dynamic", "lpmm", sgd({ bits: 4 })],
    ["adamw32bit", "float32", adamw32bit()],
    ["adamw32bit", "bitsandbytes", adamw32bit()],
    ["adamw32bit", "torchao", adamw32bit()],
    ["adamw32bit", "lpmm", adamw32bit()],
    ["ademamix8bit", "bitsandbytes", ademamix8bit()],
    ["lion8bit", "bitsandbytes", lion8bit()],
    ["sgd8bit", "bitsandbytes", sgd8bit()],
    ["lamb8bit", "bitsandbytes", lamb8bit()],
    ["rmsprop8bit", "bitsandbytes", rmsprop8bit()],
    ["adagrad8bit", "bitsandbytes", adagrad8bit()],
    ["adamw8bit with AMSGrad", "torchao", adamw8bit({ amsgrad: true })],
    ["adamw32bit with AMSGrad", "float32", adamw32bit({ amsgrad: true })],
    ["rmsprop with momentum", "float32", rmsprop({ momentum: 0.9 })],
    ["ademamix32bit", "float32", ademamix32bit()],
    ["adafactor with momentum", "float32", adafactor({ beta1: 0.9 })],
    ["nadam32bit", "float32", nadam32bit()],
  ];
  test.each(exact)("%s goes through %s and back", async (_, to, recipe) => {
    const { mine, data } = await trained(recipe);
    const saved = await mine.save();
    const there = await write(await readState(saved), { to });
    expect(changesOf(there)).toEqual(["kept"]);
    const open = await readState(there.bytes);
    // Without a single code there is no telling them from plain PyTorch.
    const plain = recipe.name === "adamw32bit" && to !== "bitsandbytes";
    expect(open.layout).toBe(plain ? "float32" : to);
    expect(open.checkpoint.step).toBe(3);
    const back = await write(open, { to: "lowbit" });
    expect(changesOf(back)).toEqual(["kept"]);
    const copy = Object.fromEntries(
      Object.entries(data).map(([name, one]) => [
        name,
        { shape: one.shape, data: one.data.slice() },
      ]),
    );
    const other = await createOptimizer(recipe, copy, { device: "wasm" });
    const report = await other.load(back.bytes);
    expect(report.requantized).toEqual([]);
    expect(report.differences).toEqual([]);
    for (const name of Object.keys(shapes))
      expect(await other.state(name), name).toEqual(await mine.state(name));
    await mine.step(gradients(4));
    await other.step(gradients(4));
    for (const [name, one] of Object.entries(data))
      expect(copy[name]!.data, name).toEqual(one.data);
    mine.dispose();
    other.dispose();
  });

  test("is requantized with the error that is reported", async () => {
    const { mine } = await trained(adamw8bit());
    const open = await readState(await mine.save());
    const { bytes, changes } = await write(open, { to: "torchao", bits: 4 });
    const before = (await mine.toFloat32()).tensors.w!;
    const other = await createOptimizer(
      // torchao's formats.
      adamw4bitBlock(),
      Object.fromEntries(
        Object.entries(shapes).map(([name, shape]) => [name, { shape }]),
      ),
    );
    const lowbit = await write(await readState(bytes), { to: "lowbit" });
    await other.load(lowbit.bytes);
    const after = (await other.toFloat32()).tensors.w!;
    for (const state of ["m", "v"]) {
      const one = changes.find(
        (change) => change.parameter === "w" && change.state === state,
      )!;
      expect(one.change).toBe("requantized");
      let squares = 0;
      let wrong = 0;
      before[state]!.forEach((value, i) => {
        squares += value ** 2;
        wrong += (value - after[state]![i]!) ** 2;
      });
      expect(one.error!.relative).toBeCloseTo(Math.sqrt(wrong / squares), 5);
      expect(one.error!.relative).toBeGreaterThan(0);
    }
    // Small tensors stay as they are.
    const ln = changes.filter(({ parameter }) => parameter === "ln");
    expect(ln.map(({ change }) => change)).toEqual(["kept", "kept"]);
  });

  test("takes the formats of a recipe", async () => {
    const { mine } = await trained(adamw8bit());
    const open = await readState(await mine.save());
    const options = { to: "lowbit", recipe: "adamw4bitRank1" } as const;
    const { bytes } = await write(open, options);
    const other = await createOptimizer(
      adamw4bitRank1(),
      Object.fromEntries(
        Object.entries(shapes).map(([name, shape]) => [name, { shape }]),
      ),
    );
    expect((await other.load(bytes)).requantized).toEqual([]);
    await expect(
      write(open, { to: "lowbit", recipe: "sgd8bit" }),
    ).rejects.toThrow(/of adamw, and sgd8bit is a recipe of sgd/);
  });

  test("shares a scale in bitsandbytes' AdEMAMix where a block is short", async () => {
    const shape = [4100];
    const mine = await createOptimizer(ademamix8bit(), { w: { shape } });
    for (let t = 1; t <= 3; t++) await mine.step({ w: normals(4100, t) });
    const open = await readState(await mine.save());
    const { bytes } = await write(open, { to: "bitsandbytes" });
    const back = (await readState(bytes)).checkpoint.tensors[0]!.states;
    const mineNow = await mine.state("w");
    for (const [i, state] of ["m1", "m2"].entries()) {
      const now = mineNow[state]!;
      const then = await back[i]!.read();
      if (now.kind !== "quantized" || then.kind !== "quantized")
        throw new Error("not quantized");
      // m1's last block is its 17th, m2's first its first.
      const [from, to] = i === 0 ? [4096, 4100] : [0, 256];
      const shared = i === 0 ? 16 : 0;
      const rest = (codes: Uint8Array) => [
        ...codes.subarray(0, from),
        ...codes.subarray(to),
      ];
      expect(rest(then.codes)).toEqual(rest(now.codes));
      expect(then.scales[shared]).toBeGreaterThanOrEqual(now.scales[shared]!);
      expect(then.scales.filter((_, s) => s !== shared)).toEqual(
        now.scales.filter((_, s) => s !== shared),
      );
    }
  });

  test("has no place where there is none", async () => {
    const { mine } = await trained(adafactor8bit());
    const open = await readState(await mine.save());
    for (const [to, words] of [
      ["bitsandbytes", /bitsandbytes has no adafactor; it has adam/],
      ["torchao", /torchao has low-bit adam and adamw, and no adafactor/],
      ["lpmm", /lpmm has adamw, factor, sgd, and no adafactor/],
    ] as const)
      await expect(write(open, { to })).rejects.toThrow(words);
    const file = await write(open, { to: "float32" });
    expect(
      Object.keys(readSafetensors(file.bytes).tensors).filter((key) =>
        key.includes("exp_avg_sq_"),
      ).length,
    ).toBe(4);
    await expect(write(open, { to: "lpmm", bits: 8 })).rejects.toThrow(
      /has 4, 32 bits, and not 8/,
    );
  });
});

describe("the example in docs/interchange.md", () => {
  test("is examples/interchange.ts", () => {
    const text = (file: string) =>
      fs.readFileSync(path.join(root, file), "utf8");
    const [, code] = /```ts file=examples\/interchange.ts\n([^]*?)```/.exec(
      text("docs/interchange.md"),
    )!;
    expect(code).toBe(text("examples/interchange.ts"));
  });

  test("goes on with a state, and hands it over", async () => {
    const log = vi.spyOn(console, "log").mockImplementation(() => {});
    onTestFinished(() => log.mockRestore());
    const { bytes } = pythonState(byName("ao_adamw8bit"), 2);
    const optimizer = await goOn(new Blob([bytes]), new Float32Array(5120));
    expect(optimizer.steps).toBe(2);
    const file = await forTorchao(await optimizer.save());
    const back = await readState(file);
    expect(back.layout).toBe("torchao");
    const theirs = readSafetensors(bytes).tensors;
    const mine = readSafetensors(
      new Uint8Array(await file.arrayBuffer()),
    ).tensors;
    expect(mine["state.w.exp_avg.codes"]!.data).toEqual(
      theirs["state.0.exp_avg.codes"]!.data,
    );
  });
});
