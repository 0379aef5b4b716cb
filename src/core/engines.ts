import type { Engine } from "../engines/engine.ts";
import type { Device } from "./settings.ts";

const isEngine = (device: object): device is Engine =>
  "createSession" in device && typeof device.createSession === "function";

/**
 * The engine for a device. Engines are loaded when they are first used, so
 * that a bundle of one does not carry the others.
 */
export async function loadEngine(device: Device): Promise<Engine> {
  if (typeof device === "object" && device !== null) {
    if (isEngine(device)) return device;
    if ("createComputePipeline" in device)
      return (await import("../engines/webgpu/engine.ts")).createWebGPUEngine(
        device as never,
      );
  }
  switch (device) {
    case "wasm":
      return (await import("../engines/wasm/engine.ts")).wasmEngine;
    case "reference":
      return (await import("../engines/reference/engine.ts")).referenceEngine;
    case "webgpu":
      return (await import("../engines/webgpu/engine.ts")).createWebGPUEngine();
    default:
      throw new TypeError(
        `createOptimizer: device must be 'wasm', 'webgpu', 'reference', a GPUDevice or an engine, given ${String(device)}`,
      );
  }
}
