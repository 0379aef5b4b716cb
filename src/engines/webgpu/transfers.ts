/** Callers' arrays: to the device before a step, and back after it. */
import type { StepInput } from "../engine.ts";
import type { BufferView } from "./buffers.ts";
import type { Memory } from "./memory.ts";

/** Of each tensor in a step; undefined where a tensor is left as it is. */
export type Gradients = readonly (Required<BufferView> | undefined)[];

export function upload(
  { queue }: GPUDevice,
  { tensors }: Memory,
  input: StepInput,
  gradients: Gradients,
  resident: boolean,
): void {
  const write = (
    { buffer, offset }: Required<BufferView>,
    data: Float32Array,
  ) => queue.writeBuffer(buffer, offset, data as Float32Array<ArrayBuffer>);
  input.tensors.forEach((given, i) => {
    const { array, parameter, gradient, plan } = tensors[i]!;
    if (!given || plan.size === 0) return;
    if (given.gradient instanceof Float32Array)
      write(gradient!, given.gradient);
    if (array && !resident && gradients[i]) write(parameter!, array);
  });
}

/** Arrays of the caller that the step changes, into staging. @returns whether there are any. */
export function copyOut(
  encoder: GPUCommandEncoder,
  { tensors, staging }: Memory,
  gradients: Gradients,
): boolean {
  if (!staging) return false;
  let at = 0;
  let any = false;
  tensors.forEach(({ array, parameter, plan }, i) => {
    if (!array || plan.size === 0) return;
    if (gradients[i]) {
      any = true;
      encoder.copyBufferToBuffer(
        parameter!.buffer,
        parameter!.offset,
        staging,
        at,
        4 * plan.size,
      );
    }
    at += 4 * plan.size;
  });
  return any;
}

/** From staging, which is mapped, into the caller's arrays. */
export function writeBack(
  { tensors, staging }: Memory,
  gradients: Gradients,
): void {
  const values = new Float32Array(staging!.getMappedRange());
  let at = 0;
  tensors.forEach(({ array, plan }, i) => {
    if (!array) return;
    if (gradients[i]) array.set(values.subarray(at, at + plan.size));
    at += plan.size;
  });
  staging!.unmap();
}
