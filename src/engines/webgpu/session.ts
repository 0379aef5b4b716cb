import type {
  EngineOptions,
  HostStates,
  Session,
  StepInput,
  StepReport,
  StepTensor,
  StoredState,
  TensorPlan,
} from "../engine.ts";
import { batchesOf, type KernelBatch, type Work } from "./batches.ts";
import { resolveView, type BufferView } from "./buffers.ts";
import { Dispatches, type Dispatch } from "./dispatches.ts";
import {
  allocate,
  bytesOfState,
  release,
  spareBytes,
  stateArenas,
  type Allocation,
  type Memory,
  type Tensor,
} from "./memory.ts";
import { NormPass } from "./norm-pass.ts";
import {
  createKernel,
  pipelinesOf,
  type Kernel,
  type Pipeline,
} from "./pipelines.ts";
import { movedBuffers, samePlaces, type Places } from "./places.ts";
import { rangeOf } from "./plan.ts";
import { reportHeader, ReportReader } from "./report.ts";
import { SmallSteps, type SmallTensor } from "./small-steps.ts";
import {
  hostStates,
  readBytes,
  readState,
  writeState,
  type StateAccess,
} from "./stored.ts";
import { copyOut, upload, writeBack, type Gradients } from "./transfers.ts";
import { resolveTuning, type ResolvedTuning, type Tuning } from "./tuning.ts";

interface Plan {
  readonly places: Places;
  readonly dispatches: readonly Dispatch[];
}

export interface SessionParts {
  readonly device: GPUDevice;
  readonly plans: readonly TensorPlan[];
  readonly options: EngineOptions;
  readonly tuning: Tuning;
  readonly description: string;
  /** Throws when the device is gone. */
  readonly lost: () => void;
}

/** States and steps on a WebGPU device. */
export class WebGPUSession implements Session {
  readonly description: string;
  readonly hostStates: HostStates | undefined;
  readonly #device: GPUDevice;
  readonly #options: EngineOptions;
  readonly #tuning: ResolvedTuning;
  readonly #lost: () => void;
  readonly #memory: Memory;
  readonly #checked: Promise<void>;
  readonly #dispatches: Dispatches;
  readonly #reader: ReportReader;
  readonly #kernels = new Map<string, Kernel>();
  readonly #norm: NormPass | undefined;
  readonly #small: SmallSteps | undefined;
  #fault: Error | undefined;
  #plan: Plan | undefined;
  /** Which of three words holds the scales of whole tensors, by tensor. */
  readonly #turns: number[];
  #disposed = false;

  /**
   * Allocates everything; steps compile what they need when they first need it,
   * and it is they that fail when there was no memory.
   */
  constructor(parts: SessionParts) {
    const { device, plans, options, tuning, description, lost } = parts;
    this.#device = device;
    this.#options = options;
    this.#tuning = resolveTuning(device, tuning);
    this.description = description;
    this.#lost = lost;
    const { memory, fault }: Allocation = allocate(
      device,
      plans,
      options,
      this.#tuning,
    );
    this.#memory = memory;
    this.#checked = fault.then((found) => void (this.#fault = found));
    if (options.hostStates) this.hostStates = hostStates(memory);
    this.#dispatches = new Dispatches(device, memory, this.#tuning.tiles);
    this.#reader = new ReportReader(device, memory.report);
    this.#turns = memory.tensors.map(() => 0);
    if (options.clip || options.skip === "step")
      this.#norm = new NormPass(device, memory.report);
    const small = this.#smallTensors(() => true);
    if (small.length > 0)
      this.#small = new SmallSteps(
        device,
        memory.report,
        memory.smalls,
        small,
        this.#tuning.solo,
      );
  }

  /** The same, once memory is certain to be there and kernels are compiled. */
  static async create(parts: SessionParts): Promise<WebGPUSession> {
    const session = new WebGPUSession(parts);
    try {
      await session.#checked;
      session.#check();
      // As if gradients lay as the parameters do.
      await session.#compile(
        session.#memory.tensors.map((tensor) => {
          const { parameter, pieces } = tensor;
          if (!parameter || pieces.length === 0) return undefined;
          const gradient = { ...parameter };
          return { tensor, parameter, gradient, written: "parameter" };
        }),
      );
    } catch (error) {
      session.dispose();
      parts.lost();
      throw error;
    }
    return session;
  }

  #batches(work: Places["work"]): KernelBatch[] {
    return batchesOf(
      this.#device,
      work.flatMap((one) => one ?? []),
      this.#options,
      this.#tuning,
    );
  }

  #smallTensors(wanted: (index: number) => boolean): SmallTensor[] {
    return this.#memory.tensors.flatMap(
      ({ key, plan, small: places }, index) =>
        places && wanted(index) ? [{ index, key, plan, places }] : [],
    );
  }

  #kernel({ key, spec }: KernelBatch): Kernel {
    let kernel = this.#kernels.get(key);
    if (!kernel)
      this.#kernels.set(key, (kernel = createKernel(this.#device, spec)));
    return kernel;
  }

  /** Compiles in the background what a step over this needs. */
  async #compile(work: Places["work"]): Promise<void> {
    const kernels = new Set(
      this.#batches(work).map((batch) => this.#kernel(batch)),
    );
    const types = work.flatMap((one) => one?.gradient.type ?? []);
    const pipelines = [
      ...[...kernels].flatMap(pipelinesOf),
      ...(this.#small?.pipelines ?? []),
      ...(this.#norm?.pipelines(types) ?? []),
    ];
    await Promise.all(pipelines.map((one) => one.ready()));
  }

  async step(input: StepInput): Promise<void> {
    this.#check();
    const places = this.#placesOf(input);
    if (!this.#plan || !movedBuffers(this.#plan.places, places)) {
      await this.#compile(places.work);
      this.#check();
    }
    if (!this.#run(input, places)) return;
    await this.#map(this.#memory.staging!);
    writeBack(this.#memory, places.gradients);
  }

  stepSync(input: StepInput): void {
    this.#check();
    const places = this.#placesOf(input);
    for (const one of places.work)
      if (one?.tensor.array && !this.#options.resident)
        throw new TypeError(
          `webgpu: the parameter '${one.tensor.plan.name}' is an array, which a step at once cannot write back; give a GPU buffer`,
        );
    this.#run(input, places);
  }

  /** Queues a step. @returns whether arrays of the caller are to be written back. */
  #run(input: StepInput, places: Places): boolean {
    const { queue } = this.#device;
    const { gradients } = places;
    const { dispatches } = this.#planFor(places);
    const { resident } = this.#options;
    upload(this.#device, this.#memory, input, gradients, resident);
    this.#dispatches.fill(dispatches, input, this.#turns);
    this.#small?.fill(input);
    const encoder = this.#device.createCommandEncoder({ label: "lowbit step" });
    encoder.clearBuffer(this.#memory.report, 0, 4 * reportHeader);
    const norm = this.#normPass(input, gradients);
    const pass = encoder.beginComputePass({ label: "lowbit step" });
    norm?.(pass);
    this.#record(pass, dispatches);
    pass.end();
    const written = copyOut(encoder, this.#memory, gradients);
    queue.submit([encoder.finish()]);
    gradients.forEach((gradient, i) => {
      if (gradient) this.#turns[i] = (this.#turns[i]! + 1) % 3;
    });
    return written;
  }

  #planFor(places: Places): Plan {
    const plan = this.#plan;
    if (plan && samePlaces(plan.places, places)) return plan;
    // Should it fail, jobs of the old plan may be gone.
    this.#plan = undefined;
    const moved = plan && movedBuffers(plan.places, places);
    return (this.#plan = moved
      ? { places, dispatches: this.#dispatches.move(plan.dispatches, moved) }
      : this.#makePlan(places));
  }

  #makePlan(places: Places): Plan {
    let region = 0;
    if (this.hostStates)
      for (const arena of stateArenas(this.#memory)) {
        const end = region + arena.sizes.length;
        arena.lend(places.regions.slice(region, end));
        region = end;
      }
    const dispatches = this.#dispatches.make(
      this.#batches(places.work).map((one) => ({
        kernel: this.#kernel(one),
        batch: one.batch,
      })),
    );
    this.#small?.plan(this.#smallTensors((i) => places.work[i] !== undefined));
    return { places, dispatches };
  }

  /** Where everything lies. @throws TypeError or RangeError, with nothing changed. */
  #placesOf(input: StepInput): Places {
    const work = input.tensors.map((given, i) =>
      this.#workOf(this.#memory.tensors[i]!, given),
    );
    return {
      work,
      gradients: work.map((one) => one?.gradient),
      regions: this.#regionsOf(input),
    };
  }

  #workOf(tensor: Tensor, given: StepTensor | undefined): Work | undefined {
    const { plan, pieces } = tensor;
    if (!given || pieces.length === 0) return undefined;
    const gradient = this.#gradientView(tensor, given);
    if (!gradient) return undefined;
    const { written = "parameter" } = given;
    // One of the two is there, as whoever calls has seen to.
    const parameter =
      given.parameter === undefined
        ? tensor.parameter!
        : resolveView(given.parameter, plan.size, `parameter '${plan.name}'`);
    return { tensor, parameter, gradient, written };
  }

  #regionsOf({ regions = [] }: StepInput): GPUBuffer[] {
    return (this.hostStates?.regions ?? []).map(({ bytes }, i) => {
      const owner = `region ${i} of the states`;
      const { buffer, offset } = resolveView(regions[i], bytes / 4, owner);
      if (offset !== 0)
        throw new RangeError(
          `webgpu: ${owner} must begin where its buffer does, given offset ${offset}`,
        );
      return buffer;
    });
  }

  #normPass({ maxGradNorm = 0 }: StepInput, gradients: Gradients) {
    const { clip, skip } = this.#options;
    const pieces = this.#memory.tensors.flatMap(({ pieces }, i) => {
      const gradient = gradients[i];
      return gradient
        ? pieces.map((piece) => ({
            range: rangeOf(gradient, piece),
            type: gradient.type,
            length: piece.length,
          }))
        : [];
    });
    return this.#norm?.plan(pieces, {
      clip,
      skip: skip === "step",
      maxNorm: maxGradNorm,
    });
  }

  /** Passes that reduce, and what follows each; scales of whole tensors; the update. */
  #record(pass: GPUComputePassEncoder, dispatches: readonly Dispatch[]): void {
    const run = (
      pipeline: Pipeline | undefined,
      bindGroup: GPUBindGroup | undefined,
      groups: readonly [number, number],
    ) => {
      if (!pipeline) return;
      pass.setPipeline(pipeline.get());
      pass.setBindGroup(0, bindGroup!);
      pass.dispatchWorkgroups(...groups);
    };
    this.#small?.record(pass, 0);
    const passes = Math.max(
      0,
      ...dispatches.map(({ kernel }) => kernel.passes.length),
    );
    for (let number = 0; number < passes; number++) {
      for (const one of dispatches)
        run(one.kernel.passes[number], one.passBindGroup, one.tiles);
      this.#small!.record(pass, number + 1);
    }
    for (const { kernel, bindGroup, groups } of dispatches)
      run(kernel.measure, bindGroup, groups);
    for (const { kernel, bindGroup, groups } of dispatches)
      run(kernel.update, bindGroup, groups);
    this.#small?.finish(pass);
  }

  #gradientView(
    { plan, gradient }: Tensor,
    given: StepTensor,
  ): Required<BufferView> | undefined {
    if (given.gradient === null) return undefined;
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
    return this.#reader.read(this.#options.clip, (buffer) => this.#map(buffer));
  }

  async readState(tensor: number, state: number): Promise<StoredState> {
    return readState(this.#access(), tensor, state);
  }

  writeState(tensor: number, state: number, stored: StoredState): void {
    writeState(this.#access(), tensor, state, stored);
  }

  #access(): StateAccess {
    this.#check();
    if (this.hostStates)
      throw new Error(
        "webgpu: the states of this session are kept by its host",
      );
    return {
      device: this.#device,
      memory: this.#memory,
      turns: this.#turns,
      map: (buffer) => this.#map(buffer),
    };
  }

  parameter(tensor: number): unknown {
    const { plan, parameter, array } = this.#memory.tensors[tensor]!;
    if (this.#options.resident || plan.parameter === undefined)
      return parameter && { ...parameter };
    return array ?? plan.parameter;
  }

  async readParameter(tensor: number): Promise<Float32Array<ArrayBuffer>> {
    const { plan, parameter } = this.#memory.tensors[tensor]!;
    const { buffer, offset } = parameter!;
    return new Float32Array(
      await readBytes(this.#access(), [
        { buffer, offset, bytes: 4 * plan.size },
      ]),
    );
  }

  writeParameter(tensor: number, values: Float32Array<ArrayBuffer>): void {
    this.#check();
    const { buffer, offset } = this.#memory.tensors[tensor]!.parameter!;
    this.#device.queue.writeBuffer(buffer, offset, values);
  }

  gradient(tensor: number): unknown {
    const { gradient } = this.#memory.tensors[tensor]!;
    return gradient && { ...gradient };
  }

  stateBytes(tensor: number, state: number): number {
    return bytesOfState(this.#memory.tensors[tensor]!.plan, state);
  }

  workspaceBytes(): number {
    const tables = [...this.#kernels.values()].reduce(
      (sum, kernel) => sum + (kernel.tables?.size ?? 0),
      0,
    );
    return (
      spareBytes(this.#memory, this.#options.resident) +
      this.#dispatches.bytes +
      this.#reader.bytes +
      (this.#norm?.bytes ?? 0) +
      (this.#small?.bytes ?? 0) +
      tables
    );
  }

  #check(): void {
    if (this.#disposed) throw new Error("webgpu: the session was disposed");
    this.#lost();
    if (this.#fault) throw this.#fault;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    release(this.#memory);
    this.#dispatches.dispose();
    this.#reader.dispose();
    for (const { tables } of this.#kernels.values()) tables?.destroy();
    this.#norm?.dispose();
    this.#small?.dispose();
  }
}
