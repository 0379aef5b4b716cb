import { alignUp } from "./buffers.ts";
import type { ElementType } from "./kernel.ts";
import {
  decideCode,
  firstGradientBinding,
  normBytes,
  normCode,
  normFields,
  normSpan,
  type NormSpec,
} from "./norm.ts";
import { elementBytes } from "./operands.ts";
import { bindGroupLayout, pipeline, type Pipeline } from "./pipelines.ts";
import { alignDown, pack, type Range } from "./plan.ts";

interface Gradient {
  readonly range: Range;
  readonly type: ElementType;
  readonly length: number;
}

interface Decision {
  readonly clip: boolean;
  readonly skip: boolean;
  readonly maxNorm: number;
}

/** Gradients in a job, whatever buffers they lie in. */
const segments = 64;

type Record = (pass: GPUComputePassEncoder) => void;

/** Encodes the kernels of norm.ts before a step. */
export class NormPass {
  readonly #device: GPUDevice;
  readonly #report: GPUBuffer;
  readonly #decide: Pipeline;
  readonly #decideLayout: GPUBindGroupLayout;
  readonly #decision: GPUBuffer;
  #gradientLayout: GPUBindGroupLayout | undefined;
  #jobs: GPUBuffer | undefined;
  #partials: GPUBuffer | undefined;
  #plan:
    { key: readonly Gradient[]; record: Record; partials: number } | undefined;

  constructor(device: GPUDevice, report: GPUBuffer) {
    this.#device = device;
    this.#report = report;
    this.#decideLayout = bindGroupLayout(device, [
      { binding: 0, type: "uniform" },
      { binding: 1, type: "storage" },
      { binding: 2, type: "storage" },
    ]);
    this.#decide = pipeline(
      device,
      decideCode,
      this.#decideLayout,
      "lowbit decide",
    );
    this.#decision = device.createBuffer({
      label: "lowbit decision",
      size: 16,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
  }

  /** What steps with gradients of these types will use. */
  pipelines(types: Iterable<ElementType>): Pipeline[] {
    return [
      this.#decide,
      ...[...new Set(types)].map((type) => this.#pipeline(type)),
    ];
  }

  get bytes(): number {
    return (
      this.#decision.size +
      (this.#jobs?.size ?? 0) +
      (this.#partials?.size ?? 0)
    );
  }

  /** What to record for these gradients; kept while they stay the same. */
  plan(
    gradients: readonly Gradient[],
    { clip, skip, maxNorm }: Decision,
  ): Record {
    if (!this.#plan || !same(this.#plan.key, gradients))
      this.#plan = this.#make(gradients);
    const data = new ArrayBuffer(16);
    new Uint32Array(data).set([
      this.#plan.partials,
      0,
      clip ? 1 : 0,
      skip ? 1 : 0,
    ]);
    new Float32Array(data)[1] = maxNorm;
    this.#device.queue.writeBuffer(this.#decision, 0, data);
    return this.#plan.record;
  }

  /** Gradients that one dispatch can take. */
  get #slots(): number {
    const { maxStorageBuffersPerShaderStage } = this.#device.limits;
    return Math.max(1, Math.min(7, maxStorageBuffersPerShaderStage - 1));
  }

  get #layout(): GPUBindGroupLayout {
    return (this.#gradientLayout ??= bindGroupLayout(this.#device, [
      { binding: 0, type: "uniform" },
      { binding: 2, type: "storage" },
      ...Array.from({ length: this.#slots }, (_, slot) => ({
        binding: firstGradientBinding + slot,
        type: "read-only-storage" as const,
      })),
    ]));
  }

  #pipeline(gradientType: ElementType): Pipeline {
    return pipeline(
      this.#device,
      normCode({ gradientType, slots: this.#slots, segments }),
      this.#layout,
      "lowbit norm",
    );
  }

  #make(gradients: readonly Gradient[]) {
    const device = this.#device;
    const slots = this.#slots;
    const types = [...new Set(gradients.map(({ type }) => type))];
    const batches = types.flatMap((type) =>
      pack(
        gradients
          .filter((one) => one.type === type)
          .map(({ range, length }) => ({
            piece: {
              tensor: 0,
              start: 0,
              length,
              codesChunk: -1,
              floatsChunk: -1,
            },
            p: range,
            g: range,
          })),
        {
          slots,
          segments,
          bindingBytes: device.limits.maxStorageBufferBindingSize,
          elements: Infinity,
        },
      ).map((batch) => ({ type, batch })),
    );
    const stride = alignUp(normBytes({ segments } as NormSpec));
    const pipelines = new Map(
      types.map((type) => [type, this.#pipeline(type)] as const),
    );
    const data = new Uint32Array((stride / 4) * Math.max(1, batches.length));
    let partials = 0;
    const groups = batches.map(({ batch, type }, i) => {
      let spans = 0;
      const firstPartial = partials;
      batch.segments.forEach(({ gSlot, g, piece }, k) => {
        const at = (g.start - batch.g[gSlot]!.start) / elementBytes(type);
        data.set(
          [spans, piece.length, gSlot, at],
          (stride / 4) * i + 4 + normFields.length * k,
        );
        spans += Math.ceil(piece.length / normSpan);
      });
      data.set(
        [spans, batch.segments.length, firstPartial, 0],
        (stride / 4) * i,
      );
      partials += spans;
      const most = device.limits.maxComputeWorkgroupsPerDimension;
      const rows = Math.ceil(spans / most);
      return [Math.ceil(spans / rows), rows] as const;
    });
    this.#reserve(data.byteLength, alignUp(16 * Math.max(1, partials)));
    device.queue.writeBuffer(this.#jobs!, 0, data);
    const bound = batches.map(({ batch }, i) =>
      device.createBindGroup({
        layout: this.#layout,
        entries: [
          {
            binding: 0,
            resource: { buffer: this.#jobs!, offset: stride * i, size: stride },
          },
          { binding: 2, resource: { buffer: this.#partials! } },
          // Reading the same buffer twice is allowed: the first fills up the rest.
          ...Array.from({ length: slots }, (_, slot) => {
            const { buffer, start, end } = batch.g[slot] ?? batch.g[0]!;
            return {
              binding: firstGradientBinding + slot,
              resource: { buffer, offset: alignDown(start), size: end - start },
            };
          }),
        ],
      }),
    );
    const decide = device.createBindGroup({
      layout: this.#decideLayout,
      entries: [this.#decision, this.#report, this.#partials!].map(
        (buffer, binding) => ({ binding, resource: { buffer } }),
      ),
    });
    const record: Record = (pass) => {
      batches.forEach(({ type }, i) => {
        pass.setPipeline(pipelines.get(type)!.get());
        pass.setBindGroup(0, bound[i]!);
        pass.dispatchWorkgroups(...groups[i]!);
      });
      pass.setPipeline(this.#decide.get());
      pass.setBindGroup(0, decide);
      pass.dispatchWorkgroups(1);
    };
    return { key: gradients, record, partials };
  }

  #reserve(jobBytes: number, partialBytes: number): void {
    const { UNIFORM, STORAGE, COPY_DST } = GPUBufferUsage;
    const grown = (
      old: GPUBuffer | undefined,
      size: number,
      usage: number,
      label: string,
    ) => {
      if (old && old.size >= size) return old;
      old?.destroy();
      return this.#device.createBuffer({ label, size, usage });
    };
    this.#jobs = grown(
      this.#jobs,
      jobBytes,
      UNIFORM | COPY_DST,
      "lowbit norm jobs",
    );
    this.#partials = grown(
      this.#partials,
      partialBytes,
      STORAGE,
      "lowbit partial sums",
    );
  }

  dispose(): void {
    this.#decision.destroy();
    this.#jobs?.destroy();
    this.#partials?.destroy();
  }
}

const same = (a: readonly Gradient[], b: readonly Gradient[]): boolean =>
  a.length === b.length &&
  a.every(({ range, type, length }, i) => {
    const other = b[i]!;
    return (
      range.buffer === other.range.buffer &&
      range.start === other.range.start &&
      type === other.type &&
      length === other.length
    );
  });
