/** Buffers of the caller and our own. */
import type { ElementType } from "./kernel.ts";
import { elementBytes } from "./operands.ts";

/** Where a parameter or gradient lies on the device. */
export interface BufferView {
  readonly buffer: GPUBuffer;
  /** In bytes, a multiple of 4. Default 0. */
  readonly offset?: number;
  /** Default float32. The 16-bit types are packed two a word. */
  readonly type?: ElementType;
  /** How a 16-bit parameter is rounded. Default nearest. */
  readonly rounding?: "nearest" | "stochastic";
}

const isBuffer = (data: unknown): data is GPUBuffer =>
  typeof data === "object" &&
  data !== null &&
  "mapAsync" in data &&
  "usage" in data;

/** Whether this is a GPUBuffer or a {@link BufferView}. */
export function isView(data: unknown): data is GPUBuffer | BufferView {
  return (
    isBuffer(data) ||
    (typeof data === "object" &&
      data !== null &&
      "buffer" in data &&
      isBuffer(data.buffer))
  );
}

const types: readonly ElementType[] = ["float32", "float16", "bfloat16"];
const keys = ["buffer", "offset", "type", "rounding"];

/** Checks a view and fills in what is missing. @throws TypeError or RangeError. */
export function resolveView(
  data: unknown,
  size: number,
  owner: string,
): Required<BufferView> {
  if (!isView(data))
    throw new TypeError(
      `webgpu: ${owner} must be a Float32Array, a GPUBuffer or { buffer, offset, type }, given ${Object.prototype.toString.call(data).slice(8, -1)}`,
    );
  const view: BufferView = isBuffer(data) ? { buffer: data } : data;
  const { buffer, offset = 0, type = "float32", rounding = "nearest" } = view;
  for (const key of Object.keys(view))
    if (!isBuffer(data) && !keys.includes(key))
      throw new TypeError(
        `webgpu: ${owner} has an unknown key '${key}'; there are ${keys.join(", ")}`,
      );
  if (!types.includes(type))
    throw new TypeError(
      `webgpu: the type of ${owner} must be ${types.join(", ")}, given '${String(type)}'`,
    );
  if (rounding !== "nearest" && rounding !== "stochastic")
    throw new TypeError(
      `webgpu: the rounding of ${owner} must be nearest or stochastic, given '${String(rounding)}'`,
    );
  if (!Number.isInteger(offset) || offset < 0 || offset % 4 !== 0)
    throw new RangeError(
      `webgpu: the offset of ${owner} is in bytes, a multiple of 4, given ${String(offset)}`,
    );
  // Words are written whole: an odd last half word belongs to the buffer's padding.
  const bytes = Math.ceil((size * elementBytes(type)) / 4) * 4;
  if (offset + bytes > buffer.size)
    throw new RangeError(
      `webgpu: ${owner} takes ${bytes} bytes from offset ${offset} (${size} elements of ${type}), but its buffer has ${buffer.size}`,
    );
  if ((buffer.usage & 0x80) === 0)
    throw new TypeError(
      `webgpu: the buffer of ${owner} has no GPUBufferUsage.STORAGE; create it with that usage`,
    );
  return { buffer, offset, type, rounding };
}

/** A place in one of an arena's chunks. */
export interface Place {
  readonly chunk: number;
  /** In bytes. */
  readonly offset: number;
}

export const alignment = 256;
export const alignUp = (bytes: number, to = alignment): number =>
  Math.ceil(bytes / to) * to;

/**
 * Few large buffers that many tensors share. A chunk is never larger than one
 * binding, so that a dispatch binds it whole.
 */
export class Arena {
  readonly #limit: number;
  readonly #sizes: number[] = [];
  #buffers: GPUBuffer[] = [];
  #lent = false;

  constructor(limit: number) {
    this.#limit = Math.floor(limit / alignment) * alignment;
  }

  get limit(): number {
    return this.#limit;
  }

  place(bytes: number): Place {
    const size = alignUp(bytes);
    let chunk = this.#sizes.length - 1;
    if (chunk < 0 || this.#sizes[chunk]! + size > this.#limit)
      chunk = this.#sizes.push(0) - 1;
    const offset = this.#sizes[chunk]!;
    this.#sizes[chunk]! += size;
    return { chunk, offset };
  }

  /** Creates the buffers, after everything is placed. */
  create(device: GPUDevice, label: string): void {
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    this.#buffers = this.#sizes.map((size) =>
      device.createBuffer({
        label,
        size,
        usage: STORAGE | COPY_SRC | COPY_DST,
      }),
    );
  }

  /** Takes the host's buffers for the chunks, in place of its own; they stay the host's. */
  lend(buffers: readonly GPUBuffer[]): void {
    this.#buffers = [...buffers];
    this.#lent = true;
  }

  buffer(chunk: number): GPUBuffer {
    return this.#buffers[chunk]!;
  }

  /** Bytes of each chunk. */
  get sizes(): readonly number[] {
    return this.#sizes;
  }

  get bytes(): number {
    return this.#sizes.reduce((sum, size) => sum + size, 0);
  }

  destroy(): void {
    if (!this.#lent) for (const buffer of this.#buffers) buffer.destroy();
    this.#buffers = [];
  }
}
