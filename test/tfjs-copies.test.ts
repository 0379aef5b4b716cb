// Other copies of TensorFlow.js, and backends whose insides are not what they were.

import path from "node:path";
import { pathToFileURL } from "node:url";
import fs from "node:fs";
import os from "node:os";
import * as esbuild from "esbuild";
import type * as core from "@tensorflow/tfjs-core";
import type * as door from "lowbit/tfjs";
import type { BackendWasm } from "@tensorflow/tfjs-backend-wasm";
import { beforeAll, describe, expect, test } from "vitest";
import {
  adam8bit,
  adamw8bit,
  registerWasmTrainingKernels,
  registerWith,
} from "lowbit/tfjs";
import { normals } from "./support/numbers.ts";
import { describeGpu } from "./support/gpu.ts";
import { tf, useBackend } from "./support/tfjs.ts";

let count = 0;

/** Trains a product of matrices on any copy; the weights after. */
async function train(
  library: Pick<
    typeof core,
    "tensor" | "variable" | "matMul" | "sum" | "square" | "sub" | "dispose"
  >,
  optimizer: core.Optimizer,
): Promise<number[]> {
  const make = (seed: number) =>
    library.tensor(normals(64 * 64, seed), [64, 64]) as core.Tensor2D;
  const initial = make(1);
  const w = library.variable(initial, true, `copies${count++}`);
  const [x, y] = [make(2), make(3)];
  for (let t = 0; t < 5; t++)
    optimizer.minimize(
      () =>
        library.sum(
          library.square(library.sub(library.matMul(x, w), y)),
        ) as core.Scalar,
      false,
      [w],
    );
  const after = Array.from(await w.data());
  optimizer.dispose();
  library.dispose([initial, w, x, y]);
  return after;
}

describe("two copies of tfjs-core", () => {
  beforeAll(() => useBackend("cpu"));

  test.each(["tfjs-core-second", "tfjs-core-4-10"])("%s", async (name) => {
    const other = (await import(name)) as unknown as typeof core;
    expect(other.Optimizer).not.toBe(tf.Optimizer);
    const expected = await train(tf, adamw8bit(1e-2));
    expect(await train(other, adamw8bit(1e-2))).toEqual(expected);

    // What loadLayersModel of that copy would do.
    const optimizer = adamw8bit(0.5, { weightDecay: 0.25 });
    const listed = () =>
      other.serialization.SerializationMap.getMap().classNameMap[
        optimizer.getClassName()
      ];
    expect(listed()).toBeUndefined();
    registerWith(other);
    const [cls, fromConfig] = listed()!;
    const again = fromConfig(cls, optimizer.getConfig());
    expect(again.getConfig()).toEqual(optimizer.getConfig());
    expect(again).toBeInstanceOf(other.Optimizer);
  });

  test("the copy of a script tag, by the import map of docs/tfjs.md", async () => {
    const root = path.resolve(import.meta.dirname, "..");
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-tfjs-"));
    try {
      const outfile = path.join(folder, "page.mjs");
      await esbuild.build({
        stdin: {
          contents: `export * from "lowbit/tfjs";`,
          resolveDir: root,
        },
        bundle: true,
        format: "esm",
        platform: "node",
        external: ["webgpu"],
        conditions: ["lowbit-source"],
        alias: {
          "@tensorflow/tfjs-core": path.join(root, "examples/tfjs-core.js"),
        },
        outfile,
      });
      Object.assign(globalThis, { tf });
      const page = (await import(
        /* @vite-ignore */ pathToFileURL(outfile).href
      )) as typeof door;
      const expected = await train(tf, adam8bit(1e-2, { maxGradNorm: 1 }));
      const made = page.adam8bit(1e-2, { maxGradNorm: 1 });
      expect(Object.getPrototypeOf(page.LowbitOptimizer)).toBe(tf.Optimizer);
      expect(await train(tf, made)).toEqual(expected);
    } finally {
      fs.rmSync(folder, { recursive: true });
      delete (globalThis as { tf?: unknown }).tf;
    }
  });

  test("the door asks for nothing that the example does not hand on", async () => {
    const { outputFiles } = await esbuild.build({
      stdin: {
        contents: `export * from "lowbit/tfjs";`,
        resolveDir: path.resolve(import.meta.dirname, ".."),
      },
      bundle: true,
      format: "esm",
      platform: "node",
      external: ["webgpu", "@tensorflow/tfjs-core"],
      conditions: ["lowbit-source"],
      write: false,
    });
    const asked = [
      ...outputFiles[0]!.text.matchAll(
        /import \{([^}]*)\} from "@tensorflow\/tfjs-core"/g,
      ),
    ].flatMap(([, names]) =>
      names!.split(",").map((name) => name.trim().split(" as ")[0]!),
    );
    const shim = fs.readFileSync(
      path.resolve(import.meta.dirname, "../examples/tfjs-core.js"),
      "utf8",
    );
    expect(asked.length).toBeGreaterThan(10);
    for (const name of new Set(asked))
      expect(shim).toMatch(RegExp(`\\b${name}\\b`));
  });
});

/** A second backend of the same kind, under another name, with its insides changed. */
async function register<B extends core.KernelBackend>(
  kind: string,
  name: string,
  change: (backend: B) => void = () => {},
): Promise<void> {
  const factory = tf.findBackendFactory(kind);
  tf.registerBackend(name, async () => {
    const backend = (await factory()) as B;
    change(backend);
    return backend;
  });
  tf.copyRegisteredKernels(kind, name);
  expect(await tf.setBackend(name)).toBe(true);
}

describe("wasm", () => {
  beforeAll(() => useBackend("wasm"));

  test("under another name is used as well", async () => {
    const expected = await train(tf, adamw8bit(1e-2));
    await register("wasm", "my-own");
    const optimizer = adamw8bit(1e-2);
    expect(optimizer.device).toContain("in place on the heap");
    expect(await train(tf, optimizer)).toEqual(expected);
    tf.removeBackend("my-own");
  });

  test.each<[string, (backend: BackendWasm) => void]>([
    ["references are not counted", (b) => (b.refCount = () => 1)],
    ["packed weights stay", ({ wasm }) => (wasm.tfjs.disposeData = () => {})],
    [
      "the heap is not to be had",
      ({ wasm }) => {
        const { asm } = wasm as unknown as { asm: object };
        Object.assign(wasm, { asm: { ...asm, memory: undefined } });
      },
    ],
    [
      "tensors lie elsewhere",
      (b) => Object.assign(b, { dataIdMap: undefined }),
    ],
  ])("is reached by dataSync and assign where %s", async (what, change) => {
    await tf.setBackend("wasm");
    const expected = await train(tf, adamw8bit(1e-2));
    const name = `changed-${what.replaceAll(" ", "-")}`;
    let original: unknown;
    await register<BackendWasm>("wasm", name, (backend) => {
      original = { ...backend };
      change(backend);
    });
    const optimizer = adamw8bit(1e-2);
    expect(optimizer.device).toBe("wasm, through dataSync and assign");
    // What this backend itself cannot do without.
    const { dataIdMap } = original as BackendWasm & { dataIdMap: unknown };
    Object.assign(tf.backend(), { dataIdMap });
    expect(await train(tf, optimizer)).toEqual(expected);
    tf.removeBackend(name);
  });

  test("allocates states at the first step, and nothing at later ones", async () => {
    await tf.setBackend("wasm");
    const { wasm } = tf.backend() as unknown as {
      wasm: { _malloc(n: number): number; _free(at: number): void };
    };
    const { _malloc, _free } = wasm;
    const sizes = new Map<number, number>();
    const meter = { now: 0, most: 0 };
    Object.assign(wasm, {
      _malloc(bytes: number) {
        const at = _malloc(bytes);
        sizes.set(at, bytes);
        meter.now += bytes;
        meter.most = Math.max(meter.most, meter.now);
        return at;
      },
      _free(at: number) {
        meter.now -= sizes.get(at) ?? 0;
        sizes.delete(at);
        _free(at);
      },
    });
    try {
      const n = 100_000;
      const variables = [1, 2, 3].map((seed) => {
        const initial = tf.tensor(normals(n, seed));
        const variable = tf.variable(initial);
        initial.dispose();
        return variable;
      });
      const gradients = variables.map(({ name }, i) => ({
        name,
        tensor: tf.tensor(normals(n, 10 + i)),
      }));
      const start = { ...meter };
      const ours = adam8bit(1e-3);
      ours.applyGradients(gradients);
      const { stateBytes, workspaceBytes } = ours.memory();
      const first = meter.now - start.now;
      expect(first).toBeGreaterThan(stateBytes);
      expect(first).toBeLessThan(stateBytes + workspaceBytes + 200_000);
      meter.most = meter.now;
      for (let t = 0; t < 3; t++) ours.applyGradients(gradients);
      expect(meter.most - start.now).toBe(first);
      ours.dispose();
      expect(meter.now).toBe(start.now);

      // The same meter on TensorFlow.js's own.
      const theirs = tf.train.adam(1e-3);
      theirs.applyGradients(gradients);
      meter.most = meter.now;
      const before = meter.now;
      theirs.applyGradients(gradients);
      expect((meter.most - before) / (3 * n)).toBeGreaterThan(40);
      theirs.dispose();
      tf.dispose([variables, gradients.map(({ tensor }) => tensor)]);
    } finally {
      Object.assign(wasm, { _malloc, _free });
    }
  });

  test("kernels for training are added where there are none, and are right", async () => {
    await tf.setBackend("wasm");
    expect(registerWasmTrainingKernels(tf)).toEqual([]);
    const gradients = async (backend: string) => {
      await useBackend(backend as "cpu");
      const results: number[][] = [];
      for (const [stride, pad, shape] of [
        [1, "same", [3, 3, 2, 4]],
        [2, "same", [3, 2, 2, 4]],
        [[2, 1], "valid", [2, 3, 2, 4]],
        [1, 1, [3, 3, 2, 4]],
      ] as const) {
        const x = tf.tensor(normals(2 * 7 * 6 * 2, 1), [2, 7, 6, 2]);
        const filter = tf.tensor(
          normals(
            shape.reduce((a, b) => a * b, 1),
            2,
          ),
          [...shape],
        );
        const gradient = tf.grad((f) =>
          tf.sum(
            tf.sin(tf.conv2d(x as never, f as never, stride as never, pad)),
          ),
        )(filter);
        results.push(Array.from(await gradient.data()));
      }
      const ids = tf.tensor(
        [
          [1, 0],
          [4, 1],
          [1, 2],
        ],
        [3, 2],
        "int32",
      );
      const table = tf.tensor(normals(5 * 3, 4), [5, 3]);
      const gradient = tf.grad((t) =>
        tf.sum(tf.square(tf.gather(t, ids as never))),
      )(table);
      results.push(Array.from(await gradient.data()));
      return results;
    };
    const expected = await gradients("cpu");
    const actual = await gradients("wasm");
    actual.forEach((values, i) => {
      expect(values.length).toBe(expected[i]!.length);
      values.forEach((x, k) => expect(x).toBeCloseTo(expected[i]![k]!, 4));
    });
  });
});

describeGpu("webgpu", () => {
  beforeAll(() => useBackend("webgpu"));

  test("goes by public means where references are not counted, and gives the same", async () => {
    const usual = adamw8bit(1e-2);
    await usual.ready();
    expect(usual.device).toContain("in place in the buffers");
    const expected = await train(tf, usual);
    await register("webgpu", "changed-webgpu", (backend) => {
      backend.refCount = () => 1;
    });
    const optimizer = adamw8bit(1e-2);
    await optimizer.ready();
    expect(optimizer.device).toBe("webgpu, through dataToGPU and assign");
    expect(await train(tf, optimizer)).toEqual(expected);
  });

  test("states move to another backend when they are asked to", async () => {
    await useBackend("webgpu");
    const gradient = () => tf.tensor(normals(4096, 2));
    const w = tf.variable(tf.tensor(normals(4096, 1)));
    const optimizer = adamw8bit(1e-2);
    optimizer.applyGradients({ [w.name]: gradient() });
    await w.data();
    await useBackend("wasm");
    expect(() => optimizer.applyGradients({ [w.name]: gradient() })).toThrow(
      "adamw8bit: the states lie with another backend than 'wasm'; take them along by: await optimizer.setWeights(await optimizer.getWeights())",
    );
    await optimizer.setWeights(await optimizer.getWeights());
    optimizer.applyGradients({ [w.name]: gradient() });
    expect(optimizer.iterations).toBe(2);
    const plain = tf.variable(tf.tensor(normals(4096, 1)));
    const other = adamw8bit(1e-2);
    for (let t = 0; t < 2; t++)
      other.applyGradients({ [plain.name]: gradient() });
    const [a, b] = [await w.data(), await plain.data()];
    a.forEach((x, i) => expect(Math.abs(x - b[i]!)).toBeLessThan(1e-3));
    optimizer.dispose();
    other.dispose();
  });
});
