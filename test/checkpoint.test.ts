// What a checkpoint promises beside coming back: its file stays readable, says
// itself how each number is stored, and a bad one changes nothing.

import { readFileSync } from "node:fs";
import {
  adamw,
  adamw4bit,
  adamw8bit,
  createOptimizer,
  defineOptimizer,
  dequantize,
  quantileCodebook,
  quantize,
  type ByteSource,
  type FormatOptions,
} from "lowbit";
import { readSafetensors as readPublic } from "lowbit/trainer";
import { describe, expect, test } from "vitest";
import { advance, runOn } from "./support/checkpoints.ts";
import {
  goldenOptions,
  goldenRecipe,
  goldenRun,
} from "./support/golden-checkpoint.ts";
import { engines } from "./support/engines.ts";
import { normals } from "./support/numbers.ts";
import { readSafetensors } from "./support/safetensors.ts";

const reference = engines[0]!;
const wasm = engines[1]!;
const golden = new Uint8Array(
  readFileSync(new URL("golden/checkpoints/v1.safetensors", import.meta.url)),
);

describe("version 1", () => {
  test("loads, and goes on as the run that wrote it", async () => {
    const run = await runOn(reference, goldenRecipe(), goldenOptions);
    const report = await run.optimizer.load(golden);
    expect(report).toMatchObject({ version: 1, step: 2, requantized: [] });
    expect(report.differences).toEqual([]);
    const whole = await goldenRun();
    for (const name of Object.keys(run.parameters))
      run.parameters[name]!.set(whole.parameters[name]!);
    await advance(run, 9, 10);
    await advance(whole, 9, 10);
    expect(run.parameters).toEqual(whole.parameters);
    expect(await run.optimizer.save()).toEqual(await whole.optimizer.save());
  });

  test("is still what save() writes", async () => {
    expect(await (await goldenRun()).optimizer.save()).toEqual(golden);
  });

  // By the metadata alone, as a program in another language would.
  test("says itself what its states are", async () => {
    const run = await runOn(wasm, goldenRecipe(), goldenOptions);
    await run.optimizer.load(golden);
    expect((await run.optimizer.toFloat32()).tensors).toEqual(
      decodeByHand(golden),
    );
  });

  test("keeps every tensor aligned", () => {
    const { tensors } = readPublic(golden);
    const head = Number(new DataView(golden.buffer).getBigUint64(0, true)) + 8;
    const text = new TextDecoder().decode(golden.subarray(8, head));
    for (const [name, { data }] of Object.entries(tensors)) {
      const [start] = JSON.parse(text)[name].data_offsets as [number];
      expect((head + start) % data.BYTES_PER_ELEMENT, name).toBe(0);
    }
  });
});

interface FormatData {
  readonly kind: string;
  readonly bits: number;
  readonly scale: string;
  readonly blockSize: number;
  readonly values: number;
  readonly codeBits: number;
}

/** The states of a file, computed from nothing but what stands in it. */
function decodeByHand(file: Uint8Array) {
  const { metadata, tensors } = readSafetensors(file);
  const floats = (name: string) =>
    new Float32Array(tensors.get(name)!.bytes.buffer);
  const formats = JSON.parse(metadata.formats!) as FormatData[];
  const described = JSON.parse(metadata.tensors!) as Record<
    string,
    { shape: number[]; states: Record<string, { format: number }> }
  >;
  const decode = (name: string, shape: number[], format: FormatData) => {
    if (format.kind === "float") {
      const { dtype, bytes } = tensors.get(name)!;
      if (dtype === "F32") return new Float32Array(bytes.buffer);
      const halves = new Uint16Array(bytes.buffer);
      return new Float32Array(
        Uint32Array.from(halves, (half) => half << 16).buffer,
      );
    }
    const codebook = floats(`codebook/${format.values}`);
    const scales = floats(`${name}.scales`);
    const codes = tensors.get(`${name}.codes`)!.bytes;
    const each = 8 / format.codeBits;
    const size = shape.reduce((a, b) => a * b);
    return Float32Array.from({ length: size }, (_, i) => {
      const byte = codes[Math.floor(i / each)]!;
      const code =
        (byte >> ((i % each) * format.codeBits)) & (2 ** format.codeBits - 1);
      const [rows, columns] = [shape[0]!, shape[1]!];
      const scale =
        format.scale === "tensor"
          ? scales[0]!
          : format.scale === "block"
            ? scales[Math.floor(i / format.blockSize)]!
            : Math.min(
                scales[Math.floor(i / columns)]!,
                scales[rows + (i % columns)]!,
              );
      return codebook[code]! * scale;
    });
  };
  return Object.fromEntries(
    Object.entries(described).map(([name, { shape, states }]) => [
      name,
      Object.fromEntries(
        Object.entries(states).map(([state, { format }]) => [
          state,
          decode(`${name}/${state}`, shape, formats[format]!),
        ]),
      ),
    ]),
  );
}

const damped = defineOptimizer({
  name: "damped",
  hyper: { lr: 1e-3, keep: 0.9 },
  state: { m: "signed" },
  update: `
    m = keep * m + (1 - keep) * g
    p = p - lr * m / (1 + abs(m))
  `,
});

test("an optimizer and a codebook of one's own are saved with the rest", async () => {
  const sample = normals(5000, 9);
  const codebook = quantileCodebook(sample, { bits: 4 });
  const mine = (values = codebook) =>
    damped({ state: { m: { bits: 4, codebook: values } } });
  const first = await runOn(wasm, mine());
  await advance(first, 1, 2);
  const second = await runOn(wasm, mine(), { from: first.parameters });
  const file = await first.optimizer.save();
  const report = await second.optimizer.load(file);
  expect(report.requantized).toEqual([]);
  await advance(first, 3);
  await advance(second, 3);
  expect(second.parameters).toEqual(first.parameters);
  // Another sample, another codebook: the codes mean something else.
  const other = quantileCodebook(normals(5000, 10), { bits: 4 });
  const third = await runOn(wasm, mine(other));
  const { requantized } = await third.optimizer.load(file);
  expect(requantized.map(({ state }) => state)).toEqual(["m", "m", "m", "m"]);
});

test("names of parameters may be anything", async () => {
  const names = ["", "a", "a/m", "__proto__", "constructor", "ä b\n\"'", "0"];
  const recipe = () => adamw8bit();
  const shapes = Object.fromEntries(names.map((name) => [name, [40]]));
  const first = await runOn(wasm, recipe(), { shapes });
  await advance(first, 1);
  const second = await runOn(wasm, recipe(), { shapes });
  await second.optimizer.load(await first.optimizer.save());
  for (const name of Object.keys(shapes))
    expect(await second.optimizer.state(name)).toEqual(
      await first.optimizer.state(name),
    );
});

describe("streams", () => {
  const size = 20_000;
  const make = async () =>
    createOptimizer(adamw8bit(), {
      a: { data: normals(size, 1), shape: [size] },
      b: { data: normals(size, 2), shape: [size] },
      odd: { data: normals(size + 1, 3), shape: [size + 1] },
    });
  const gradients = {
    a: normals(size, 4),
    b: normals(size, 5),
    odd: normals(size + 1, 6),
  };

  test("save piece by piece, with one state in memory at a time", async () => {
    const optimizer = await make();
    await optimizer.step(gradients);
    const whole = await optimizer.save();
    const chunks: Uint8Array<ArrayBuffer>[] = [];
    for await (const chunk of optimizer.saveStream()) chunks.push(chunk);
    expect(Buffer.concat(chunks).equals(whole)).toBe(true);
    for (const chunk of chunks) {
      expect(chunk.length).toBeLessThanOrEqual(size + 4);
      expect(chunk.buffer.byteLength).toBeLessThanOrEqual(size + 4);
    }
  });

  test("load from a Blob, and from anything that reads a range", async () => {
    const optimizer = await make();
    await optimizer.step(gradients);
    const file = await optimizer.save();
    let most = 0;
    const ranges: ByteSource = {
      size: file.length,
      read: async (start, end) => {
        most = Math.max(most, end - start);
        return file.slice(start, end);
      },
    };
    for (const source of [new Blob([file]), ranges, file.buffer]) {
      const loaded = await make();
      await loaded.load(source);
      expect(Buffer.from(await loaded.save()).equals(file)).toBe(true);
    }
    expect(most).toBeLessThanOrEqual(size + 4);
    await expect(optimizer.load("file.safetensors" as never)).rejects.toThrow(
      "a file must be a Uint8Array, an ArrayBuffer, a Blob or { size, read(start, end) }, given String",
    );
  });

  test("no step while a save is under way", async () => {
    const optimizer = await make();
    const stream = optimizer.saveStream();
    await stream.next();
    await expect(optimizer.step(gradients)).rejects.toThrow(
      "adamw8bit: the save before has not ended; await optimizer.save(...)",
    );
    await expect(optimizer.load(golden)).rejects.toThrow("has not ended");
    await stream.return();
    await optimizer.step(gradients);
    expect(optimizer.steps).toBe(1);
  });
});

describe("requantized states are what quantize() makes of them:", () => {
  const size = 40 * 41;
  /** Values over many decades, blocks of zeros, and the smallest and largest there are. */
  const values = normals(size, 77).map((value, i) =>
    i >= 256 && i < 512 ? 0 : value * 10 ** -(i % 8),
  );
  values[0] = 3e38;
  values[300] = 1e-40;
  const formats: FormatOptions[] = [
    { bits: 8 },
    { bits: 8, blockSize: 32, keepSign: true },
    { bits: 5, scale: "tensor" },
    { bits: 4, codebook: "nf4" },
    { bits: 4, scale: "rank1" },
    { bits: 3, codebook: "linear", blockSize: 64 },
    { bits: 2, blockSize: 4096 },
    { bits: 8, codebook: "fp8-e4m3" },
    { bits: 6, codebook: quantileCodebook(normals(5000, 5), { bits: 6 }) },
    { bits: 8, correctScale: true },
  ];

  test.each(formats)(
    "$bits bits, $scale $codebook $blockSize",
    async (format) => {
      const recipe = damped({ state: { m: format } });
      const { optimizer } = await runOn(wasm, recipe, {
        shapes: { w: [40, 41] },
      });
      await optimizer.toLowBit({ step: 1, tensors: { w: { m: values } } });
      const { m } = await optimizer.state("w");
      const { codes, scales, ...made } = quantize(values, {
        ...format,
        shape: [40, 41],
      });
      expect(m).toMatchObject({ kind: "quantized", codes, scales });
      expect((await optimizer.toFloat32()).tensors.w!.m).toEqual(
        dequantize({ codes, scales, ...made }),
      );
    },
  );
});

describe("toLowBit", () => {
  test("carries a run from 32 bits to 4 and back, midway", async () => {
    const run = await runOn(wasm, adamw({ bits: 32 }));
    await advance(run, 1, 2, 3);
    const low = await runOn(wasm, adamw4bit(), { from: run.parameters });
    await low.optimizer.toLowBit(await run.optimizer.toFloat32());
    expect(low.optimizer.steps).toBe(3);
    const stored = await low.optimizer.state("matrix");
    expect(stored.m).toMatchObject({ kind: "quantized", format: { bits: 4 } });
    // And the whole of it back: a float32 state holds 4-bit values exactly.
    const back = await runOn(wasm, adamw({ bits: 32 }));
    const small = await low.optimizer.toFloat32();
    await back.optimizer.toLowBit(small);
    expect(await back.optimizer.toFloat32()).toEqual(small);
  });

  test("takes nothing that does not fit", async () => {
    const { optimizer } = await runOn(wasm, adamw8bit(), {
      shapes: { w: [3] },
    });
    const good = await optimizer.toFloat32();
    const { m, v } = good.tensors.w!;
    const cases: [unknown, string][] = [
      [{ step: -1, tensors: good.tensors }, "step must be a count of steps"],
      [
        { step: 1, tensors: {} },
        "'w/m' must be a Float32Array of 3, given undefined",
      ],
      [
        { step: 1, tensors: { w: { m, v, u: m } } },
        "'w' has no state 'u'; there are m, v",
      ],
      [{ step: 1, tensors: { w: { m, v }, x: {} } }, "there is no tensor 'x'"],
      [
        { step: 1, tensors: { w: { m, v: v!.subarray(1) } } },
        "'w/v' must be a Float32Array of 3, given one of 2",
      ],
      [
        { step: 1, tensors: { w: { m, v: Float32Array.of(0, NaN, 0) } } },
        "'w/v' is NaN at 1; states are finite",
      ],
    ];
    for (const [state, message] of cases)
      await expect(optimizer.toLowBit(state as never)).rejects.toThrow(
        `adamw8bit: toLowBit: ${message}`,
      );
    expect(optimizer.steps).toBe(0);
    expect(await optimizer.toFloat32()).toEqual(good);
  });
});
