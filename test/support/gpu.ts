// WebGPU for tests, the same in Node and in a browser.

import { afterAll, beforeAll, describe } from "vitest";

declare module "vitest" {
  interface TaskMeta {
    /** For the summary at the end of the run. */
    skipReason?: string;
  }
}

const inNode = typeof process === "object" && !!process.versions?.node;

/**
 * Why there is no WebGPU to test with, or undefined where there is. The test
 * runner has tried it out beforehand, so a test that is not skipped may count
 * on an adapter: if it then gets none, that is a failure.
 */
export function gpuSkipReason(): string | undefined {
  // The browser tests run only where the browser was found to have WebGPU.
  if (!inNode) return undefined;
  const { LOWBIT_NO_GPU } = process.env;
  if (LOWBIT_NO_GPU === undefined)
    return "no WebGPU was looked for: run through vitest.config.ts";
  return LOWBIT_NO_GPU ? `no WebGPU in Node: ${LOWBIT_NO_GPU}` : undefined;
}

/** `describe` for tests that need WebGPU; the summary names the reason. */
export function describeGpu(name: string, tests: () => void): void {
  const skipReason = gpuSkipReason();
  describe(name, { skip: !!skipReason, meta: { skipReason } }, tests);
}

/** The browser's `navigator.gpu`, or Dawn's in Node. */
export async function openGpu(): Promise<GPU> {
  if (!inNode) return navigator.gpu;
  // Dawn crashes if the object from create() is collected while a device is in
  // use, so the one for this process stays on globalThis.
  const kept = globalThis as { dawn?: GPU };
  if (!kept.dawn) {
    const { create, globals } = await import(/* @vite-ignore */ "webgpu");
    Object.assign(globalThis, globals);
    kept.dawn = create([]);
  }
  return kept.dawn;
}

/** A device. Call `destroy()` on it when the test file is done. */
export async function openDevice(
  descriptor?: GPUDeviceDescriptor,
): Promise<GPUDevice> {
  const gpu = await openGpu();
  const adapter = await gpu.requestAdapter();
  if (!adapter)
    throw new Error(
      "openDevice: requestAdapter() gave null, though the test runner found an adapter here. Run `node scripts/gpu-env.mjs` to look again.",
    );
  return adapter.requestDevice(descriptor);
}

/** A buffer with these numbers that a step may read, write and copy. */
export function uploadTo(
  device: GPUDevice,
  data: Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>,
): GPUBuffer {
  const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
  const buffer = device.createBuffer({
    size: data.byteLength,
    usage: STORAGE | COPY_SRC | COPY_DST,
  });
  device.queue.writeBuffer(buffer, 0, data);
  return buffer;
}

/** A copy of what a buffer holds. */
export async function downloadFrom(
  device: GPUDevice,
  buffer: GPUBuffer,
): Promise<ArrayBuffer> {
  const { COPY_DST, MAP_READ } = GPUBufferUsage;
  const { size } = buffer;
  const staging = device.createBuffer({ size, usage: COPY_DST | MAP_READ });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = staging.getMappedRange().slice(0);
  staging.destroy();
  return bytes;
}

/** Opens a device for the tests of a `describe`, and destroys it behind them. */
export function useDevice(opened: (device: GPUDevice) => void): void {
  let device: GPUDevice;
  beforeAll(async () => opened((device = await openDevice())));
  afterAll(async () => {
    await device.queue.onSubmittedWorkDone();
    device.destroy();
  });
}
