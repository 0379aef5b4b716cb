/**
 * The dispatches of a step: bind groups, and the list of jobs that tells a
 * kernel where its tensors lie. Made anew only when tensors or buffers change.
 */
import { mix } from "../../formats/random.ts";
import type { StepInput } from "../engine.ts";
import { alignment, alignUp } from "./buffers.ts";
import {
  floorField,
  isStochasticHalf,
  jobHeader,
  tileElements,
  type KernelShape,
} from "./kernel.ts";
import type { PlacedPiece } from "./layout.ts";
import type { Memory, Tensor } from "./memory.ts";
import {
  elementBytes,
  elementsOf,
  firstSlotBinding,
  smallBinding,
} from "./operands.ts";
import type { Kernel } from "./pipelines.ts";
import type { Batch, Binding, Range, Segment } from "./plan.ts";
import { smallFields } from "./small.ts";
import { tilesFor } from "./tuning.ts";

export interface Dispatch extends Bound, BindGroups {
  readonly kernel: Kernel;
  readonly pieces: readonly PlacedPiece[];
  readonly groups: [number, number];
  /** Of a pass before the update. */
  readonly tiles: [number, number];
  /** Byte offset of its job in the jobs. */
  readonly job: number;
  /** Bind groups made before, if it has one tensor. */
  readonly known: KnownBindGroups | undefined;
}

/** Of the update, and of the passes before it, if there are any. */
interface BindGroups {
  readonly bindGroup: GPUBindGroup;
  readonly passBindGroup: GPUBindGroup | undefined;
}

/**
 * By parameter and gradient: a host's pool gives the same few buffers again and
 * again. Weakly, since it is not for us to keep them.
 */
class KnownBindGroups {
  readonly #of = new WeakMap<GPUBuffer, WeakMap<GPUBuffer, BindGroups>>();

  get(p: GPUBuffer, g: GPUBuffer, make: () => BindGroups): BindGroups {
    let ofParameter = this.#of.get(p);
    if (!ofParameter) this.#of.set(p, (ofParameter = new WeakMap()));
    let one = ofParameter.get(g);
    if (!one) ofParameter.set(g, (one = make()));
    return one;
  }
}

/** What is bound for parameters and for gradients, by slot. */
type Bound = Pick<Batch<PlacedPiece>, "p" | "g">;

/** A kernel and what it takes, before there is a bind group. */
export interface DispatchDraft {
  readonly kernel: Kernel;
  readonly batch: Batch<PlacedPiece>;
}

/** Makes dispatches and keeps the buffer of their jobs. */
export class Dispatches {
  readonly #device: GPUDevice;
  readonly #memory: Memory;
  readonly #mostTiles: number | undefined;
  #jobs: GPUBuffer | undefined;
  #data = new ArrayBuffer(0);
  #used = 0;
  readonly #spare: [GPUBuffer?, GPUBuffer?] = [];

  /** @param mostTiles that a workgroup takes in turn. */
  constructor(
    device: GPUDevice,
    memory: Memory,
    mostTiles: number | undefined,
  ) {
    this.#device = device;
    this.#memory = memory;
    this.#mostTiles = mostTiles;
  }

  get bytes(): number {
    return [this.#jobs, ...this.#spare].reduce(
      (sum, buffer) => sum + (buffer?.size ?? 0),
      0,
    );
  }

  /** The dispatches for these drafts; those made before are no longer valid. */
  make(drafts: readonly DispatchDraft[]): Dispatch[] {
    let end = 0;
    let bytes = 0;
    const jobs = drafts.map(({ kernel, batch }) => {
      const job = end;
      const { fields } = kernel.shape;
      end = alignUp(
        job + jobHeader + 4 * fields.length * batch.segments.length,
      );
      // A binding has the size of the whole list; the unused end may lie over the next job.
      bytes = Math.max(bytes, job + kernel.jobBytes, end);
      return job;
    });
    this.#reserve(alignUp(bytes));
    this.#used = bytes;
    return drafts.map((draft, i) => this.#make(draft, jobs[i]!));
  }

  /** The same dispatches over other buffers; those given are no longer needed. */
  move(
    dispatches: readonly Dispatch[],
    moved: ReadonlyMap<GPUBuffer, GPUBuffer>,
  ): Dispatch[] {
    const move = (bindings: readonly Binding[]) =>
      bindings.map((one) => ({ ...one, buffer: moved.get(one.buffer)! }));
    return dispatches.map((one) => {
      const bound = { p: move(one.p), g: move(one.g) };
      const { kernel, pieces, job, known } = one;
      const make = () => this.#bindGroups(kernel, pieces[0]!, bound, job);
      const [p, g] = [bound.p[0]!.buffer, bound.g[0]!.buffer];
      const bindGroups = known ? known.get(p, g, make) : make();
      return { ...one, ...bound, ...bindGroups };
    });
  }

  #reserve(bytes: number): void {
    if (this.#data.byteLength >= bytes) return;
    this.#jobs?.destroy();
    this.#data = new ArrayBuffer(bytes);
    this.#jobs = this.#device.createBuffer({
      label: "lowbit jobs",
      size: bytes,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
  }

  #make({ kernel, batch }: DispatchDraft, job: number): Dispatch {
    const { tensors } = this.#memory;
    checkAliases(batch, tensors);
    const { shape } = kernel;
    const tiles = this.#tilesFor(shape, batch);
    const words = new Uint32Array(this.#data, job);
    let spans = 0;
    let allTiles = 0;
    batch.segments.forEach((segment, i) => {
      const values = segmentValues(shape, batch, segment, tensors);
      values["first_span"] = spans;
      values["first_tile"] = allTiles;
      values["spans"] = Math.ceil(
        segment.piece.length / (tileElements(shape) * tiles),
      );
      spans += values["spans"];
      allTiles += values["tile_count"] ?? 0;
      const first = jobHeader / 4 + i * shape.fields.length;
      shape.fields.forEach((field, f) => {
        words[first + f] = values[field] ?? 0;
      });
    });
    words.set([spans, batch.segments.length, tiles, 0]);
    const { segments, p, g } = batch;
    const pieces = segments.map(({ piece }) => piece);
    return {
      kernel,
      pieces,
      p,
      g,
      job,
      known: p.length + g.length === 2 ? new KnownBindGroups() : undefined,
      groups: workgroups(spans, this.#device),
      tiles: workgroups(Math.max(1, allTiles), this.#device),
      ...this.#bindGroups(kernel, pieces[0]!, { p, g }, job),
    };
  }

  /** Tiles that a workgroup takes in turn. */
  #tilesFor(shape: KernelShape, { segments }: Batch<PlacedPiece>): number {
    const tile = tileElements(shape);
    const total = segments.reduce(
      (sum, { piece }) => sum + Math.ceil(piece.length / tile),
      0,
    );
    const most = this.#mostTiles ?? tilesFor(shape);
    // Enough workgroups to keep a large GPU busy to the end come first.
    // Without tables to load there is nothing to gain by more tiles.
    return shape.quantized.length > 0
      ? Math.max(1, Math.min(most, Math.floor(total / 4096)))
      : 1;
  }

  #bindGroups(
    kernel: Kernel,
    piece: PlacedPiece,
    bound: Bound,
    job: number,
  ): BindGroups {
    const make = (layout: GPUBindGroupLayout) =>
      this.#bindGroup(kernel, layout, piece, bound, job);
    return {
      bindGroup: make(kernel.layout),
      passBindGroup: kernel.passLayout && make(kernel.passLayout),
    };
  }

  #bindGroup(
    { shape, tables, jobBytes }: Kernel,
    layout: GPUBindGroupLayout,
    { codesChunk, floatsChunk, smallChunk }: PlacedPiece,
    { p, g }: Bound,
    job: number,
  ): GPUBindGroup {
    const { codes, floats, smalls, report } = this.#memory;
    const { slots } = shape.spec;
    const bound: [number, GPUBufferBinding][] = [
      [0, { buffer: this.#jobs!, offset: job, size: jobBytes }],
      [2, { buffer: report }],
    ];
    if (tables) bound.push([1, { buffer: tables }]);
    if (codesChunk >= 0) bound.push([3, { buffer: codes.buffer(codesChunk) }]);
    if (shape.floats.length > 0)
      bound.push([4, { buffer: floats.buffer(floatsChunk) }]);
    if (shape.small)
      bound.push([smallBinding, { buffer: smalls.buffer(smallChunk!) }]);
    for (let slot = 0; slot < slots; slot++) {
      const at = firstSlotBinding + slot;
      bound.push([at, this.#slot(p, slot, 0)]);
      bound.push([at + slots, this.#slot(g, slot, 1)]);
    }
    return this.#device.createBindGroup({
      layout,
      entries: bound.map(([binding, resource]) => ({ binding, resource })),
    });
  }

  #slot(
    bindings: readonly Binding[],
    slot: number,
    use: 0 | 1,
  ): GPUBufferBinding {
    const bound = bindings[slot];
    if (!bound) return this.#unused(slot, use);
    const { buffer, start, end } = bound;
    return { buffer, offset: start, size: end - start };
  }

  /**
   * Something to bind where a batch has fewer tensors than the kernel has
   * slots. A dispatch either writes or reads a buffer, so there are two.
   */
  #unused(slot: number, use: 0 | 1): GPUBufferBinding {
    const buffer = (this.#spare[use] ??= this.#device.createBuffer({
      label: "lowbit unused bindings",
      size: alignment * 8,
      usage: GPUBufferUsage.STORAGE,
    }));
    return { buffer, offset: alignment * slot, size: alignment };
  }

  /**
   * Writes what changes from step to step: the formula's uniforms, keys, and
   * turns.
   *
   * @param turns which of three words holds the scales of whole tensors, by tensor.
   */
  fill(
    dispatches: readonly Dispatch[],
    { tensors }: StepInput,
    turns: readonly number[],
  ): void {
    const words = new Uint32Array(this.#data);
    const floats = new Float32Array(this.#data);
    for (const { kernel, pieces, job } of dispatches) {
      const { fields, quantized, halves, spec } = kernel.shape;
      const at = (name: string) => fields.indexOf(name);
      const u0 = at("u0");
      pieces.forEach((piece, i) => {
        const base = (job + jobHeader) / 4 + i * fields.length;
        const { uniforms, keys, floors } = tensors[piece.tensor]!;
        if (uniforms.length > 0) floats.set(uniforms, base + u0);
        if (spec.parameterRounding === "stochastic")
          words[base + at("p_key")] = mix((keys[0] ?? 0) ^ 0x9e3779b9);
        for (const { name, index, format } of halves)
          if (isStochasticHalf(format))
            words[base + at(`${name}_key`)] = keys[index]!;
        const turn = turns[piece.tensor]!;
        for (const { name, index, gapsAt, nextMarksAt } of quantized) {
          if (gapsAt !== undefined)
            words[base + at(`${name}_key`)] = keys[index]!;
          if (nextMarksAt !== undefined)
            floats[base + at(floorField(name))] = floors?.[index] ?? 0;
          const peak = this.#memory.tensors[piece.tensor]!.peaks[index];
          if (peak === undefined) continue;
          words[base + at(`${name}_peak`)] = peak + turn;
          words[base + at(`${name}_next`)] = peak + ((turn + 1) % 3);
          words[base + at(`${name}_spare`)] = peak + ((turn + 2) % 3);
        }
      });
    }
    if (this.#used > 0)
      this.#device.queue.writeBuffer(this.#jobs!, 0, this.#data, 0, this.#used);
  }

  dispose(): void {
    for (const buffer of [this.#jobs, ...this.#spare]) buffer?.destroy();
  }
}

/** A segment's fields that stay the same from step to step. */
function segmentValues(
  { spec }: KernelShape,
  batch: Batch<PlacedPiece>,
  { piece, p, g, pSlot, gSlot }: Segment<PlacedPiece>,
  tensors: readonly Tensor[],
): Record<string, number> {
  const { plan, pieces, small } = tensors[piece.tensor]!;
  const each = elementsOf(spec);
  const at = (range: Range, binding: Binding | undefined, bytes: number) =>
    (range.start - binding!.start) / bytes / each;
  const values: Record<string, number> = {
    length: piece.length,
    index: piece.start,
    p_slot: pSlot,
    g_slot: gSlot,
    p_at: at(p, batch.p[pSlot], elementBytes(spec.parameterType)),
    g_at: at(g, batch.g[gSlot], elementBytes(spec.gradientType)),
  };
  piece.states.forEach((place, s) => {
    const name = plan.program.states[s]!;
    if (place.kind === "float") values[`${name}_at`] = place.at.offset / 16;
    else if (place.kind === "half") values[`${name}_at`] = place.at.offset / 4;
    else if (place.kind === "quantized") {
      values[`${name}_at`] = place.codes.offset / 4;
      if (place.scales) values[`${name}_scales`] = place.scales.offset / 4;
    }
  });
  if (small)
    Object.assign(
      values,
      smallFields(small, plan, piece, pieces.indexOf(piece)),
    );
  return values;
}

/** More than 65,535 workgroups take a second dimension. */
function workgroups(spans: number, device: GPUDevice): [number, number] {
  const most = device.limits.maxComputeWorkgroupsPerDimension;
  const rows = Math.ceil(spans / most);
  return [Math.ceil(spans / rows), rows];
}

/** WebGPU forbids to read and write the same buffer in one dispatch, even at other places. */
function checkAliases(
  { segments, p, g }: Batch<PlacedPiece>,
  tensors: readonly Tensor[],
): void {
  for (const { buffer } of g)
    if (p.some((one) => one.buffer === buffer)) {
      const { piece } = segments.find((one) => one.g.buffer === buffer)!;
      throw new TypeError(
        `webgpu: the gradient of '${tensors[piece.tensor]!.plan.name}' lies in a buffer that also holds a parameter; WebGPU cannot read and write one buffer in a dispatch, so keep gradients in buffers of their own`,
      );
    }
}
