/**
 * TensorFlow.js's WebGPU backend: our kernels on its device. In place on the
 * buffers of variables where that works, which is tried out first; on copies
 * that `dataToGPU` gives otherwise, and until the trial has ended.
 */
import {
  dispose,
  engine,
  keep,
  tensor,
  type Tensor,
} from "@tensorflow/tfjs-core";
import { createWebGPUEngine } from "../../engines/webgpu/engine.ts";
import type { Access, Apply, Update } from "./access.ts";

interface TensorData {
  readonly resource?: unknown;
  values: unknown;
}

/** The part of `WebGPUBackend` made use of; the same since 4.8. */
interface Backend {
  readonly device: GPUDevice;
  readonly tensorMap: { get(dataId: object): TensorData };
  refCount(dataId: object): number;
  uploadToGPU(dataId: object): void;
  ensureCommandEncoderReady(): void;
  endComputePassEncoder(): void;
  submitQueue(): void;
}

/** The way over the backend's device; undefined where it has none. */
export function webgpuAccess(backend: object): Access | undefined {
  const { device } = backend as Partial<Backend>;
  if (typeof device?.createComputePipeline !== "function") return undefined;
  const onDevice = createWebGPUEngine(device);
  const inside = hasInsides(backend) ? backend : undefined;
  let inPlace = false;
  const ready = inside
    ? tryOut(inside).then(
        (works) => void (inPlace = works),
        // It fails its test: the other way stays.
        () => {},
      )
    : Promise.resolve();
  return {
    get description() {
      return inPlace
        ? "webgpu, in place in the buffers of TensorFlow.js"
        : "webgpu, through dataToGPU and assign";
    },
    ready,
    engine: onDevice,
    portions: false,
    onDevice: true,
    update(updates, apply) {
      if (inPlace) updateInPlace(inside!, updates, apply);
      else updateCopies(device, updates, apply);
    },
  };
}

function hasInsides(backend: object): backend is Backend {
  const {
    tensorMap,
    refCount,
    uploadToGPU,
    ensureCommandEncoderReady,
    endComputePassEncoder,
    submitQueue,
  } = backend as Backend;
  return [
    tensorMap?.get,
    refCount,
    uploadToGPU,
    ensureCommandEncoderReady,
    endComputePassEncoder,
    submitQueue,
  ].every((one) => typeof one === "function");
}

function updateInPlace(
  backend: Backend,
  updates: readonly Update[],
  apply: Apply,
): void {
  const buffers = (of: (update: Update) => Tensor) =>
    Object.fromEntries(
      updates.map((update) => [
        update.variable.name,
        bufferOf(backend, of(update)),
      ]),
    );
  for (const { variable, gradient } of updates) {
    backend.uploadToGPU(variable.dataId);
    backend.uploadToGPU(gradient.dataId);
    // Somebody else has the same numbers, and must not see them change.
    if (backend.refCount(variable.dataId) > 1) {
      const { tensorRef } = variable.dataToGPU();
      variable.assign(tensorRef);
      dispose(tensorRef);
    }
  }
  flush(backend);
  // Buffers last: what came before may have given variables others.
  apply(
    buffers(({ gradient }) => gradient),
    buffers(({ variable }) => variable),
  );
  // Values that were read before are kept there, and old now.
  for (const { variable } of updates)
    backend.tensorMap.get(variable.dataId).values = null;
}

function bufferOf(backend: Backend, { dataId }: Tensor): GPUBuffer {
  return backend.tensorMap.get(dataId).resource as GPUBuffer;
}

/** What was recorded before our step must not see what comes after it. */
function flush(backend: Backend): void {
  // With nothing recorded there is no encoder, and submitting would throw.
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  backend.submitQueue();
}

/** By the public interface: copies of both, and the variable takes its copy over. */
function updateCopies(
  device: GPUDevice,
  updates: readonly Update[],
  apply: Apply,
): void {
  const copies = updates.map(({ variable, gradient }) => ({
    variable,
    next: copyOf(device, variable),
    gradient: copyOf(device, gradient),
  }));
  const byName = (which: "next" | "gradient") =>
    Object.fromEntries(
      copies.map((copy) => [copy.variable.name, copy[which].buffer]),
    );
  apply(byName("gradient"), byName("next"));
  for (const { variable, next, gradient } of copies) {
    variable.assign(next.tensorRef);
    dispose([next.tensorRef, gradient.tensorRef]);
  }
}

interface Copy {
  readonly buffer: GPUBuffer;
  readonly tensorRef: Tensor;
}

function copyOf(device: GPUDevice, source: Tensor): Copy {
  try {
    return source.dataToGPU() as Copy;
  } catch (error) {
    // Up to 4.22 it throws for what was never uploaded.
    if (!/not on GPU/.test(String(error))) throw error;
  }
  const values = source.dataSync() as Float32Array;
  const buffer = device.createBuffer({
    size: values.byteLength,
    usage:
      GPUBufferUsage.STORAGE |
      GPUBufferUsage.COPY_SRC |
      GPUBufferUsage.COPY_DST,
    mappedAtCreation: true,
  });
  new Float32Array(buffer.getMappedRange()).set(values);
  buffer.unmap();
  const uploaded = tensor({ buffer }, source.shape, "float32");
  const copy = uploaded.dataToGPU() as Copy;
  uploaded.dispose();
  buffer.destroy();
  return copy;
}

/**
 * Whether an operation recorded before sees old numbers, and one recorded after, and
 * reading, see new ones; and whether references are counted.
 */
async function tryOut(backend: Backend): Promise<boolean> {
  const run = (kernel: string, inputs: object, attributes?: object) =>
    engine().runKernel(kernel, inputs as never, attributes as never) as Tensor;
  const all: Tensor[] = [];
  const made = (one: Tensor) => {
    // It outlives the scope of whoever is at work now.
    all.push(keep(one));
    return one;
  };
  try {
    const weights = made(tensor([1, 2, 3, 4]));
    const zeros = made(tensor([0, 0, 0, 0]));
    const read = await weights.data();
    backend.uploadToGPU(weights.dataId);
    backend.uploadToGPU(zeros.dataId);
    const single = backend.refCount(weights.dataId);
    const other = made(run("Reshape", { x: weights }, { shape: [2, 2] }));
    const shared = backend.refCount(weights.dataId);
    const before = made(run("Add", { a: weights, b: zeros }));
    flush(backend);
    backend.device.queue.writeBuffer(
      bufferOf(backend, weights),
      0,
      new Float32Array([5, 6, 7, 8]),
    );
    backend.tensorMap.get(weights.dataId).values = null;
    const after = made(run("Add", { a: weights, b: zeros }));
    const results = [
      read,
      await before.data(),
      await weights.data(),
      await after.data(),
      await other.data(),
    ].map(String);
    const [old, fresh] = ["1,2,3,4", "5,6,7,8"];
    return (
      single === 1 &&
      shared === 2 &&
      String(results) === String([old, old, fresh, fresh, fresh])
    );
  } finally {
    dispose(all);
  }
}
