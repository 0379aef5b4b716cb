import { InputError } from "./errors.ts";

/**
 * Puts WebGPU where jax-js looks for it, with the optional package `webgpu`
 * (Dawn). Does nothing where there is WebGPU already.
 *
 * @throws InputError when the package is not installed.
 */
export async function installWebGPU(): Promise<void> {
  const { navigator } = globalThis;
  if ("gpu" in navigator) return;
  const { create, globals } = await importWebGPU();
  for (const [name, value] of Object.entries(globals))
    if (!(name in globalThis))
      Object.defineProperty(globalThis, name, { configurable: true, value });
  // On navigator it stays referenced: Dawn crashes when it is collected while
  // a device lives.
  Object.defineProperty(navigator, "gpu", {
    configurable: true,
    value: create([]),
  });
}

async function importWebGPU() {
  try {
    return await import("webgpu");
  } catch (error) {
    throw new InputError(
      "--device webgpu needs the package webgpu in Node: npm install webgpu",
      { cause: error },
    );
  }
}
