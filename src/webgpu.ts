/** lowbit/webgpu: the fused step on your own GPUDevice and GPUBuffers. */
export type { BufferView } from "./engines/webgpu/buffers.ts";
export { findGPU, requestDevice } from "./engines/webgpu/device.ts";
export {
  createWebGPUEngine as webgpu,
  type WebGPUEngine,
} from "./engines/webgpu/engine.ts";
export type { ElementType } from "./engines/webgpu/kernel.ts";
export type { Tuning as WebGPUOptions } from "./engines/webgpu/tuning.ts";
