// What the WebGPU engine has beside what every engine has: views, 16-bit
// types, limits, packing of many tensors into a dispatch.

import {
  adafactor,
  adafactor32bit,
  adamw,
  adamw4bit,
  adamw4bitRank1,
  createOptimizer,
  defineOptimizer,
  factor4bit,
  lion4bit,
  sm332bit,
  type Device,
  type OptimizerHandle,
  type Recipe,
} from "lowbit";
import { webgpu, type BufferView } from "lowbit/webgpu";
import { expect, test } from "vitest";
import { describeGpu, openDevice, openGpu, useDevice } from "./support/gpu.ts";

describeGpu("the WebGPU engine", () => {
  let device: GPUDevice;
  // No limits asked for: WebGPU's defaults must do.
  useDevice((opened) => (device = opened));

  const values = (length: number, seed: number) =>
    Float32Array.from({ length }, (_, i) => Math.sin(i * 12.9898 + seed));

  function upload(data: Uint8Array<ArrayBuffer>, offset = 0): GPUBuffer {
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const size = Math.ceil((offset + data.length) / 4) * 4;
    const buffer = device.createBuffer({
      size,
      usage: STORAGE | COPY_SRC | COPY_DST,
    });
    const padded = new Uint8Array(size - offset);
    padded.set(data);
    device.queue.writeBuffer(buffer, offset, padded);
    return buffer;
  }

  async function download(buffer: GPUBuffer): Promise<ArrayBuffer> {
    const { COPY_DST, MAP_READ } = GPUBufferUsage;
    const staging = device.createBuffer({
      size: buffer.size,
      usage: COPY_DST | MAP_READ,
    });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const bytes = staging.getMappedRange().slice(0);
    staging.destroy();
    return bytes;
  }

  const bytesOf = (
    data: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>,
  ) => new Uint8Array(data.buffer);
  const upper = (data: Float32Array<ArrayBuffer>) =>
    Uint16Array.from(new Uint32Array(data.buffer), (bits) => bits >>> 16);
  const widened = (halves: Uint16Array) =>
    new Float32Array(Uint32Array.from(halves, (bits) => bits << 16).buffer);

  type Halves = { readonly [i: number]: number; readonly buffer: ArrayBuffer };
  const { Float16Array } = globalThis as unknown as {
    Float16Array: new (
      from: ArrayLike<number> | ArrayBufferLike,
      at?: number,
      length?: number,
    ) => Halves & ArrayLike<number>;
  };
  const halves = {
    bfloat16: { narrow: upper, widen: widened, precision: 2 ** -8 },
    float16: {
      narrow: (data: Float32Array<ArrayBuffer>) =>
        new Uint16Array(new Float16Array(data).buffer),
      widen: ({ buffer, byteOffset, length }: Uint16Array) =>
        Float32Array.from(new Float16Array(buffer, byteOffset, length)),
      precision: 2 ** -10,
    },
  };

  const recipe = adamw({ bits: 8, lr: 1e-2 });
  const quantized = { minQuantizedSize: 0 };
  const lowering = defineOptimizer({
    name: "lowering",
    hyper: { lr: 1e-3 },
    state: { r: "row", c: "column", top: "one" },
    update: `
      u = -1 - abs(g)
      r = rowmax(u)
      c = colmax(u * p - 3)
      top = max(u) + 0.5 * top
      p = p - lr * (g + r * c * top) / rms(p)
    `,
  });

  /** What the reference makes of the same start and gradients. */
  async function reference(
    start: Float32Array<ArrayBuffer>,
    gradients: Float32Array[],
  ) {
    const data = start.slice();
    const optimizer = await createOptimizer(
      recipe,
      { w: { data, shape: [data.length] } },
      { device: "reference", ...quantized },
    );
    for (const w of gradients) await optimizer.step({ w });
    return data;
  }

  function expectClose(got: Float32Array, wanted: Float32Array, most: number) {
    expect(got.length).toBe(wanted.length);
    const worst = got.reduce(
      (max, x, i) => Math.max(max, Math.abs(x - wanted[i]!)),
      0,
    );
    expect(worst).toBeLessThan(most);
  }

  /**
   * A GPU's division may be an ulp off. A code is then one apart where a value
   * lies in the middle; with few bits that moves its parameter, and a corrected
   * scale, by more than rounding does.
   */
  function expectNearlyAllClose(
    got: Float32Array,
    wanted: Float32Array,
    most: number,
  ) {
    expect(got.length).toBe(wanted.length);
    const far = got.filter((x, i) => !(Math.abs(x - wanted[i]!) < most));
    expect(far.length).toBeLessThan(10);
  }

  for (const options of [{ solo: true }, { solo: false }]) {
    const shape = options.solo ? "without barriers" : "with barriers";

    test(`a view at an odd offset, ${shape}, changes nothing around it`, async () => {
      const length = 1003;
      const offset = 12;
      const start = values(length, 1);
      const gradient = values(length, 2);
      const p = upload(bytesOf(start), offset);
      const g = upload(bytesOf(gradient), 20);
      const optimizer = await createOptimizer(
        recipe,
        { w: { data: { buffer: p, offset }, shape: [length] } },
        { device: webgpu(device, options), ...quantized },
      );
      await optimizer.step({ w: { buffer: g, offset: 20 } });
      const after = await download(p);
      expect(new Uint8Array(after, 0, offset).every((x) => x === 0)).toBe(true);
      expectClose(
        new Float32Array(after, offset, length),
        await reference(start, [gradient]),
        1e-6,
      );
      optimizer.dispose();
    });

    test(`reductions and rank-1 scales over the pieces of a tensor, ${shape}`, async () => {
      const rows = 300;
      const columns = 700;
      const start = values(rows * columns, 5);
      const gradients = [6, 7].map((seed) => values(rows * columns, seed));
      const tiles = adamw({
        state: {
          m: { bits: 8, scale: "tile" },
          v: { bits: 4, scale: "tile", blockSize: 32 },
        },
      });
      const corrected = adamw({
        bits: 4,
        state: {
          m: { codebook: "nf4", correctScale: true },
          v: { codebook: "dynamic-nozero", correctScale: true, blockSize: 32 },
        },
      });
      for (const recipe of [
        adafactor({ beta1: 0.9, state: { m: { scale: "rank1" } } }),
        // Magnitudes below 0: the maximum of a part that has no elements is not 0.
        lowering({ bits: 8, lr: 1e-2 }),
        tiles,
        corrected,
      ]) {
        // A code beside the reference's after the first step counts in the second.
        const few = recipe === tiles || recipe === corrected ? 100 : 1;
        const [data, expected] = [start.slice(), start.slice()];
        const on = (w: Float32Array, device: Device) =>
          createOptimizer(
            recipe,
            { w: { data: w, shape: [rows, columns] } },
            { device, ...quantized },
          );
        // Three pieces and a bit, which begin and end within a row.
        const binding = 4 * 65536 + 512;
        const ours = await on(data, webgpu(device, { ...options, binding }));
        const theirs = await on(expected, "reference");
        for (const w of gradients) {
          await ours.step({ w });
          await theirs.step({ w });
        }
        expectClose(data, expected, few * 1e-5);
        const [mine, yours] = [await ours.state("w"), await theirs.state("w")];
        for (const [name, state] of Object.entries(yours)) {
          const own = mine[name]!;
          const [got, wanted] = [own, state].map((one) =>
            one.kind === "float" ? one.values : one.scales,
          );
          expectNearlyAllClose(
            got!,
            wanted!,
            few * 1e-5 * wanted!.reduce((a, b) => Math.max(a, Math.abs(b)), 0),
          );
        }
        ours.dispose();
      }
    });

    for (const [type, { narrow, widen, precision }] of Object.entries(halves))
      test(`${type} parameters and gradients, ${shape}`, async () => {
        for (const length of [1024, 1003]) {
          const start = narrow(values(length, 3));
          const gradient = narrow(values(length, 4));
          const run = async (rounding: "nearest" | "stochastic") => {
            const p = upload(bytesOf(start));
            const view = (buffer: GPUBuffer): BufferView => ({
              buffer,
              type: type as "float16",
            });
            const optimizer = await createOptimizer(
              recipe,
              { w: { data: { ...view(p), rounding }, shape: [length] } },
              { device: webgpu(device, options), ...quantized },
            );
            await optimizer.step({ w: view(upload(bytesOf(gradient))) });
            optimizer.dispose();
            return widen(new Uint16Array(await download(p), 0, length));
          };
          const exact = await reference(widen(start), [widen(gradient)]);
          // Half a unit in the last place.
          expectClose(await run("nearest"), exact, precision);
          // Up to a whole one, and right in the mean: of `length` errors, each
          // a fraction of its value, within five deviations.
          const drawn = await run("stochastic");
          expectClose(drawn, exact, 2 * precision);
          const mean =
            drawn.reduce((sum, x, i) => sum + (x - exact[i]!) / exact[i]!, 0) /
            length;
          expect(Math.abs(mean)).toBeLessThan(
            (5 * precision) / Math.sqrt(length),
          );
          expect(drawn).not.toEqual(await run("nearest"));
        }
      });

    test(`many tensors share dispatches, ${shape}`, async () => {
      const lengths = [4096, 8, 260, 1024, 4, 513, 77, 2048, 4096, 300];
      const starts = lengths.map((length, i) => values(length, i));
      const gradients = lengths.map((length, i) => values(length, 50 + i));
      const buffers = starts.map((start) => upload(bytesOf(start)));
      const optimizer: OptimizerHandle = await createOptimizer(
        recipe,
        Object.fromEntries(
          buffers.map((data, i) => [`t${i}`, { data, shape: [lengths[i]!] }]),
        ),
        { device: webgpu(device, options), ...quantized },
      );
      const given = Object.fromEntries(
        gradients.map((gradient, i) => [`t${i}`, upload(bytesOf(gradient))]),
      );
      for (let t = 0; t < 2; t++) await optimizer.step(given);
      for (const [i, start] of starts.entries())
        expectClose(
          new Float32Array(await download(buffers[i]!)),
          await reference(start, [gradients[i]!, gradients[i]!]),
          1e-5,
        );
      optimizer.dispose();
    });
  }

  const codesOf = (codes: Uint8Array, bits: number): number[] =>
    bits === 8
      ? [...codes]
      : [...codes].flatMap((byte) => [byte & 15, byte >> 4]);
  const rows: [string, Recipe, GPUFeatureName?][] = [
    ["8 bits", recipe],
    ["4 bits", adamw4bit()],
    ["4 bits through subgroups", adamw4bit(), "subgroups"],
    ["4 and 8 bits", adamw({ state: { m: { bits: 4, blockSize: 256 } } })],
    ["one state of 4 bits", lion4bit()],
    ["rank-1 scales", adamw4bitRank1()],
    ["a factored second moment", factor4bit()],
  ];
  test.for(rows)(
    "a tensor with a dispatch of its own, in rows of quads, %s",
    async ([, recipe, feature], { skip }) => {
      const adapter = await (await openGpu()).requestAdapter();
      if (feature && !adapter?.features.has(feature))
        skip(`the adapter has no ${feature}`);
      const own = await openDevice({
        requiredFeatures: feature ? [feature] : [],
      });
      // Whole tiles, a part of a row, and an end that is no quad.
      for (const shape of [
        [64, 64],
        [45, 60],
        [17, 59],
      ]) {
        const length = shape[0]! * shape[1]!;
        const start = values(length, 5);
        const steps = [0, 1, 2].map((t) => {
          const g = values(length, 20 + t);
          g.fill(0, 0, 256);
          g.fill(1e-25, 256, 512);
          g[600] = 1e15;
          g[length - 1] = NaN;
          return g;
        });
        const run = async (device: Device) => {
          const data = start.slice();
          const optimizer = await createOptimizer(
            recipe,
            { w: { data, shape } },
            { device, ...quantized },
          );
          for (const g of steps) await optimizer.step({ w: g.slice() });
          const { nonFinite } = await optimizer.stats();
          expect(nonFinite).toBe(1);
          const states = Object.values(await optimizer.state("w"));
          optimizer.dispose();
          const scales: number[] = [];
          const codes: number[] = [];
          for (const state of states)
            if (state.kind === "quantized") {
              scales.push(...state.scales);
              codes.push(...codesOf(state.codes, state.format.bits));
            }
          expect(codes.length).toBeGreaterThanOrEqual(length);
          return { data, scales, codes };
        };
        const wanted = await run("reference");
        const found = await run(webgpu(own, { solo: false, alone: 0 }));
        // With a second moment of rows and columns one gradient moves many far.
        found.data.forEach((value, i) => {
          const by = Math.abs(value - wanted.data[i]!);
          expect(by).toBeLessThan(
            1e-4 * Math.max(1, Math.abs(wanted.data[i]!)),
          );
        });
        found.scales.forEach((scale, i) => {
          const by = Math.abs(scale - wanted.scales[i]!);
          expect(by).toBeLessThanOrEqual(1e-5 * wanted.scales[i]!);
        });
        // A code may differ where a value lies within some ulp of the middle.
        const off = found.codes.map((code, i) => code - wanted.codes[i]!);
        expect(off.filter((by) => by !== 0).length).toBeLessThan(5);
        expect(Math.max(...off.map(Math.abs))).toBeLessThan(2);
      }
      own.destroy();
    },
  );

  test("many rows, or many columns, are the work of several workgroups", async () => {
    for (const recipe of [adafactor32bit(), factor4bit(), sm332bit()])
      for (const shape of [
        [2304, 5],
        [8, 2100],
      ]) {
        const length = shape[0]! * shape[1]!;
        const start = values(length, 3);
        const run = async (device: Device) => {
          const data = start.slice();
          const optimizer = await createOptimizer(
            recipe,
            { w: { data, shape } },
            { device },
          );
          for (let t = 0; t < 3; t++)
            await optimizer.step({ w: values(length, 30 + t) });
          optimizer.dispose();
          return data;
        };
        const wanted = await run("reference");
        expectClose(await run(webgpu(device)), wanted, 2e-5);
      }
  });

  test("a gradient in a buffer of parameters is refused", async () => {
    const buffer = upload(bytesOf(values(2048, 1)));
    const optimizer = await createOptimizer(
      recipe,
      { w: { data: { buffer }, shape: [1024] } },
      { device },
    );
    await expect(
      optimizer.step({ w: { buffer, offset: 4096 } }),
    ).rejects.toThrow("keep gradients in buffers of their own");
    optimizer.dispose();
  });

  test("a lost device gives one clear error from every call", async () => {
    const lost = await openDevice();
    const optimizer = await createOptimizer(
      recipe,
      { w: { data: values(64, 1), shape: [64] } },
      { device: lost },
    );
    lost.destroy();
    await lost.lost;
    for (const call of [
      () => optimizer.step({ w: values(64, 2) }),
      async () => optimizer.stats(),
      () => optimizer.state("w"),
    ])
      await expect(call()).rejects.toThrow(
        /webgpu: the device was lost \(destroyed.*load the last checkpoint/,
      );
    optimizer.dispose();
  });
});
