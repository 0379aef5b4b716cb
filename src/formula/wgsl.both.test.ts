// The printed WGSL, run on a device, against the closure.

import { expect, test } from "vitest";
import { describeGpu, useDevice } from "../../test/support/gpu.ts";
import { normals } from "../../test/support/numbers.ts";
import {
  anchored,
  everything,
  lionLike,
  warming,
} from "../../test/support/formulas.ts";
import { adam } from "../optimizers/adam.ts";
import { adamw } from "../optimizers/adamw.ts";
import { sgd } from "../optimizers/sgd.ts";
import { compileClosure } from "./closure.ts";
import type { Program } from "./program.ts";
import { printWgsl } from "./wgsl.ts";

const length = 512;

describeGpu("WGSL on a device", () => {
  let device: GPUDevice;
  useDevice((opened) => (device = opened));

  for (const factory of [
    adam,
    adamw,
    sgd,
    everything,
    anchored,
    lionLike,
    warming,
  ])
    for (const type of ["f32", "vec4f"] as const)
      test(`${factory.optimizerName} in ${type} computes what the closure computes`, async () => {
        const recipe = factory();
        const { program } = recipe.optimizer;
        const scalars = recipe.optimizer.scalarsAt(
          { ...recipe.hyper, lr: 1e-2 },
          3,
        );
        const uniforms = program.uniforms(scalars);
        const rows = new Map(
          ["p", "g", ...program.states].map((name, i) => {
            const unsigned = recipe.optimizer.state[name] === "unsigned";
            const values = normals(length, i + 1, 0.5);
            return [
              name,
              unsigned ? values.map((value) => value * value) : values,
            ];
          }),
        );
        const closure = compileClosure(program);
        const results = closure(rows, uniforms, length);
        const expected = new Map(
          [...program.outputs.keys()].map((name, i) => [name, results[i]!]),
        );
        const actual = await runWgsl(device, program, type, rows, uniforms);
        for (const [name, values] of expected) {
          const wrong = actual
            .get(name)!
            .findIndex(
              (value, i) =>
                !(
                  Math.abs(value - values[i]!) <=
                  1e-5 * Math.abs(values[i]!) + 1e-6
                ),
            );
          expect(wrong, `first wrong element of ${name}`).toBe(-1);
        }
        expect(expected.get("p")).not.toEqual(rows.get("p"));
      });
});

async function runWgsl(
  device: GPUDevice,
  program: Program,
  type: "f32" | "vec4f",
  rows: ReadonlyMap<string, Float32Array>,
  uniforms: Float32Array,
): Promise<Map<string, Float32Array>> {
  const inputs = [...rows.keys()];
  const outputs = [...program.outputs.keys()];
  const count = type === "f32" ? length : length / 4;
  const { statements, results } = printWgsl(
    program,
    [...program.outputs.values()],
    {
      type,
      input: (name) => `source[${inputs.indexOf(name)}u * ${count}u + i]`,
      uniform: (index) => `uniforms[${index}]`,
    },
  );
  const code = /* wgsl */ `
    @group(0) @binding(0) var<storage> source: array<${type}>;
    @group(0) @binding(1) var<storage> uniforms: array<f32>;
    @group(0) @binding(2) var<storage, read_write> results: array<${type}>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
      let i = id.x;
      if (i >= ${count}u) { return; }
      if (uniforms[0] == 1234567.0) { return; }
      ${statements.join("\n      ")}
      ${results.map((result, k) => `results[${k}u * ${count}u + i] = ${result};`).join("\n      ")}
    }`;
  const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const make = (data: Float32Array) => {
    const buffer = device.createBuffer({
      size: Math.max(16, data.byteLength),
      usage: STORAGE | COPY_DST,
    });
    device.queue.writeBuffer(buffer, 0, data as Float32Array<ArrayBuffer>);
    return buffer;
  };
  const source = new Float32Array(inputs.length * length);
  inputs.forEach((name, k) => source.set(rows.get(name)!, k * length));
  const size = outputs.length * length * 4;
  const target = device.createBuffer({ size, usage: STORAGE | COPY_SRC });
  const readback = device.createBuffer({ size, usage: COPY_DST | MAP_READ });
  const module = device.createShaderModule({ code });
  const errors = (await module.getCompilationInfo()).messages.filter(
    (message) => message.type === "error",
  );
  expect(
    errors.map(({ message, lineNum }) => `${lineNum}: ${message}`),
  ).toEqual([]);
  const pipeline = await device.createComputePipelineAsync({
    layout: "auto",
    compute: { module },
  });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [make(source), make(uniforms), target].map(
        (buffer, binding) => ({ binding, resource: { buffer } }),
      ),
    }),
  );
  pass.dispatchWorkgroups(Math.ceil(count / 64));
  pass.end();
  encoder.copyBufferToBuffer(target, 0, readback, 0, size);
  device.queue.submit([encoder.finish()]);
  await readback.mapAsync(GPUMapMode.READ);
  const all = new Float32Array(readback.getMappedRange().slice(0));
  readback.unmap();
  return new Map(
    outputs.map((name, k) => [name, all.slice(k * length, (k + 1) * length)]),
  );
}
