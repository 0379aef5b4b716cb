/**
 * TensorFlow.js's WebAssembly backend: our kernels work on its heap, on the
 * variables where they are. What is used of it is no public interface, so every
 * piece is asked for, and the whole is tried out before it is used.
 */
import { engine, tensor, tidy } from "@tensorflow/tfjs-core";
import { wasmEngineIn } from "../../engines/wasm/engine.ts";
import { assign, type Access } from "./access.ts";

interface TensorData {
  readonly id: number;
  readonly memoryOffset: number;
}

/** The part of `BackendWasm` made use of; the same since 4.0. */
interface Backend {
  readonly wasm: {
    readonly HEAPU8: Uint8Array;
    _malloc(bytes: number): number;
    _free(address: number): void;
    readonly wasmMemory?: unknown;
    readonly asm?: { readonly memory?: unknown };
    readonly tfjs: {
      registerTensor(id: number, size: number, address: number): void;
      disposeData(id: number): void;
    };
  };
  readonly dataIdMap: { get(dataId: object): TensorData };
  refCount(dataId: object): number;
}

interface OnHeap {
  readonly dataId: object;
  readonly size: number;
}

/** The way over the backend's heap; undefined where there is none or it fails its test. */
export function wasmAccess(backend: object): Access | undefined {
  const host = backend as Backend;
  const memory = heapOf(host);
  if (!memory) return undefined;
  // The backend drops its own reference when it is disposed; ours are freed after.
  const { wasm } = host;
  const view = ({ dataId, size }: OnHeap) =>
    new Float32Array(
      memory.buffer,
      host.dataIdMap.get(dataId).memoryOffset,
      size,
    );
  // Operators keep packed copies of weights by the tensor's number.
  const forget = ({ dataId, size }: OnHeap) => {
    const { id, memoryOffset } = host.dataIdMap.get(dataId);
    wasm.tfjs.disposeData(id);
    wasm.tfjs.registerTensor(id, size, memoryOffset);
  };
  try {
    if (!seesChanges(host, view, forget)) return undefined;
  } catch {
    return undefined;
  }
  const heap = wasmEngineIn({
    memory,
    allocate(bytes) {
      const address = wasm._malloc(bytes) >>> 0;
      if (address === 0)
        throw new RangeError(
          `wasm: ${bytes} bytes for the states could not be had on the heap of TensorFlow.js; use fewer bits`,
        );
      return address;
    },
    free: (address) => wasm._free(address),
  });
  return {
    description: "wasm, in place on the heap of TensorFlow.js",
    engine: heap,
    ready: Promise.resolve(),
    portions: false,
    onDevice: false,
    update(updates, apply) {
      // Somebody else has the same numbers, and must not see them change.
      for (const { variable } of updates)
        if (host.refCount(variable.dataId) > 1)
          assign(variable, variable.dataSync() as Float32Array);
      // Data of another backend moves here first: then nothing is allocated
      // any more, which could make the heap grow and end the views.
      for (const { variable, gradient } of updates)
        for (const one of [variable, gradient]) host.dataIdMap.get(one.dataId);
      const gradients: Record<string, Float32Array> = {};
      const parameters: Record<string, Float32Array> = {};
      for (const { variable, gradient } of updates) {
        parameters[variable.name] = view(variable);
        gradients[variable.name] = view(gradient);
      }
      try {
        apply(gradients, parameters);
      } finally {
        for (const { variable } of updates) forget(variable);
      }
    },
  };
}

function heapOf({ wasm, dataIdMap, refCount }: Backend) {
  if (!wasm || !dataIdMap || typeof refCount !== "function") return undefined;
  const { tfjs, _malloc, _free, HEAPU8 } = wasm;
  const functions = [
    _malloc,
    _free,
    tfjs?.registerTensor,
    tfjs?.disposeData,
    dataIdMap.get,
  ] as unknown[];
  if (functions.some((one) => typeof one !== "function")) return undefined;
  const memory = wasm.wasmMemory ?? wasm.asm?.memory;
  return memory instanceof WebAssembly.Memory && memory.buffer === HEAPU8.buffer
    ? memory
    : undefined;
}

/**
 * Whether a product of matrices sees what was written, and whether the count of
 * references tells of another tensor that has the same numbers.
 */
function seesChanges(
  backend: Backend,
  view: (tensor: OnHeap) => Float32Array,
  forget: (tensor: OnHeap) => void,
): boolean {
  return tidy(() => {
    const unit = tensor([1, 0, 0, 1], [2, 2]);
    const weights = tensor([1, 2, 3, 4], [2, 2]);
    const product = () => {
      const result = engine().runKernel(
        "BatchMatMul",
        { a: unit, b: weights },
        { transposeA: false, transposeB: false },
      );
      return (result as typeof unit).dataSync();
    };
    const before = String(product());
    const counts = [backend.refCount(weights.dataId)];
    engine().runKernel("Reshape", { x: weights }, { shape: [4] });
    counts.push(backend.refCount(weights.dataId));
    view(weights).set([5, 6, 7, 8]);
    forget(weights);
    return (
      before === "1,2,3,4" &&
      String(product()) === "5,6,7,8" &&
      String(weights.dataSync()) === "5,6,7,8" &&
      String(counts) === "1,2"
    );
  });
}
