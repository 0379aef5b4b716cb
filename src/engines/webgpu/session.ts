import type {
  EngineOptions,
  Session,
  StepInput,
  StepReport,
  StepTensor,
  StoredState,
  TensorPlan,
} from "../engine.ts";
import { batchesOf } from "./batches.ts";
import { resolveView, type BufferView } from "./buffers.ts";
import { Dispatches, type Dispatch } from "./dispatches.ts";
import type { KernelSpec } from "./kernel.ts";
import {
  allocate,
  bytesOfState,
  release,
  spareBytes,
  type Memory,
} from "./memory.ts";
import { NormPass } from "./norm-pass.ts";
import { createKernel, type Kernel } from "./pipelines.ts";
import { rangeOf } from "./plan.ts";
import { reportHeader, ReportReader } from "./report.ts";
import { SmallSteps, type SmallTensor } from "./small-steps.ts";
import {
  readBytes,
  readState,
  writeState,
  type StateAccess,
} from "./stored.ts";
import { copyOut, upload, writeBack, type Gradients } from "./transfers.ts";
import { resolveTuning, type ResolvedTuning, type Tuning } from "./tuning.ts";

/** What stays the same while tensors and gradients lie where they are. */
interface Plan {
  readonly gradients: Gradients;
  readonly dispatches: readonly Dispatch[];
}

/** States and steps on a WebGPU device. */
export class WebGPUSession implements Session {
  readonly description: string;
  readonly #device: GPUDevice;
  readonly #options: EngineOptions;
  readonly #tuning: ResolvedTuning;
  readonly #lost: () => void;
  readonly #memory: Memory;
  readonly #dispatches: Dispatches;
  readonly #reader: ReportReader;
  #kernels = new Map<string, Promise<Kernel>>();
  #ready = new Map<string, Kernel>();
  #plan: Plan | undefined;
  #norm: NormPass | undefined;
  #small: SmallSteps | undefined;
  /** Which of three words holds the scales of whole tensors, by tensor. */
  readonly #turns: number[];
  #disposed = false;

  private constructor(
    device: GPUDevice,
    memory: Memory,
    options: EngineOptions,
    tuning: ResolvedTuning,
    description: string,
    lost: () => void,
  ) {
    this.#device = device;
    this.#memory = memory;
    this.#options = options;
    this.#tuning = tuning;
    this.description = description;
    this.#lost = lost;
    this.#dispatches = new Dispatches(device, memory, tuning.tiles);
    this.#reader = new ReportReader(device, memory.report);
    this.#turns = memory.tensors.map(() => 0);
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
    const resolved = resolveTuning(device, tuning);
    const memory = await allocate(device, plans, options, resolved, lost);
    const session = new WebGPUSession(
      device,
      memory,
      options,
      resolved,
      description,
      lost,
    );
    try {
      await session.#prepare();
    } catch (error) {
      session.dispose();
      lost();
      throw error;
    }
    return session;
  }

  /** Compiles what steps will need, as if gradients lay as the parameters do. */
  async #prepare(): Promise<void> {
    const { clip, skip } = this.#options;
    const { report, smalls, tensors } = this.#memory;
    if (clip || skip === "step")
      this.#norm = await NormPass.create(this.#device, report);
    this.#small = await SmallSteps.create(
      this.#device,
      report,
      smalls,
      this.#smallTensors(() => true),
      this.#tuning.solo,
    );
    const batches = this.#batches(tensors.map(({ parameter }) => parameter));
    await Promise.all(batches.map(({ key, spec }) => this.#kernel(key, spec)));
    await Promise.all(this.#kernels.values());
  }

  #batches(gradients: Gradients) {
    const work = this.#memory.tensors.flatMap((tensor, i) => {
      const gradient = gradients[i];
      if (!gradient || tensor.pieces.length === 0) return [];
      return { tensor, parameter: tensor.parameter, gradient };
    });
    return batchesOf(this.#device, work, this.#options, this.#tuning);
  }

  #smallTensors(wanted: (index: number) => boolean): SmallTensor[] {
    return this.#memory.tensors.flatMap(
      ({ key, plan, small: places }, index) =>
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

  async #makePlan(gradients: Gradients): Promise<Plan> {
    const drafts = [];
    for (const { key, spec, batch } of this.#batches(gradients)) {
      const kernel = this.#ready.get(key) ?? (await this.#kernel(key, spec));
      drafts.push({ kernel, batch });
    }
    // Should it fail, jobs of the old plan may be gone.
    this.#plan = undefined;
    const dispatches = this.#dispatches.make(drafts);
    this.#small?.plan(this.#smallTensors((i) => gradients[i] !== undefined));
    return { gradients, dispatches };
  }

  async step(input: StepInput): Promise<void> {
    this.#check();
    const { queue } = this.#device;
    const gradients = input.tensors.map((given, i) =>
      this.#gradientView(i, given),
    );
    if (!this.#plan || !samePlan(this.#plan.gradients, gradients))
      this.#plan = await this.#makePlan(gradients);
    const { dispatches } = this.#plan;
    const { resident } = this.#options;
    upload(this.#device, this.#memory, input, gradients, resident);
    this.#dispatches.fill(dispatches, input, this.#turns);
    this.#small?.fill(input);
    queue.writeBuffer(this.#memory.report, 0, new Uint32Array(reportHeader));
    const encoder = this.#device.createCommandEncoder({ label: "lowbit step" });
    const norm = await this.#normPass(input, gradients);
    const pass = encoder.beginComputePass({ label: "lowbit step" });
    norm?.(pass);
    this.#record(pass, dispatches);
    pass.end();
    const written = copyOut(encoder, this.#memory, gradients);
    queue.submit([encoder.finish()]);
    gradients.forEach((gradient, i) => {
      if (gradient) this.#turns[i] = (this.#turns[i]! + 1) % 3;
    });
    if (!written) return;
    await this.#map(this.#memory.staging!);
    writeBack(this.#memory, gradients);
  }

  async #normPass({ maxGradNorm = 0 }: StepInput, gradients: Gradients) {
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
      pipeline: GPUComputePipeline | undefined,
      { bindGroup }: Dispatch,
      groups: readonly [number, number],
    ) => {
      if (!pipeline) return;
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindGroup);
      pass.dispatchWorkgroups(...groups);
    };
    this.#small?.record(pass, 0);
    const passes = Math.max(
      0,
      ...dispatches.map(({ kernel }) => kernel.passes.length),
    );
    for (let number = 0; number < passes; number++) {
      for (const one of dispatches)
        run(one.kernel.passes[number], one, one.tiles);
      this.#small!.record(pass, number + 1);
    }
    for (const one of dispatches) run(one.kernel.measure, one, one.groups);
    for (const one of dispatches) run(one.kernel.update, one, one.groups);
    this.#small?.finish(pass);
  }

  #gradientView(
    index: number,
    given: StepTensor | undefined,
  ): Required<BufferView> | undefined {
    const { plan, gradient, pieces } = this.#memory.tensors[index]!;
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
      return { ...parameter };
    return array ?? plan.parameter;
  }

  async readParameter(tensor: number): Promise<Float32Array<ArrayBuffer>> {
    const { plan, parameter } = this.#memory.tensors[tensor]!;
    const { buffer, offset } = parameter;
    return new Float32Array(
      await readBytes(this.#access(), [
        { buffer, offset, bytes: 4 * plan.size },
      ]),
    );
  }

  writeParameter(tensor: number, values: Float32Array<ArrayBuffer>): void {
    this.#check();
    const { buffer, offset } = this.#memory.tensors[tensor]!.parameter;
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
    const tables = [...this.#ready.values()].reduce(
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
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    release(this.#memory);
    this.#dispatches.dispose();
    this.#reader.dispose();
    for (const { tables } of this.#ready.values()) tables?.destroy();
    this.#norm?.dispose();
    this.#small?.dispose();
  }
}

const samePlan = (a: Gradients, b: Gradients): boolean =>
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
