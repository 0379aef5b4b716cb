/** Compiled kernels of a device; kept as long as the device, since compiling takes longer than steps. */
import { firstSlotBinding, smallBinding } from "./operands.ts";
import { kernelCode, passKernelCode } from "./frame.ts";
import {
  jobBytes,
  kernelShape,
  type KernelShape,
  type KernelSpec,
} from "./kernel.ts";

/** A kernel that a dispatch can use. */
export interface Kernel {
  readonly shape: KernelShape;
  readonly layout: GPUBindGroupLayout;
  readonly tables: GPUBuffer | undefined;
  readonly jobBytes: number;
  readonly update: GPUComputePipeline;
  /** Where a scale of the whole tensor must be found first. */
  readonly measure: GPUComputePipeline | undefined;
  /** What reductions and rank-1 scales need to know first. */
  readonly passes: readonly GPUComputePipeline[];
}

/** Compiled by text, so that equal kernels of several optimizers are one. */
const byDevice = new WeakMap<
  GPUDevice,
  Map<string, Promise<GPUComputePipeline>>
>();

export async function compile(
  device: GPUDevice,
  code: string,
  layout: GPUBindGroupLayout,
  label: string,
): Promise<GPUComputePipeline> {
  let known = byDevice.get(device);
  if (!known) byDevice.set(device, (known = new Map()));
  let pipeline = known.get(code);
  if (!pipeline) {
    pipeline = device.createComputePipelineAsync({
      label,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: {
        module: device.createShaderModule({ label, code }),
        entryPoint: "main",
      },
    });
    known.set(code, pipeline);
    // What failed may be tried again.
    pipeline.catch(() => known.delete(code));
  }
  return pipeline;
}

type Entry = { binding: number; type: GPUBufferBindingType };

export function bindGroupLayout(
  device: GPUDevice,
  entries: readonly Entry[],
): GPUBindGroupLayout {
  return device.createBindGroupLayout({
    entries: entries.map(({ binding, type }) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type },
    })),
  });
}

export function kernelBindings(shape: KernelShape): Entry[] {
  const { spec, quantized, halves, floats, small } = shape;
  const slots = (after: number, type: GPUBufferBindingType) =>
    Array.from({ length: spec.slots }, (_, slot) => ({
      binding: firstSlotBinding + after + slot,
      type,
    }));
  return [
    { binding: 0, type: "uniform" },
    ...(quantized.length > 0
      ? ([{ binding: 1, type: "read-only-storage" }] as const)
      : []),
    ...(quantized.length + halves.length > 0
      ? ([{ binding: 3, type: "storage" }] as const)
      : []),
    { binding: 2, type: "storage" },
    ...(floats.length > 0 ? ([{ binding: 4, type: "storage" }] as const) : []),
    ...(small ? ([{ binding: smallBinding, type: "storage" }] as const) : []),
    ...slots(0, "storage"),
    ...slots(spec.slots, "read-only-storage"),
  ];
}

/** How many tensors in buffers of their own one dispatch can take. */
export function slotLimit(device: GPUDevice, shape: KernelShape): number {
  // Beside uniforms and the slots themselves.
  const taken = kernelBindings(shape).length - 1 - 2 * shape.spec.slots;
  const { maxStorageBuffersPerShaderStage: most } = device.limits;
  return Math.max(1, Math.min(7, Math.floor((most - taken) / 2)));
}

export async function createKernel(
  device: GPUDevice,
  spec: KernelSpec,
): Promise<Kernel> {
  const shape = kernelShape(spec);
  const layout = bindGroupLayout(device, kernelBindings(shape));
  const whole = shape.quantized.some(({ format }) => format.scale === "tensor");
  const label = `lowbit ${spec.program.owner}`;
  const [update, measure, ...passes] = await Promise.all([
    compile(device, kernelCode(spec), layout, label),
    whole
      ? compile(
          device,
          kernelCode({ ...spec, mode: "measure" }),
          layout,
          `${label} scales`,
        )
      : undefined,
    ...shape.passes.map((_, pass) =>
      compile(
        device,
        passKernelCode(shape, pass),
        layout,
        `${label} pass ${pass + 1}`,
      ),
    ),
  ]);
  let tables: GPUBuffer | undefined;
  if (shape.quantized.length > 0) {
    const { STORAGE, COPY_DST } = GPUBufferUsage;
    tables = device.createBuffer({
      label: `${label} tables`,
      size: shape.tables.byteLength,
      usage: STORAGE | COPY_DST,
    });
    device.queue.writeBuffer(tables, 0, shape.tables);
  }
  return {
    shape,
    layout,
    tables,
    jobBytes: jobBytes(shape),
    update: update!,
    measure,
    passes: passes.map((pass) => pass!),
  };
}
