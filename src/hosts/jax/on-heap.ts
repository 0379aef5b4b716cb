/** The wasm engine on jax-js's own heap, without copies. */
import { wasmEngineIn } from "../../engines/wasm/engine.ts";
import type { JaxHeap } from "./heap.ts";
import { stepIn, type Memory, type Reach, type StepArrays } from "./reach.ts";

export function reachHeap(heap: JaxHeap): Reach {
  const memory: Memory = {
    make: (shape, type) => heap.make(shape, type),
    isOwned: (array) => heap.isOwned(array),
    copy(pairs) {
      for (const { from, to } of pairs) heap.words(to).set(heap.words(from));
    },
    view: (array) => heap.floats(array),
    region: (array) => heap.bytes(array),
    changes: {
      clear: (array) => heap.floats(array).fill(0),
      subtract: (to, from) => heap.subtract(to, from),
    },
  };
  /** On one thread jax-js itself computes nowhere else; worker threads must be waited for. */
  const ready = (array: Parameters<JaxHeap["flush"]>[0]) => {
    if (array.size === 0 || heap.isReady(array)) return true;
    if (heap.threaded) return false;
    heap.flush(array);
    return true;
  };
  return {
    engine: wasmEngineIn(heap.host),
    waits: heap.threaded,
    read: (scalar) => (ready(scalar) ? scalar.ref.dataSync()[0] : undefined),
    canStep: ({ gradients, parameters = [], regions }: StepArrays) =>
      [...gradients, ...parameters, ...regions].every(
        (array) => !array || ready(array),
      ),
    step(arrays, how) {
      const result = stepIn(memory, arrays, how);
      for (const array of [...result.results, ...result.regions])
        if (array) heap.markReady(array);
      return result;
    },
  };
}
