import { fromBfloat16, toBfloat16 } from "../../formats/bfloat16.ts";
import { stateBytes, zeroCode } from "../../formats/format.ts";
import { codeBytes, storedBits } from "../../formats/pack.ts";
import { mix } from "../../formats/random.ts";
import { leadingSpread } from "../../formats/rank1.ts";
import type { Program } from "../../formula/program.ts";
import type {
  EngineOptions,
  Session,
  StepInput,
  StepReport,
  StepTensor,
  StoredState,
  TensorPlan,
} from "../engine.ts";
import { stateLength } from "../engine.ts";
import {
  alignment,
  alignUp,
  Arena,
  resolveView,
  type BufferView,
  type Place,
} from "./buffers.ts";
import { fillCodes } from "./fill.ts";
import { reportHeader, reportWords } from "./frame.ts";
import {
  isStochasticHalf,
  jobHeader,
  kernelShape,
  tileElements,
  type KernelSpec,
} from "./kernel.ts";
import { placeTensor, type PlacedPiece } from "./layout.ts";
import { NormPass } from "./norm-pass.ts";
import { elementBytes, firstSlotBinding, smallBinding } from "./operands.ts";
import { createKernel, slotLimit, type Kernel } from "./pipelines.ts";
import { pack, rangeOf, type Batch, type Range } from "./plan.ts";
import { passWorkgroup } from "./reduce.ts";
import {
  isRank1,
  lowestBits,
  placeSmall,
  smallFields,
  type SmallPlaces,
} from "./small.ts";
import { SmallSteps, type SmallTensor } from "./small-steps.ts";

/** How a session runs on its device; the defaults are what was measured best. */
export interface Tuning {
  /** One invocation a block, without barriers. Default: on software drivers. */
  readonly solo?: boolean;
  /** Invocations of a workgroup. Default 256, 128 for narrow codes. */
  readonly workgroup?: number;
  /** Fewest fours of elements that an invocation takes at a time. Default 1. */
  readonly quads?: number;
  /** Most tiles that a workgroup takes in turn. Default 8. */
  readonly tiles?: number;
  /** Most tensors in buffers of their own that share a dispatch. */
  readonly slots?: number;
  /** Tensors of more elements have a dispatch of their own. */
  readonly alone?: number;
  /** Most bytes of a binding; larger tensors are cut. Default: the device's limit. */
  readonly binding?: number;
}

type Defaults = Required<Omit<Tuning, "workgroup">> & {
  readonly workgroup: number | undefined;
};

interface Tensor {
  readonly plan: TensorPlan;
  readonly key: string;
  readonly pieces: readonly PlacedPiece[];
  /** Where the parameter is read and written. */
  readonly parameter: Required<BufferView>;
  /** The caller's own array: uploaded before a step and written back after. */
  readonly array: Float32Array | undefined;
  /** Memory of ours for the gradient. */
  readonly gradient: Required<BufferView> | undefined;
  /** First word of each state's scales in the report buffer, with one scale a tensor. */
  readonly peaks: readonly (number | undefined)[];
  /** Where lies what is not per element. */
  readonly small: SmallPlaces | undefined;
}

interface Dispatch {
  readonly kernel: Kernel;
  readonly batch: Batch<PlacedPiece>;
  readonly bindGroup: GPUBindGroup;
  readonly groups: [number, number];
  /** Of a pass before the update. */
  readonly tiles: [number, number];
  /** Byte offset of its job in the jobs. */
  readonly job: number;
}

interface Plan {
  readonly gradients: readonly (Required<BufferView> | undefined)[];
  readonly dispatches: readonly Dispatch[];
  readonly jobBytes: number;
}

const programIds = new WeakMap<Program, number>();
let lastProgram = 0;

/** States and steps on a WebGPU device. */
export class WebGPUSession implements Session {
  readonly description: string;
  readonly #device: GPUDevice;
  readonly #options: EngineOptions;
  readonly #tuning: Defaults;
  readonly #lost: () => void;
  #tensors: Tensor[] = [];
  #codes: Arena;
  #floats: Arena;
  #smalls: Arena;
  #parameters: Arena;
  #gradients: Arena;
  #report!: GPUBuffer;
  #reportBytes = 0;
  #reportRead: GPUBuffer | undefined;
  #reading: Promise<unknown> = Promise.resolve();
  #jobs: GPUBuffer | undefined;
  #jobData = new ArrayBuffer(0);
  #staging: GPUBuffer | undefined;
  #kernels = new Map<string, Promise<Kernel>>();
  #ready = new Map<string, Kernel>();
  #plan: Plan | undefined;
  readonly #spare: [GPUBuffer?, GPUBuffer?] = [];
  #norm: NormPass | undefined;
  #small: SmallSteps | undefined;
  /** Which of three words holds the scales of whole tensors, by tensor. */
  #turns: number[] = [];
  #disposed = false;

  private constructor(
    device: GPUDevice,
    options: EngineOptions,
    tuning: Tuning,
    description: string,
    lost: () => void,
  ) {
    this.#device = device;
    this.#options = options;
    this.description = description;
    this.#lost = lost;
    const solo = tuning.solo ?? false;
    this.#tuning = {
      solo,
      workgroup: tuning.workgroup,
      quads: tuning.quads ?? 1,
      tiles: tuning.tiles ?? 8,
      slots: tuning.slots ?? Infinity,
      alone: tuning.alone ?? 2 ** 24,
      binding: tuning.binding ?? device.limits.maxStorageBufferBindingSize,
    };
    const { maxBufferSize } = device.limits;
    const limit = Math.min(maxBufferSize, this.#tuning.binding);
    this.#codes = new Arena(limit);
    this.#floats = new Arena(limit);
    this.#smalls = new Arena(limit);
    this.#parameters = new Arena(maxBufferSize);
    this.#gradients = new Arena(maxBufferSize);
  }

  /** @param lost throws when the device is gone. */
  static async create(
    device: GPUDevice,
    plans: readonly TensorPlan[],
    options: EngineOptions,
    tuning: Tuning,
    description: string,
    lost: () => void,
  ): Promise<WebGPUSession> {
    const session = new WebGPUSession(
      device,
      options,
      tuning,
      description,
      lost,
    );
    try {
      await session.#allocate(plans);
      await session.#prepare();
    } catch (error) {
      session.dispose();
      lost();
      throw error;
    }
    return session;
  }

  async #allocate(plans: readonly TensorPlan[]): Promise<void> {
    const device = this.#device;
    const { resident } = this.#options;
    let peaks = reportHeader;
    type Draft = Omit<Tensor, "parameter" | "gradient"> & {
      given: Required<BufferView> | undefined;
      own: Place | undefined;
      ownGradient: Place | undefined;
    };
    const drafts = plans.map((plan, index): Draft => {
      const { size, parameter, program, formats } = plan;
      const array = parameter instanceof Float32Array ? parameter : undefined;
      const view =
        parameter === undefined || array
          ? undefined
          : resolveView(parameter, size, `parameter '${plan.name}'`);
      const own = resident || !view;
      const pieces = placeTensor(
        plan,
        index,
        this.#codes,
        this.#floats,
        this.#tuning.binding,
      );
      const small = placeSmall(
        plan,
        passWorkgroup(this.#tuning.solo),
        pieces.length,
        this.#smalls,
      );
      return {
        plan,
        key: `${programId(program)} ${formats.map(formatKey).join(" ")}`,
        pieces: pieces.map((piece) => ({ ...piece, smallChunk: small?.chunk })),
        small,
        given: view,
        own: own ? this.#parameters.place(Math.max(4, 4 * size)) : undefined,
        ownGradient:
          resident || !view
            ? this.#gradients.place(Math.max(4, 4 * size))
            : undefined,
        array,
        peaks: formats.map((format) => {
          if (format.kind === "float" || format.scale !== "tensor")
            return undefined;
          return (peaks += 3) - 3;
        }),
      };
    });
    this.#reportBytes = 4 * peaks;
    await this.#scoped("the states", () => {
      this.#codes.create(device, "lowbit codes");
      this.#floats.create(device, "lowbit float32 states");
      this.#smalls.create(device, "lowbit rows and columns");
      this.#parameters.create(device, "lowbit parameters");
      this.#gradients.create(device, "lowbit gradients");
      const { STORAGE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
      this.#report = device.createBuffer({
        label: "lowbit report",
        size: alignUp(this.#reportBytes),
        usage: STORAGE | COPY_SRC | COPY_DST,
      });
      this.#reportRead = device.createBuffer({
        label: "lowbit report, read",
        size: 4 * reportHeader,
        usage: COPY_DST | MAP_READ,
      });
      const written = resident
        ? 0
        : drafts.reduce(
            (sum, { array, plan }) => sum + (array ? 4 * plan.size : 0),
            0,
          );
      if (written > 0)
        this.#staging = device.createBuffer({
          label: "lowbit parameters, read",
          size: written,
          usage: COPY_DST | MAP_READ,
        });
    });
    const view = (arena: Arena, place: Place): Required<BufferView> => ({
      buffer: arena.buffer(place.chunk),
      offset: place.offset,
      type: "float32",
      rounding: "nearest",
    });
    this.#tensors = drafts.map(({ given, own, ownGradient, ...rest }) => ({
      ...rest,
      parameter: own ? view(this.#parameters, own) : given!,
      gradient: ownGradient ? view(this.#gradients, ownGradient) : undefined,
    }));
    this.#turns = this.#tensors.map(() => 0);
    for (const { array, parameter, plan } of this.#tensors)
      if (array)
        device.queue.writeBuffer(
          parameter.buffer,
          parameter.offset,
          array as Float32Array<ArrayBuffer>,
        );
      else if (resident && plan.parameter !== undefined) {
        const from = resolveView(
          plan.parameter,
          plan.size,
          `parameter '${plan.name}'`,
        );
        this.#copyIn(from, parameter, plan);
      }
    this.#fillZeroCodes();
  }

  #copyIn(
    from: Required<BufferView>,
    to: Required<BufferView>,
    plan: TensorPlan,
  ): void {
    if (from.type !== "float32")
      throw new TypeError(
        `webgpu: a resident parameter is float32, '${plan.name}' was given as ${from.type}; leave \`resident\` out to keep it where it is`,
      );
    const encoder = this.#device.createCommandEncoder();
    encoder.copyBufferToBuffer(
      from.buffer,
      from.offset,
      to.buffer,
      to.offset,
      4 * plan.size,
    );
    this.#device.queue.submit([encoder.finish()]);
  }

  /** Runs allocations; what fails leaves nothing behind. @throws RangeError when memory is short. */
  async #scoped(what: string, allocate: () => void): Promise<void> {
    const device = this.#device;
    device.pushErrorScope("validation");
    device.pushErrorScope("out-of-memory");
    let thrown: unknown;
    try {
      allocate();
    } catch (error) {
      thrown = error;
    }
    const memory = await device.popErrorScope();
    const validation = await device.popErrorScope();
    this.#lost();
    const bytes =
      this.#codes.bytes +
      this.#floats.bytes +
      this.#smalls.bytes +
      this.#parameters.bytes +
      this.#gradients.bytes;
    if (memory ?? thrown)
      throw new RangeError(
        `webgpu: no memory for ${what}: ${bytes} bytes were asked for; free other buffers, or store states in fewer bits`,
        { cause: thrown ?? memory },
      );
    if (validation) throw new Error(`webgpu: ${what}: ${validation.message}`);
  }

  /** Codes of 0, so that states read before the first step are the reference's. */
  #fillZeroCodes(): void {
    const regions = this.#tensors.flatMap(({ plan, pieces }) =>
      pieces.flatMap(({ states, length }) =>
        states.flatMap((place, s) => {
          const format = plan.formats[s]!;
          if (place.kind !== "quantized" || format.kind === "float") return [];
          const zero = zeroCode(format);
          if (zero === 0) return [];
          const width = storedBits(format.bits);
          let word = 0;
          for (let i = 0; i < 32; i += width) word |= zero << i;
          return {
            buffer: this.#codes.buffer(place.codes.chunk),
            offset: place.codes.offset,
            words: Math.ceil(codeBytes(format.bits, length) / 4),
            value: word >>> 0,
          };
        }),
      ),
    );
    const maxima = this.#tensors.flatMap(({ small }) =>
      (small?.lowest ?? []).map(({ at, words }) => ({
        buffer: this.#smalls.buffer(small!.chunk),
        offset: 4 * at,
        words,
        value: lowestBits,
      })),
    );
    fillCodes(this.#device, [...regions, ...maxima]);
  }

  /** Compiles what steps will need, as if gradients lay as the parameters do. */
  async #prepare(): Promise<void> {
    const { clip, skip } = this.#options;
    if (clip || skip === "step")
      this.#norm = await NormPass.create(this.#device, this.#report);
    this.#small = await SmallSteps.create(
      this.#device,
      this.#report,
      this.#smalls,
      this.#smallTensors(() => true),
      this.#tuning.solo,
    );
    const work = this.#tensors.flatMap((tensor) =>
      tensor.pieces.length > 0
        ? { tensor, gradient: { ...tensor.parameter } }
        : [],
    );
    await Promise.all(
      this.#batches(work).map(({ key, spec }) => this.#kernel(key, spec)),
    );
    await Promise.all(this.#kernels.values());
  }

  #smallTensors(wanted: (index: number) => boolean): SmallTensor[] {
    return this.#tensors.flatMap(({ key, plan, small: places }, index) =>
      places && wanted(index) ? [{ index, key, plan, places }] : [],
    );
  }

  #kernel(key: string, spec: KernelSpec): Promise<Kernel> {
    let kernel = this.#kernels.get(key);
    if (!kernel) {
      kernel = createKernel(this.#device, spec);
      this.#kernels.set(key, kernel);
      void kernel.then(
        (ready) => this.#ready.set(key, ready),
        () => this.#kernels.delete(key),
      );
    }
    return kernel;
  }

  /** Sorts pieces by the kernel they need and packs each kind into dispatches. */
  #batches(
    work: readonly { tensor: Tensor; gradient: Required<BufferView> }[],
  ): { key: string; spec: KernelSpec; batch: Batch<PlacedPiece> }[] {
    const { skip, clip } = this.#options;
    const { solo, workgroup, quads } = this.#tuning;
    const kinds = new Map<
      string,
      {
        spec: KernelSpec;
        pieces: { piece: PlacedPiece; p: Range; g: Range }[];
      }
    >();
    for (const { tensor, gradient } of work) {
      const { parameter, plan } = tensor;
      for (const piece of tensor.pieces) {
        const p = rangeOf(parameter, piece);
        const g = rangeOf(gradient, piece);
        const aligned =
          piece.length % 4 === 0 &&
          p.start % (4 * elementBytes(parameter.type)) === 0 &&
          g.start % (4 * elementBytes(gradient.type)) === 0;
        const alone = piece.length > this.#tuning.alone;
        const key = [
          tensor.key,
          parameter.type,
          parameter.rounding,
          gradient.type,
          aligned,
          alone,
        ].join(" ");
        let kind = kinds.get(key);
        if (!kind) {
          kind = {
            spec: {
              program: plan.program,
              formats: plan.formats,
              parameterType: parameter.type,
              gradientType: gradient.type,
              parameterRounding: parameter.rounding,
              aligned,
              slots: 1,
              segments: alone ? 1 : 64,
              skip: skip !== "off",
              guarded: clip || skip === "step",
              clip,
              solo,
              workgroup: workgroup ?? (solo ? 64 : workgroupFor(plan.formats)),
              quads,
              mode: "update",
            },
            pieces: [],
          };
          kinds.set(key, kind);
        }
        kind.pieces.push({ piece, p, g });
      }
    }
    return [...kinds].flatMap(([kind, { spec, pieces }]) => {
      const slots = Math.min(
        this.#tuning.slots,
        slotLimit(this.#device, kernelShape(spec)),
      );
      const batches = pack(pieces, {
        slots: spec.segments === 1 ? 1 : slots,
        segments: spec.segments,
        bindingBytes: this.#tuning.binding,
        elements: Infinity,
      });
      // One variant for all batches of a kind: a pipeline takes longer to
      // compile than its unused bindings cost.
      const most = Math.max(
        ...batches.map(({ p, g }) => Math.max(p.length, g.length)),
      );
      const longest = Math.max(
        ...batches.map(({ segments }) => segments.length),
      );
      const own: KernelSpec = {
        ...spec,
        slots: most === 1 ? 1 : slots,
        segments: longest === 1 ? 1 : longest <= 8 ? 8 : 64,
      };
      return batches.map((batch) => ({
        key: `${kind} ${own.slots} ${own.segments}`,
        spec: own,
        batch,
      }));
    });
  }

  async #makePlan(gradients: Plan["gradients"]): Promise<Plan> {
    const work = this.#tensors.flatMap((tensor, i) => {
      const gradient = gradients[i];
      return gradient ? { tensor, gradient } : [];
    });
    let jobEnd = 0;
    let jobBytes = 0;
    const drafts = [];
    for (const { key, spec, batch } of this.#batches(work)) {
      const kernel = this.#ready.get(key) ?? (await this.#kernel(key, spec));
      const job = jobEnd;
      const used =
        jobHeader + 4 * kernel.shape.fields.length * batch.segments.length;
      jobEnd = alignUp(job + used);
      // A binding has the size of the whole list; the unused end may lie over the next job.
      jobBytes = Math.max(jobBytes, job + kernel.jobBytes, jobEnd);
      drafts.push({ kernel, batch, job });
    }
    this.#reserveJobs(alignUp(jobBytes));
    const dispatches = drafts.map((draft) => this.#dispatch(draft));
    this.#small?.plan(this.#smallTensors((i) => gradients[i] !== undefined));
    return { gradients, dispatches, jobBytes };
  }

  #reserveJobs(bytes: number): void {
    if (this.#jobData.byteLength >= bytes) return;
    this.#jobs?.destroy();
    this.#jobData = new ArrayBuffer(bytes);
    this.#jobs = this.#device.createBuffer({
      label: "lowbit jobs",
      size: bytes,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    this.#plan = undefined;
  }

  #dispatch(draft: {
    kernel: Kernel;
    batch: Batch<PlacedPiece>;
    job: number;
  }): Dispatch {
    const { kernel, batch, job } = draft;
    const { shape } = kernel;
    const { slots } = shape.spec;
    checkAliases(batch, this.#tensors);
    const { codesChunk, floatsChunk, smallChunk } = batch.segments[0]!.piece;
    const entries: GPUBindGroupEntry[] = [
      {
        binding: 0,
        resource: { buffer: this.#jobs!, offset: job, size: kernel.jobBytes },
      },
      { binding: 2, resource: { buffer: this.#report } },
    ];
    if (kernel.tables)
      entries.push({ binding: 1, resource: { buffer: kernel.tables } });
    if (codesChunk >= 0)
      entries.push({
        binding: 3,
        resource: { buffer: this.#codes.buffer(codesChunk) },
      });
    if (shape.floats.length > 0)
      entries.push({
        binding: 4,
        resource: { buffer: this.#floats.buffer(floatsChunk) },
      });
    if (shape.small)
      entries.push({
        binding: smallBinding,
        resource: { buffer: this.#smalls.buffer(smallChunk!) },
      });
    for (let slot = 0; slot < slots; slot++)
      for (const [after, bindings] of [
        [0, batch.p],
        [slots, batch.g],
      ] as const) {
        const bound = bindings[slot];
        entries.push({
          binding: firstSlotBinding + after + slot,
          resource: bound
            ? {
                buffer: bound.buffer,
                offset: bound.start,
                size: bound.end - bound.start,
              }
            : this.#unused(slot, after === 0 ? 0 : 1),
        });
      }
    const { tiles: most } = this.#tuning;
    const tile = tileElements(shape);
    const total = batch.segments.reduce(
      (sum, { piece }) => sum + Math.ceil(piece.length / tile),
      0,
    );
    // Enough workgroups to keep a large GPU busy to the end come first.
    // Without tables to load there is nothing to gain by more tiles.
    const tiles =
      shape.quantized.length > 0
        ? Math.max(1, Math.min(most, Math.floor(total / 4096)))
        : 1;
    let spans = 0;
    let allTiles = 0;
    const words = new Uint32Array(this.#jobData, job);
    batch.segments.forEach(({ piece, p, g, pSlot, gSlot }, i) => {
      const { plan, parameter, pieces, small } = this.#tensors[piece.tensor]!;
      const gradientBytes = elementBytes(shape.spec.gradientType);
      const quad = shape.spec.aligned ? 4 : 1;
      const at = (
        range: Range,
        binding: { start: number } | undefined,
        bytes: number,
      ) => (range.start - binding!.start) / bytes / quad;
      const values: Record<string, number> = {
        first_span: spans,
        spans: Math.ceil(piece.length / (tile * tiles)),
        length: piece.length,
        index: piece.start,
        p_slot: pSlot,
        g_slot: gSlot,
        p_at: at(p, batch.p[pSlot], elementBytes(parameter.type)),
        g_at: at(g, batch.g[gSlot], gradientBytes),
      };
      piece.states.forEach((place, s) => {
        const name = plan.program.states[s]!;
        if (place.kind === "float") values[`${name}_at`] = place.at.offset / 16;
        else if (place.kind === "half")
          values[`${name}_at`] = place.at.offset / 4;
        else if (place.kind === "quantized") {
          values[`${name}_at`] = place.codes.offset / 4;
          if (place.scales) values[`${name}_scales`] = place.scales.offset / 4;
        }
      });
      if (small) {
        const part = pieces.indexOf(piece);
        const fields = smallFields(small, plan, piece, part);
        Object.assign(values, fields, { first_tile: allTiles });
        allTiles += fields["tile_count"]!;
      }
      const first = jobHeader / 4 + i * shape.fields.length;
      shape.fields.forEach((field, f) => {
        words[first + f] = values[field] ?? 0;
      });
      spans += Math.ceil(piece.length / (tile * tiles));
    });
    words.set([spans, batch.segments.length, tiles, 0]);
    return {
      kernel,
      batch,
      job,
      groups: workgroups(spans, this.#device),
      tiles: workgroups(Math.max(1, allTiles), this.#device),
      bindGroup: this.#device.createBindGroup({
        layout: kernel.layout,
        entries,
      }),
    };
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

  async step(input: StepInput): Promise<void> {
    this.#check();
    const device = this.#device;
    const gradients = input.tensors.map((given, i) =>
      this.#gradientView(i, given),
    );
    if (!this.#plan || !samePlan(this.#plan.gradients, gradients))
      this.#plan = await this.#makePlan(gradients);
    const plan = this.#plan;
    this.#upload(input, gradients);
    this.#fillJobs(plan, input);
    this.#small?.fill(input);
    if (plan.jobBytes > 0)
      device.queue.writeBuffer(this.#jobs!, 0, this.#jobData, 0, plan.jobBytes);
    device.queue.writeBuffer(this.#report, 0, new Uint32Array(reportHeader));
    const encoder = device.createCommandEncoder({ label: "lowbit step" });
    const norm = this.#norm?.plan(
      this.#tensors.flatMap(({ pieces }, i) =>
        gradients[i]
          ? pieces.map((piece) => ({
              range: rangeOf(gradients[i]!, piece),
              type: gradients[i]!.type,
              length: piece.length,
            }))
          : [],
      ),
      {
        clip: this.#options.clip,
        skip: this.#options.skip === "step",
        maxNorm: input.maxGradNorm ?? 0,
      },
    );
    const pass = encoder.beginComputePass({ label: "lowbit step" });
    if (norm) (await norm)(pass);
    this.#small?.record(pass, 0);
    const passes = Math.max(
      0,
      ...plan.dispatches.map(({ kernel }) => kernel.passes.length),
    );
    for (let number = 0; number < passes; number++) {
      for (const { kernel, bindGroup, tiles } of plan.dispatches)
        if (kernel.passes[number]) {
          pass.setPipeline(kernel.passes[number]);
          pass.setBindGroup(0, bindGroup);
          pass.dispatchWorkgroups(...tiles);
        }
      this.#small!.record(pass, number + 1);
    }
    for (const { kernel, bindGroup, groups } of plan.dispatches)
      if (kernel.measure) {
        pass.setPipeline(kernel.measure);
        pass.setBindGroup(0, bindGroup);
        pass.dispatchWorkgroups(...groups);
      }
    for (const { kernel, bindGroup, groups } of plan.dispatches) {
      pass.setPipeline(kernel.update);
      pass.setBindGroup(0, bindGroup);
      pass.dispatchWorkgroups(...groups);
    }
    this.#small?.finish(pass);
    pass.end();
    const written = this.#copyOut(encoder, gradients);
    device.queue.submit([encoder.finish()]);
    gradients.forEach((gradient, i) => {
      if (gradient) this.#turns[i] = (this.#turns[i]! + 1) % 3;
    });
    if (written) await this.#writeBack(gradients);
  }

  #gradientView(
    index: number,
    given: StepTensor | undefined,
  ): Required<BufferView> | undefined {
    const { plan, gradient, pieces } = this.#tensors[index]!;
    if (!given || given.gradient === null || pieces.length === 0)
      return undefined;
    if (given.gradient === undefined)
      return this.#options.resident ? gradient : undefined;
    if (given.gradient instanceof Float32Array) {
      if (gradient) return gradient;
      throw new TypeError(
        `webgpu: the parameter '${plan.name}' is a GPU buffer, so its gradient must be one, given a Float32Array`,
      );
    }
    return resolveView(
      given.gradient,
      plan.size,
      `the gradient of '${plan.name}'`,
    );
  }

  #upload({ tensors }: StepInput, gradients: Plan["gradients"]): void {
    tensors.forEach((given, i) => {
      const { array, parameter, gradient, plan } = this.#tensors[i]!;
      if (!given || plan.size === 0) return;
      const write = (
        { buffer, offset }: Required<BufferView>,
        data: Float32Array,
      ) =>
        this.#device.queue.writeBuffer(
          buffer,
          offset,
          data as Float32Array<ArrayBuffer>,
        );
      if (given.gradient instanceof Float32Array)
        write(gradient!, given.gradient);
      if (array && !this.#options.resident && gradients[i])
        write(parameter, array);
    });
  }

  /** What changes from step to step: the formula's uniforms, keys, and turns. */
  #fillJobs({ dispatches }: Plan, { tensors }: StepInput): void {
    const words = new Uint32Array(this.#jobData);
    const floats = new Float32Array(this.#jobData);
    for (const { kernel, batch, job } of dispatches) {
      const { fields, quantized, halves, spec } = kernel.shape;
      const at = (name: string) => fields.indexOf(name);
      const u0 = at("u0");
      batch.segments.forEach(({ piece }, i) => {
        const base = (job + jobHeader) / 4 + i * fields.length;
        const { uniforms, keys } = tensors[piece.tensor]!;
        if (uniforms.length > 0) floats.set(uniforms, base + u0);
        if (spec.parameterRounding === "stochastic")
          words[base + at("p_key")] = mix((keys[0] ?? 0) ^ 0x9e3779b9);
        for (const { name, index, format } of halves)
          if (isStochasticHalf(format))
            words[base + at(`${name}_key`)] = keys[index]!;
        const turn = this.#turns[piece.tensor]!;
        for (const { name, index, gapsAt } of quantized) {
          if (gapsAt !== undefined)
            words[base + at(`${name}_key`)] = keys[index]!;
          const peak = this.#tensors[piece.tensor]!.peaks[index];
          if (peak === undefined) continue;
          words[base + at(`${name}_peak`)] = peak + turn;
          words[base + at(`${name}_next`)] = peak + ((turn + 1) % 3);
          words[base + at(`${name}_spare`)] = peak + ((turn + 2) % 3);
        }
      });
    }
  }

  /** Arrays of the caller that the step changed, into staging. */
  #copyOut(encoder: GPUCommandEncoder, gradients: Plan["gradients"]): boolean {
    if (!this.#staging) return false;
    let at = 0;
    let any = false;
    this.#tensors.forEach(({ array, parameter, plan }, i) => {
      if (!array || plan.size === 0) return;
      if (gradients[i]) {
        any = true;
        encoder.copyBufferToBuffer(
          parameter.buffer,
          parameter.offset,
          this.#staging!,
          at,
          4 * plan.size,
        );
      }
      at += 4 * plan.size;
    });
    return any;
  }

  async #writeBack(gradients: Plan["gradients"]): Promise<void> {
    const staging = this.#staging!;
    await this.#map(staging);
    const values = new Float32Array(staging.getMappedRange());
    let at = 0;
    this.#tensors.forEach(({ array, plan }, i) => {
      if (!array) return;
      if (gradients[i]) array.set(values.subarray(at, at + plan.size));
      at += plan.size;
    });
    staging.unmap();
  }

  async #map(buffer: GPUBuffer): Promise<void> {
    try {
      await buffer.mapAsync(GPUMapMode.READ);
    } catch (error) {
      // A lost device rejects before its `lost` promise is settled.
      await Promise.resolve();
      this.#check();
      throw error;
    }
  }

  report(): Promise<StepReport> {
    this.#check();
    const { clip } = this.#options;
    const encoder = this.#device.createCommandEncoder();
    const read = this.#reading.then(async () => {
      encoder.copyBufferToBuffer(
        this.#report,
        0,
        this.#reportRead!,
        0,
        4 * reportHeader,
      );
      this.#device.queue.submit([encoder.finish()]);
      await this.#map(this.#reportRead!);
      const words = new Uint32Array(
        this.#reportRead!.getMappedRange().slice(0),
      );
      this.#reportRead!.unmap();
      return {
        nonFinite: words[reportWords.nonFinite]!,
        gradNorm: clip
          ? new Float32Array(words.buffer)[reportWords.norm]!
          : undefined,
        skipped: words[reportWords.skip] !== 0,
      };
    });
    this.#reading = read.catch(() => undefined);
    return read;
  }

  async readState(tensor: number, state: number): Promise<StoredState> {
    this.#check();
    const { plan, pieces, peaks, small } = this.#tensors[tensor]!;
    const format = plan.formats[state]!;
    const smallRange = (at: number, length: number) => ({
      buffer: this.#smalls.buffer(small!.chunk),
      offset: 4 * at,
      bytes: 4 * length,
    });
    if (plan.program.stateShapes[state] !== "element") {
      const length = stateLength(plan, state);
      return {
        kind: "float",
        values: small
          ? new Float32Array(
              await this.#readBytes([
                smallRange(small.states.get(state)!, length),
              ]),
            )
          : new Float32Array(length),
      };
    }
    const total = (bytesOf: (length: number) => number) =>
      pieces.reduce((sum, { length }) => sum + bytesOf(length), 0);
    if (format.bits === 16) {
      const bytes = await this.#readBytes(
        pieces.map(({ states, length }) => {
          const { at } = states[state] as { at: Place };
          return {
            buffer: this.#codes.buffer(at.chunk),
            offset: at.offset,
            bytes: 2 * length,
          };
        }),
      );
      return {
        kind: "float",
        values: Float32Array.from(new Uint16Array(bytes), fromBfloat16),
      };
    }
    if (format.kind === "float") {
      const bytes = await this.#readBytes(
        pieces.map(({ states, length }) => {
          const place = states[state] as { at: Place };
          return {
            buffer: this.#floats.buffer(place.at.chunk),
            offset: place.at.offset,
            bytes: 4 * length,
          };
        }),
      );
      return { kind: "float", values: new Float32Array(bytes) };
    }
    const codeParts = pieces.map(({ states, length }) => {
      const { codes } = states[state] as { codes: Place };
      return {
        buffer: this.#codes.buffer(codes.chunk),
        offset: codes.offset,
        bytes: codeBytes(format.bits, length),
      };
    });
    const rank1 = small?.rank1.get(state);
    const scaleParts = isRank1(format)
      ? rank1
        ? [smallRange(rank1.scales, rank1.count)]
        : []
      : format.scale === "tensor"
        ? plan.size === 0
          ? []
          : [
              {
                buffer: this.#report,
                offset: 4 * (peaks[state]! + this.#turns[tensor]!),
                bytes: 4,
              },
            ]
        : pieces.map(({ states, length }) => {
            const { scales } = states[state] as { scales: Place };
            return {
              buffer: this.#codes.buffer(scales.chunk),
              offset: scales.offset,
              bytes: 4 * Math.ceil(length / format.blockSize),
            };
          });
    const [codes, scales] = await Promise.all([
      this.#readBytes(codeParts),
      this.#readBytes(scaleParts),
    ]);
    return {
      kind: "quantized",
      codes: new Uint8Array(
        codes,
        0,
        total((length) => codeBytes(format.bits, length)),
      ),
      scales: new Float32Array(scales),
    };
  }

  /** Ranges of buffers one behind the other; all but the last a multiple of 4 bytes. */
  async #readBytes(
    parts: readonly { buffer: GPUBuffer; offset: number; bytes: number }[],
  ): Promise<ArrayBuffer> {
    const size = parts.reduce((sum, { bytes }) => sum + bytes, 0);
    if (size === 0) return new ArrayBuffer(0);
    const staging = this.#device.createBuffer({
      size: alignUp(size, 4),
      usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    });
    const encoder = this.#device.createCommandEncoder();
    let at = 0;
    for (const { buffer, offset, bytes } of parts) {
      encoder.copyBufferToBuffer(
        buffer,
        offset,
        staging,
        at,
        alignUp(bytes, 4),
      );
      at += bytes;
    }
    this.#device.queue.submit([encoder.finish()]);
    try {
      await this.#map(staging);
      return staging.getMappedRange().slice(0, size);
    } finally {
      staging.destroy();
    }
  }

  async writeState(
    tensor: number,
    state: number,
    stored: StoredState,
  ): Promise<void> {
    this.#check();
    const { plan, pieces, peaks, small } = this.#tensors[tensor]!;
    const format = plan.formats[state]!;
    const { queue } = this.#device;
    const writeSmall = (at: number, values: Float32Array<ArrayBuffer>) =>
      queue.writeBuffer(this.#smalls.buffer(small!.chunk), 4 * at, values);
    const smallState = small?.states.get(state);
    if (smallState !== undefined && stored.kind === "float")
      writeSmall(smallState, stored.values);
    const rank1 = small?.rank1.get(state);
    if (rank1 && stored.kind === "quantized") {
      writeSmall(rank1.scales, stored.scales);
      if (rank1.lead !== rank1.scales)
        writeSmall(rank1.lead, leadingSpread(stored.scales, plan.shape));
    }
    for (const { states, start, length } of pieces) {
      const place = states[state]!;
      if (stored.kind === "float" && place.kind === "float")
        queue.writeBuffer(
          this.#floats.buffer(place.at.chunk),
          place.at.offset,
          stored.values.slice(start, start + length),
        );
      if (stored.kind === "float" && place.kind === "half") {
        const halves = new Uint16Array(alignUp(length, 2));
        for (let i = 0; i < length; i++)
          halves[i] = toBfloat16(stored.values[start + i]!);
        queue.writeBuffer(
          this.#codes.buffer(place.at.chunk),
          place.at.offset,
          halves,
        );
      }
      if (
        stored.kind !== "quantized" ||
        place.kind !== "quantized" ||
        format.kind !== "quantized"
      )
        continue;
      const from = codeBytes(format.bits, start);
      const bytes = codeBytes(format.bits, length);
      const padded = new Uint8Array(alignUp(bytes, 4));
      padded.set(stored.codes.subarray(from, from + bytes));
      const buffer = this.#codes.buffer(place.codes.chunk);
      queue.writeBuffer(buffer, place.codes.offset, padded);
      if (place.scales)
        queue.writeBuffer(
          buffer,
          place.scales.offset,
          stored.scales.slice(
            start / format.blockSize,
            Math.ceil((start + length) / format.blockSize),
          ),
        );
    }
    if (stored.kind === "quantized" && peaks[state] !== undefined && plan.size)
      queue.writeBuffer(
        this.#report,
        4 * (peaks[state] + this.#turns[tensor]!),
        stored.scales,
      );
  }

  parameter(tensor: number): unknown {
    const { plan, parameter, array } = this.#tensors[tensor]!;
    if (this.#options.resident || plan.parameter === undefined)
      return { ...parameter };
    return array ?? plan.parameter;
  }

  gradient(tensor: number): unknown {
    const { gradient } = this.#tensors[tensor]!;
    return gradient && { ...gradient };
  }

  stateBytes(tensor: number, state: number): number {
    return bytesOfState(this.#tensors[tensor]!.plan, state);
  }

  workspaceBytes(): number {
    const states = this.#tensors.reduce(
      (sum, { plan }) =>
        sum +
        plan.formats.reduce((bytes, _, s) => bytes + bytesOfState(plan, s), 0),
      0,
    );
    const { resident } = this.#options;
    const sizes = [
      this.#report,
      this.#reportRead,
      this.#jobs,
      this.#staging,
      ...this.#spare,
      ...[...this.#ready.values()].map(({ tables }) => tables),
    ].map((buffer) => buffer?.size ?? 0);
    return (
      this.#codes.bytes +
      this.#floats.bytes +
      this.#smalls.bytes -
      states +
      (resident ? 0 : this.#gradients.bytes + this.#parameters.bytes) +
      (this.#norm?.bytes ?? 0) +
      (this.#small?.bytes ?? 0) +
      sizes.reduce((sum, size) => sum + size, 0)
    );
  }

  #check(): void {
    if (this.#disposed) throw new Error("webgpu: the session was disposed");
    this.#lost();
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const arena of [
      this.#codes,
      this.#floats,
      this.#smalls,
      this.#parameters,
      this.#gradients,
    ])
      arena.destroy();
    for (const buffer of [
      this.#report as GPUBuffer | undefined,
      this.#reportRead,
      this.#jobs,
      this.#staging,
      ...this.#spare,
      ...[...this.#ready.values()].map(({ tables }) => tables),
    ])
      buffer?.destroy();
    this.#norm?.dispose();
    this.#small?.dispose();
  }
}

/** Tiles of 1024 elements: with narrow codes an invocation takes more of them. */
function workgroupFor(formats: TensorPlan["formats"]): number {
  const narrow = formats.some(({ bits }) => storedBits(bits) < 8);
  const largest = Math.max(
    0,
    ...formats.map((format) =>
      format.kind === "quantized" ? format.blockSize : 0,
    ),
  );
  return narrow && largest <= 1024 ? 128 : 256;
}

/** Bytes of codes and scales, or of values. */
function bytesOfState(plan: TensorPlan, state: number): number {
  return stateBytes(plan.formats[state]!, stateLength(plan, state), plan.shape);
}

function programId(program: Program): number {
  let id = programIds.get(program);
  if (id === undefined) programIds.set(program, (id = ++lastProgram));
  return id;
}

const formatKey = (format: TensorPlan["formats"][number]): string =>
  format.kind === "float"
    ? `${format.bits} ${format.rounding}`
    : JSON.stringify({ ...format, values: [...format.values] });

const samePlan = (a: Plan["gradients"], b: Plan["gradients"]): boolean =>
  a.length === b.length &&
  a.every((one, i) => {
    const other = b[i];
    return (
      one === other ||
      (one?.buffer === other?.buffer &&
        one?.offset === other?.offset &&
        one?.type === other?.type)
    );
  });

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
