/** Every WebAssembly memory that this process makes once this file is imported. */
export const memories: WebAssembly.Memory[] = [];

const Memory = WebAssembly.Memory;
WebAssembly.Memory = class extends Memory {
  constructor(descriptor: WebAssembly.MemoryDescriptor) {
    super(descriptor);
    memories.push(this);
  }
};
