/** Which engine reaches the arrays of a device. */
import type { Jax } from "./contract.ts";
import { JaxHeap } from "./heap.ts";
import { reachGpu } from "./on-gpu.ts";
import { reachHeap } from "./on-heap.ts";
import type { Reach } from "./reach.ts";

/** Undefined where none does: on other devices, or where jax-js has changed inside. */
export function reachOf(jax: Jax, device: string): Reach | undefined {
  if (device === "webgpu") return reachGpu(jax);
  const heap = device === "wasm" ? JaxHeap.find(jax) : undefined;
  return heap && reachHeap(heap);
}
