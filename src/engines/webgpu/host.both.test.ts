/** Steps at once, with states in buffers of the host, against the engine's own. */
import { expect, test } from "vitest";
import {
  describeGpu,
  downloadFrom,
  uploadTo,
  useDevice,
} from "../../../test/support/gpu.ts";
import { createOptimizer, createOptimizerSync } from "../../core/create.ts";
import {
  adamw4bitRank1,
  adamw8bit,
  factor4bit,
  type Recipe,
} from "../../index.ts";
import { createWebGPUEngine } from "./engine.ts";

const shapes = { a: [70, 90], b: [33000], c: [5] };
const names = Object.keys(shapes) as (keyof typeof shapes)[];
const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const valuesOf = (name: keyof typeof shapes, t: number) =>
  Float32Array.from({ length: sizeOf(shapes[name]) }, (_, i) =>
    Math.sin(i * 0.37 + t * 1.7 + name.charCodeAt(0)),
  );

describeGpu("WebGPU for a host", () => {
  let device: GPUDevice;
  useDevice((opened) => (device = opened));

  const upload = (data: Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>) =>
    uploadTo(device, data);
  const download = (buffer: GPUBuffer) => downloadFrom(device, buffer);

  /** What a host does that shares no buffers between steps. */
  function copyOf(buffer: GPUBuffer): GPUBuffer {
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const copy = device.createBuffer({
      size: buffer.size,
      usage: STORAGE | COPY_SRC | COPY_DST,
    });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size);
    device.queue.submit([encoder.finish()]);
    return copy;
  }

  const recipes: [string, () => Recipe][] = [
    ["adamw8bit", () => adamw8bit()],
    ["adamw4bitRank1", () => adamw4bitRank1()],
    ["factor4bit", () => factor4bit()],
  ];

  test.each(recipes)("%s: equal to the bit", async (_, recipe) => {
    const own = Object.fromEntries(
      names.map((name) => [name, upload(valuesOf(name, 0))]),
    );
    const expected = await createOptimizer(
      recipe(),
      Object.fromEntries(
        names.map((name) => [name, { data: own[name], shape: shapes[name] }]),
      ),
      { device, maxGradNorm: 1 },
    );
    const functional = createOptimizerSync(
      recipe(),
      Object.fromEntries(names.map((name) => [name, { shape: shapes[name] }])),
      {
        device: createWebGPUEngine(device),
        maxGradNorm: 1,
        hostStates: true,
        hostParameters: true,
      },
    );
    let parameters = Object.fromEntries(
      names.map((name) => [name, upload(valuesOf(name, 0))]),
    );
    let regions = functional.hostStates!.regions.map(({ initial }) =>
      upload(initial()),
    );
    for (let t = 1; t <= 4; t++) {
      const gradients = Object.fromEntries(
        names.map((name) => [name, upload(valuesOf(name, t))]),
      );
      await expected.step(gradients);
      // In place at first, then each time elsewhere.
      if (t > 2) {
        parameters = Object.fromEntries(
          names.map((name) => [name, copyOf(parameters[name]!)]),
        );
        regions = regions.map(copyOf);
      }
      functional.stepSync(gradients, { parameters, regions, step: t });
    }
    for (const name of names)
      expect(await download(parameters[name]!), name).toEqual(
        await download(own[name]!),
      );
    for (const [index, name] of names.entries())
      for (const [s, state] of Object.values(
        await expected.state(name),
      ).entries()) {
        // Rank-1 scales the engine alone can find.
        const pieces = functional.hostStates!.pieces(index, s) ?? [];
        for (const { region, codes, scales } of pieces) {
          const bytes = await download(regions[region]!);
          if (state.kind === "float") {
            const stored = new Float32Array(bytes, codes, state.values.length);
            expect(stored.slice(), name).toEqual(state.values);
            continue;
          }
          const stored = new Uint8Array(bytes, codes, state.codes.length);
          expect(stored.slice(), name).toEqual(state.codes);
          expect(
            new Float32Array(bytes, scales!, state.scales.length).slice(),
            name,
          ).toEqual(state.scales);
        }
      }
    expect(await functional.stats()).toEqual(await expected.stats());
    expected.dispose();
    functional.dispose();
    // A host's buffers stay its own.
    expect((await download(regions[0]!)).byteLength).toBeGreaterThan(0);
  });

  test("what cannot be done at once says so", async () => {
    const engine = createWebGPUEngine(device);
    const one = createOptimizerSync(
      adamw8bit(),
      { a: { shape: [8] } },
      { device: engine, hostStates: true, hostParameters: true },
    );
    const a = upload(new Float32Array(8));
    expect(() => one.stepSync({ a })).toThrow(
      "the parameter 'a' was not given",
    );
    const array = createOptimizerSync(
      adamw8bit(),
      { a: { data: new Float32Array(8), shape: [8] } },
      { device: engine },
    );
    expect(() => array.stepSync({ a: new Float32Array(8) })).toThrow(
      "a step at once cannot write back",
    );
    expect(() =>
      createOptimizerSync(
        adamw8bit(),
        { a: { shape: [8] } },
        { device: createWebGPUEngine() },
      ),
    ).toThrow("the engine 'webgpu' has no steps at once");
    one.dispose();
    array.dispose();
  });
});
