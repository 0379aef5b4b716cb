/** The WebGPU engine on jax-js's device, in its buffers. */
import { createWebGPUEngine } from "../../engines/webgpu/engine.ts";
import { isArray, type Jax, type Tensor } from "./contract.ts";
import {
  findBackend,
  slotOf,
  stepIn,
  type Memory,
  type Reach,
} from "./reach.ts";

/** What is known of jax-js's WebGPU backend beside its public functions. */
interface Backend {
  readonly buffers: ReadonlyMap<
    number,
    { readonly buffer: GPUBuffer; readonly size: number; readonly ref: number }
  >;
  readSync?: unknown;
}

const known = /* @__PURE__ */ new WeakMap<Jax, Reach>();

/** jax-js must have been initialized for webgpu. */
export function reachGpu(jax: Jax): Reach {
  let reach = known.get(jax);
  if (!reach) known.set(jax, (reach = makeReach(jax)));
  return reach;
}

function makeReach(jax: Jax): Reach {
  const { numpy: np } = jax;
  const device = jax.getWebGPUDevice();
  const backend = backendOf(jax);
  /** Submits what computes the array; all that is queued later comes after. */
  const bufferOf = (array: Tensor) => array.ref.gpuBufferSync();
  const memory: Memory = {
    make(shape, type) {
      const where =
        jax.defaultDevice() === "webgpu" ? {} : { device: "webgpu" as const };
      const array = np.zeros([...shape], { dtype: np[type], ...where });
      bufferOf(array);
      return array;
    },
    isOwned(array) {
      // Somebody may hold a view of the memory where that cannot be seen.
      const slot = backend?.buffers.get(slotOf(array));
      bufferOf(array);
      return (
        array.refCount === 1 && slot?.ref === 1 && slot.size === 4 * array.size
      );
    },
    copy(from, to) {
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(
        bufferOf(from),
        0,
        bufferOf(to),
        0,
        4 * to.size,
      );
      device.queue.submit([encoder.finish()]);
    },
    clear() {
      // As it was made.
    },
    view: bufferOf,
    region: bufferOf,
    subtract: (to, from) => to.sub(from.ref),
  };
  return {
    engine: createWebGPUEngine(device),
    waits: false,
    read: (scalar) => readConstant(scalar, backend),
    canStep: ({ gradients, parameters = [], regions }) =>
      [...gradients, ...parameters, ...regions].every(
        (array) => !array || (isArray(jax, array) && array.device === "webgpu"),
      ),
    step: (arrays, how) => stepIn(memory, arrays, how),
  };
}

function backendOf(jax: Jax): Backend | undefined {
  try {
    const found = findBackend(jax, "webgpu");
    if (!(found?.buffers instanceof Map)) return undefined;
    const backend = found as unknown as Backend;
    const probe = jax.numpy.zeros([4], { device: "webgpu" });
    const buffer = probe.ref.gpuBufferSync();
    const slot = backend.buffers.get(slotOf(probe));
    const right = slot?.buffer === buffer && slot.ref === 1 && slot.size === 16;
    probe.dispose();
    return right ? backend : undefined;
  } catch {
    return undefined;
  }
}

/** jax-js keeps constants itself; what lies on the device cannot be read at once. */
function readConstant(
  scalar: Tensor,
  backend: Backend | undefined,
): number | undefined {
  if (!backend) return undefined;
  const again = scalar.ref;
  backend.readSync = () => {
    throw onDevice;
  };
  try {
    return again.dataSync()[0];
  } catch (error) {
    again.dispose();
    if (error === onDevice) return undefined;
    throw error;
  } finally {
    delete backend.readSync;
  }
}

const onDevice = /* @__PURE__ */ new Error("on the device");
