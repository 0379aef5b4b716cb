import { jaxActivationBytes } from "../plan/activations.ts";
import { InputError } from "./errors.ts";
import { parameterCount, VOCABULARY, type ModelSize } from "./model.ts";

/** What a 32-bit WebAssembly memory can hold. */
const WASM_LIMIT = 2 ** 32;

/**
 * Bytes that jax-js takes for a step, within about a tenth.
 *
 * @param stateBytes of the optimizer's states, which live in the same memory
 */
export function estimateHeap(
  model: ModelSize,
  batch: number,
  stateBytes = 0,
): number {
  const { context } = model;
  const forEachByte = jaxActivationBytes(
    { ...model, vocabulary: VOCABULARY },
    context,
  );
  const parameters = 16 * parameterCount(model);
  return batch * context * forEachByte + parameters + stateBytes + 2 ** 22;
}

/** @throws InputError when a step would not fit into a WebAssembly memory. */
export function checkHeap(
  model: ModelSize,
  batch: number,
  stateBytes: number,
): void {
  const bytes = estimateHeap(model, batch, stateBytes);
  if (bytes <= WASM_LIMIT) return;
  throw new InputError(
    `a step would take about ${gib(bytes)}, and WebAssembly can have 4 GiB; make batch, context, width or layers smaller`,
  );
}

/** Bytes of the largest single array of a step. */
export function largestArray(model: ModelSize, batch: number): number {
  const { heads, width, context } = model;
  const matrix = 4 * width * width;
  const tokens = batch * context;
  const row = Math.max(VOCABULARY, 4 * width, heads * context);
  return 4 * Math.max(matrix, tokens * row);
}

/**
 * How much a GPU has cannot be known before, but how large an array may be.
 *
 * @throws InputError when a step would have larger ones
 */
export function checkArrays(
  model: ModelSize,
  batch: number,
  limits: Pick<
    GPUSupportedLimits,
    "maxBufferSize" | "maxStorageBufferBindingSize"
  >,
): void {
  const { maxBufferSize, maxStorageBufferBindingSize } = limits;
  const most = Math.min(maxBufferSize, maxStorageBufferBindingSize);
  const bytes = largestArray(model, batch);
  if (bytes <= most) return;
  throw new InputError(
    `a step would have an array of ${gib(bytes)}, and WebGPU takes ${gib(most)} at most here; make batch, context or width smaller`,
  );
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
