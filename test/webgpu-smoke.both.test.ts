// The ground the GPU tests stand on: WebGPU computes here, in Node and in a
// browser.

import { expect, test } from "vitest";
import { describeGpu, useDevice } from "./support/gpu.ts";

describeGpu("WebGPU", () => {
  let device: GPUDevice;
  useDevice((opened) => (device = opened));

  test("a compute dispatch gives the right numbers", async () => {
    const input = Float32Array.from({ length: 1000 }, (_, i) => i / 8);
    const output = await halve(device, input);
    expect(output).toEqual(input.map((x) => x / 2));
  });
});

async function halve(
  device: GPUDevice,
  input: Float32Array<ArrayBuffer>,
): Promise<Float32Array> {
  const code = /* wgsl */ `
    @group(0) @binding(0) var<storage, read_write> values: array<f32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3u) {
      if (id.x < arrayLength(&values)) {
        values[id.x] = values[id.x] / 2;
      }
    }`;
  const pipeline = await device.createComputePipelineAsync({
    layout: "auto",
    compute: { module: device.createShaderModule({ code }) },
  });
  const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const size = input.byteLength;
  const values = device.createBuffer({
    size,
    usage: STORAGE | COPY_SRC | COPY_DST,
  });
  const readback = device.createBuffer({ size, usage: COPY_DST | MAP_READ });
  device.queue.writeBuffer(values, 0, input);

  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(
    0,
    device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [{ binding: 0, resource: { buffer: values } }],
    }),
  );
  pass.dispatchWorkgroups(Math.ceil(input.length / 64));
  pass.end();
  encoder.copyBufferToBuffer(values, 0, readback, 0, size);
  device.queue.submit([encoder.finish()]);

  await readback.mapAsync(GPUMapMode.READ);
  const output = new Float32Array(readback.getMappedRange().slice(0));
  readback.unmap();
  return output;
}
