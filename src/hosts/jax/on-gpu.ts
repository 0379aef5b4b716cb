/** The WebGPU engine on jax-js's device, in its buffers. */
import { createWebGPUEngine } from "../../engines/webgpu/engine.ts";
import { isArray, type Jax, type Tensor } from "./contract.ts";
import { findBackend, slotOf } from "./insides.ts";
import { stepIn, type Memory, type Reach } from "./reach.ts";
import { makeUnwritten, type Allocator } from "./unwritten.ts";

/** What is known of jax-js's WebGPU backend beside its public functions. */
interface Backend extends Allocator {
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
      if (backend) return makeUnwritten(jax, "webgpu", backend, shape, type);
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
    copy(pairs) {
      const buffers = pairs.map(({ from, to }) => [
        bufferOf(from),
        bufferOf(to),
      ]);
      const encoder = device.createCommandEncoder();
      pairs.forEach(({ to }, i) => {
        const [source, target] = buffers[i]!;
        encoder.copyBufferToBuffer(source!, 0, target!, 0, 4 * to.size);
      });
      device.queue.submit([encoder.finish()]);
    },
    view: bufferOf,
    region: bufferOf,
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
    if (typeof found.malloc !== "function") return undefined;
    const backend = found as unknown as Backend;
    const size = 1000;
    const probe = makeUnwritten(jax, "webgpu", backend, [size], "float32");
    const buffer = probe.ref.gpuBufferSync();
    const slot = backend.buffers.get(slotOf(probe));
    const right =
      slot?.buffer === buffer && slot.ref === 1 && slot.size === 4 * size;
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
