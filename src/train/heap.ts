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
    `a step would take about ${(bytes / 2 ** 30).toFixed(1)} GiB, and WebAssembly can have 4 GiB; make batch, context, width or layers smaller`,
  );
}
