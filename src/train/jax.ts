import type { TrainDevice } from "./config.ts";
import { InputError } from "./errors.ts";
import type { Jax } from "./forward.ts";
import { installWorkers } from "./threads.ts";
import { installWebGPU } from "./webgpu.ts";

/**
 * Loads jax-js for a device. Its threads are set up at the first call in a
 * process and stay as they are.
 *
 * @throws InputError when jax-js is not installed or the device is not there.
 */
export async function loadJax(
  device: TrainDevice,
  threads: number,
): Promise<Jax> {
  // jax-js uses iterator helpers, which came with Node 22.
  if (!("Iterator" in globalThis))
    throw new InputError(
      `training needs Node 22 or newer, and this is ${process.version}`,
    );
  const inNode = typeof process === "object" && !!process.versions?.node;
  if (inNode && device === "wasm" && threads > 1) installWorkers(threads);
  if (inNode && device === "webgpu") await installWebGPU();
  const jax = await importJax();
  const ready = await jax.init(device);
  if (!ready.includes(device))
    throw new InputError(
      `there is no ${device === "webgpu" ? "WebGPU" : device} device here; use --device wasm`,
    );
  await checkArithmetic(jax, device);
  return jax;
}

async function importJax(): Promise<Jax> {
  try {
    return await import("@jax-js/jax");
  } catch (error) {
    const { code, message } = error as { code?: string; message?: string };
    if (code === "ERR_MODULE_NOT_FOUND" && message?.includes("@jax-js/jax"))
      throw new InputError(
        "training needs jax-js, which is not installed: npm install @jax-js/jax@0.1.25",
        { cause: error },
      );
    throw error;
  }
}

/** jax-js is silent about workers and drivers that do nothing, so ask once. */
async function checkArithmetic(
  { numpy: np }: Jax,
  device: TrainDevice,
): Promise<void> {
  const values = Float32Array.from({ length: 1000 }, (_, i) => i);
  const numbers = np.array(values, { device });
  const sum = await np.sum(numbers.mul(2)).data();
  if (sum[0] !== 999_000)
    throw new Error(
      `jax-js computes wrongly here: 999000 came out as ${sum[0]}`,
    );
}
