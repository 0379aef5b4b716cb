// Import this before jax-js: it notes the memories that are made, which jax-js
// keeps to itself, and what a GPU device allocates.

const memories: WebAssembly.Memory[] = [];
const { Memory } = WebAssembly;
WebAssembly.Memory = class extends Memory {
  constructor(descriptor: WebAssembly.MemoryDescriptor) {
    super(descriptor);
    memories.push(this);
  }
};

/** Bytes of jax-js's heap, whose memory is the first one. */
export const heapBytes = (): number => memories[0]!.buffer.byteLength;

/** Bytes and number of buffers that live on a device, from now on. */
export function watchBuffers(device: GPUDevice) {
  const live = { bytes: 0, buffers: 0, peak: 0 };
  const create = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    const buffer = create(descriptor);
    const { size } = buffer;
    live.bytes += size;
    live.buffers++;
    live.peak = Math.max(live.peak, live.bytes);
    const destroy = buffer.destroy.bind(buffer);
    let gone = false;
    buffer.destroy = () => {
      if (!gone) {
        live.bytes -= size;
        live.buffers--;
      }
      gone = true;
      return destroy();
    };
    return buffer;
  };
  return live;
}
