/** Finding WebGPU: the browser's own, or the optional package `webgpu` (Dawn) in Node. */

const key = Symbol.for("lowbit.webgpu");
/** Dawn crashes when the object it gave is collected while a device lives: it stays here. */
const kept = globalThis as { [key]?: GPU };

/** @throws Error where there is no WebGPU, saying what to do. */
export async function findGPU(): Promise<GPU> {
  const own = globalThis.navigator as Partial<Navigator> | undefined;
  if (own?.gpu) return own.gpu;
  if (kept[key]) return kept[key];
  if (!(globalThis as { process?: NodeJS.Process }).process?.versions?.node)
    throw new Error(
      "webgpu: this browser has no WebGPU (navigator.gpu is missing; it also is on pages that are not https or localhost); use device: 'wasm'",
    );
  const { create, globals } = await importDawn();
  Object.assign(globalThis, globals);
  return (kept[key] ??= create([]));
}

async function importDawn() {
  try {
    return await import(/* @vite-ignore */ "webgpu");
  } catch (cause) {
    throw new Error(
      "webgpu: Node has no WebGPU of its own; install the package 'webgpu' beside lowbit (npm install webgpu), or use device: 'wasm'",
      { cause },
    );
  }
}

/** Limits worth more than the default: fewer pieces, and more tensors a dispatch. */
const wanted = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
] as const;

/** Features worth something; a device without them works too. */
const features = ["subgroups"] as const;

/**
 * A device with the limits and features that lowbit makes use of. Any other
 * device works too; with higher limits steps take fewer dispatches.
 */
export async function requestDevice(): Promise<GPUDevice> {
  const gpu = await findGPU();
  const adapter = await gpu.requestAdapter({
    powerPreference: "high-performance",
  });
  if (!adapter)
    throw new Error(
      "webgpu: there is no adapter: no GPU, no driver, or WebGPU is switched off here; use device: 'wasm'",
    );
  return adapter.requestDevice({
    requiredFeatures: features.filter((name) => adapter.features.has(name)),
    requiredLimits: Object.fromEntries(
      wanted.map((name) => [name, adapter.limits[name]]),
    ),
  });
}
