import { expect, test } from "vitest";
import { train } from "../examples/webgpu.ts";
import { describeGpu, openDevice } from "./support/gpu.ts";

describeGpu("the WebGPU example", () => {
  test("moves every weight against its gradient, on the device", async () => {
    const device = await openDevice();
    const gradient = device.createBuffer({
      size: 4 * 8192,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST,
    });
    device.queue.writeBuffer(gradient, 0, new Float32Array(8192).fill(2));
    const { w, stats } = await train(device, gradient);
    expect(stats).toMatchObject({ step: 10, nonFinite: 0, skipped: false });
    const read = device.createBuffer({
      size: w.size,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(w, 0, read, 0, w.size);
    device.queue.submit([encoder.finish()]);
    await read.mapAsync(GPUMapMode.READ);
    // Ten steps of lr against a constant gradient, less a little decay.
    for (const value of new Float32Array(read.getMappedRange()))
      expect(value).toBeCloseTo(-0.01, 4);
    read.unmap();
    await device.queue.onSubmittedWorkDone();
    device.destroy();
  });
});
