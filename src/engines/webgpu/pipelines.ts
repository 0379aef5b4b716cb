/** Compiled kernels of a device; kept as long as the device, since compiling takes longer than steps. */
import { firstSlotBinding, smallBinding } from "./operands.ts";
import { kernelCode, passKernelCode } from "./frame.ts";
import {
  jobBytes,
  kernelShape,
  type KernelShape,
  type KernelSpec,
} from "./kernel.ts";

/** A pipeline, compiled in the background when somebody waits for it, else at its first use. */
export class Pipeline {
  readonly #device: GPUDevice;
  readonly #descriptor: GPUComputePipelineDescriptor;
  #compiling: Promise<void> | undefined;
  #compiled: GPUComputePipeline | undefined;

  constructor(device: GPUDevice, descriptor: GPUComputePipelineDescriptor) {
    this.#device = device;
    this.#descriptor = descriptor;
  }

  /** Resolves when the pipeline can be used without a wait. What failed may be tried again. */
  ready(): Promise<void> {
    this.#compiling ??= this.#compile();
    return this.#compiling;
  }

  async #compile(): Promise<void> {
    if (this.#compiled) return;
    try {
      this.#compiled = await this.#device.createComputePipelineAsync(
        this.#descriptor,
      );
    } catch (error) {
      this.#compiling = undefined;
      throw error;
    }
  }

  get(): GPUComputePipeline {
    this.#compiled ??= this.#device.createComputePipeline(this.#descriptor);
    return this.#compiled;
  }
}

/** A kernel that a dispatch can use. */
export interface Kernel {
  readonly shape: KernelShape;
  readonly layout: GPUBindGroupLayout;
  /** Of the passes, if there are any. */
  readonly passLayout: GPUBindGroupLayout | undefined;
  readonly tables: GPUBuffer | undefined;
  readonly jobBytes: number;
  readonly update: Pipeline;
  /** Where a scale of the whole tensor must be found first. */
  readonly measure: Pipeline | undefined;
  /** What reductions and rank-1 scales need to know first. */
  readonly passes: readonly Pipeline[];
}

/** By text, so that equal kernels of several optimizers are one. */
const byDevice = new WeakMap<GPUDevice, Map<string, Pipeline>>();

export function pipeline(
  device: GPUDevice,
  code: string,
  layout: GPUBindGroupLayout,
  label: string,
): Pipeline {
  let known = byDevice.get(device);
  if (!known) byDevice.set(device, (known = new Map()));
  let one = known.get(code);
  if (!one) {
    one = new Pipeline(device, {
      label,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: {
        module: device.createShaderModule({ label, code }),
        entryPoint: "main",
      },
    });
    known.set(code, one);
  }
  return one;
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

/**
 * What an update is bound to, or a pass before it: that writes nothing but what
 * is not per element, which the update only reads. Compilers make more of reads
 * when nobody writes.
 */
export function kernelBindings(
  shape: KernelShape,
  use: "update" | "pass" = "update",
): Entry[] {
  const { spec, quantized, halves, floats, small } = shape;
  const written = use === "update" ? "storage" : "read-only-storage";
  const measured = use === "update" ? "read-only-storage" : "storage";
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
      ? [{ binding: 3, type: written } as const]
      : []),
    { binding: 2, type: written },
    ...(floats.length > 0 ? [{ binding: 4, type: written } as const] : []),
    ...(small ? [{ binding: smallBinding, type: measured } as const] : []),
    ...slots(0, written),
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

export function createKernel(device: GPUDevice, spec: KernelSpec): Kernel {
  const shape = kernelShape(spec);
  const layout = bindGroupLayout(device, kernelBindings(shape));
  const passLayout =
    shape.passes.length > 0
      ? bindGroupLayout(device, kernelBindings(shape, "pass"))
      : undefined;
  const whole = shape.quantized.some(({ format }) => format.scale === "tensor");
  const label = `lowbit ${spec.program.owner}`;
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
    passLayout,
    tables,
    jobBytes: jobBytes(shape),
    update: pipeline(device, kernelCode(spec), layout, label),
    measure: whole
      ? pipeline(
          device,
          kernelCode({ ...spec, mode: "measure" }),
          layout,
          `${label} scales`,
        )
      : undefined,
    passes: shape.passes.map((_, pass) =>
      pipeline(
        device,
        passKernelCode(shape, pass),
        passLayout!,
        `${label} pass ${pass + 1}`,
      ),
    ),
  };
}

/** Every pipeline of a kernel. */
export const pipelinesOf = ({
  update,
  measure,
  passes,
}: Kernel): Pipeline[] => [update, ...(measure ? [measure] : []), ...passes];
