/** Arrays of jax-js whose numbers are yet to be written, without the zeros that it would write. */
import type { Jax, Tensor } from "./contract.ts";
import { slotOf } from "./insides.ts";

/** What a backend of jax-js allocates with; `data` is copied into the memory. */
export interface Allocator {
  malloc(size: number, data?: Uint8Array): number;
}

type Type = "float32" | "uint32";

let zeros = /* @__PURE__ */ new ArrayBuffer(0);

/** An array of zeros that is never read: its pages take no memory. */
function placeholder(type: Type, size: number) {
  if (zeros.byteLength < 4 * size) zeros = new ArrayBuffer(4 * size);
  return type === "float32"
    ? new Float32Array(zeros, 0, size)
    : new Uint32Array(zeros, 0, size);
}

/** Anything may be in it. */
export function makeUnwritten(
  jax: Jax,
  device: "wasm" | "webgpu",
  backend: Allocator,
  shape: readonly number[],
  type: Type,
): Tensor {
  const size = shape.reduce((product, n) => product * n, 1);
  const { malloc } = backend;
  backend.malloc = (bytes) => malloc.call(backend, bytes);
  try {
    const made = jax.numpy.array(placeholder(type, size), {
      shape: [...shape],
      ...(jax.defaultDevice() === device ? {} : { device }),
    });
    slotOf(made);
    return made;
  } finally {
    delete (backend as Partial<Allocator>).malloc;
  }
}
