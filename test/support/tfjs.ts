// TensorFlow.js for tests, the same in Node and in a browser.

import * as core from "@tensorflow/tfjs-core";
import * as layers from "@tensorflow/tfjs-layers";
import { registerWasmTrainingKernels } from "lowbit/tfjs";
import { gpuSkipReason, openGpu } from "./gpu.ts";

/** What `import * as tf from "@tensorflow/tfjs"` gives, less what is unused. */
export const tf = { ...core, ...layers };

const inNode = typeof process === "object" && !!process.versions?.node;

export type BackendName = "cpu" | "wasm" | "webgpu" | "webgl";

/** The backends that there are here. */
export const backends: readonly {
  readonly name: BackendName;
  readonly skip: string | undefined;
}[] = [
  { name: "cpu", skip: undefined },
  { name: "wasm", skip: undefined },
  { name: "webgpu", skip: gpuSkipReason() },
  // Node has no WebGL at all.
  ...(inNode ? [] : [{ name: "webgl" as const, skip: undefined }]),
];

/** Makes it the backend that operations run on. */
export async function useBackend(name: BackendName): Promise<void> {
  await load(name);
  // TensorFlow.js takes another one without a word when it cannot have it.
  if (!(await tf.setBackend(name)) || tf.getBackend() !== name)
    throw new Error(`TensorFlow.js has no backend '${name}' here`);
  await tf.ready();
  if (name === "wasm") registerWasmTrainingKernels(tf);
}

async function load(name: BackendName): Promise<void> {
  if (name === "cpu") await import("@tensorflow/tfjs-backend-cpu");
  if (name === "webgl") await import("@tensorflow/tfjs-backend-webgl");
  if (name === "wasm") {
    const { setWasmPaths } = await import("@tensorflow/tfjs-backend-wasm");
    // Node finds the files itself; paths are set before the backend starts.
    if (!inNode && !tf.engine().registry.wasm)
      setWasmPaths(
        import.meta.url.replace(
          /\/test\/support\/.*/,
          "/node_modules/@tensorflow/tfjs-backend-wasm/dist/",
        ),
      );
  }
  if (name === "webgpu") {
    // The backend looks for it when it is imported.
    const gpu = await openGpu();
    if (inNode && navigator.gpu !== gpu)
      Object.defineProperty(navigator, "gpu", {
        value: gpu,
        configurable: true,
      });
    await import("@tensorflow/tfjs-backend-webgpu");
  }
}
