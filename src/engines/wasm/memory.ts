/** The memory that kernels work on: our own, or a host's heap. */

export const pageBytes = 65536;
const mostPages = 65536;

/** A memory of somebody else's in which the engine is to keep its things. */
export interface HostMemory {
  readonly memory: WebAssembly.Memory;
  /** Address of so many free bytes, aligned to 8. @throws when there are none. */
  allocate(bytes: number): number;
  free(address: number): void;
}

/** @throws RangeError when it cannot be had. */
export function makeMemory(pages: number, shared: boolean): WebAssembly.Memory {
  const bytes = pages * pageBytes;
  const size = `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  if (pages > mostPages)
    throw new RangeError(
      `wasm: the states need ${size}, and a WebAssembly memory holds 4096 MiB at most; use fewer bits, or several optimizers`,
    );
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
  } catch (error) {
    throw new RangeError(
      `wasm: a memory of ${size} for the states could not be had; use fewer bits or close other programs`,
      { cause: error },
    );
  }
}

/** How a module must declare the memory it imports. */
export function memoryShape(memory: WebAssembly.Memory): {
  initial: number;
  maximum?: number;
  shared: boolean;
} {
  const shared = isShared(memory);
  // A shared one has a maximum, which cannot be asked for: no more than the largest.
  return shared
    ? { initial: 1, maximum: mostPages, shared }
    : { initial: 1, shared };
}

const isShared = ({ buffer }: WebAssembly.Memory): boolean =>
  typeof SharedArrayBuffer === "function" &&
  (buffer as ArrayBufferLike) instanceof SharedArrayBuffer;

/** Views of a memory; a host's may grow between steps, which ends old views. */
export class Heap {
  readonly memory: WebAssembly.Memory;
  #buffer!: ArrayBuffer;
  floats!: Float32Array;
  doubles!: Float64Array;
  words!: Int32Array;
  bytes!: Uint8Array;
  view!: DataView;

  constructor(memory: WebAssembly.Memory) {
    this.memory = memory;
    this.refresh();
  }

  /** To be called before work begins. */
  refresh(): void {
    const { buffer } = this.memory;
    if (buffer === this.#buffer) return;
    this.#buffer = buffer;
    this.floats = new Float32Array(buffer);
    this.doubles = new Float64Array(buffer, 0, buffer.byteLength >>> 3);
    this.words = new Int32Array(buffer);
    this.bytes = new Uint8Array(buffer);
    this.view = new DataView(buffer);
  }

  /**
   * Address of an array that lies in this memory with a page after it, since
   * kernels look ahead of what they work on; else 0.
   */
  addressOf(array: Float32Array): number {
    return array.buffer === this.#buffer &&
      array.byteOffset + array.byteLength + pageBytes <= this.#buffer.byteLength
      ? array.byteOffset
      : 0;
  }
}
