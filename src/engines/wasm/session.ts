/** The states of a list of tensors in a WebAssembly memory, and their steps. */
import {
  clipFactor,
  type EngineOptions,
  type HostStates,
  type Session,
  type StepInput,
  type StepReport,
  type StoredState,
} from "../engine.ts";
import { task } from "./layout.ts";
import { Measured } from "./measured.ts";
import type { Heap } from "./memory.ts";
import type { MemoryPlan } from "./plan.ts";
import type { Pool } from "./pool.ts";
import { Reductions } from "./reductions.ts";
import { Scales } from "./scales.ts";
import {
  bytesOfState,
  fillZeroCodes,
  hostStates,
  moveSmallStates,
  readState,
  writeState,
} from "./stored.ts";
import { byKernel, piecesOf, Tasks, type Piece } from "./tasks.ts";

export interface SessionParts {
  readonly plan: MemoryPlan;
  readonly options: EngineOptions;
  readonly heap: Heap;
  readonly pool: Pool;
  /** Gives a host's memory back. */
  readonly release: () => void;
}

export class WasmSession implements Session {
  readonly description: string;
  readonly hostStates: HostStates | undefined;
  readonly #parts: SessionParts;
  /** Where they live; undefined when each step says so. */
  readonly #parameters: readonly (Float32Array | undefined)[];
  readonly #pieces: readonly (readonly Piece[])[];
  readonly #tasks: Tasks;
  readonly #reductions: Reductions;
  readonly #scales: Scales;
  #report: StepReport = { nonFinite: 0, gradNorm: undefined, skipped: false };
  #disposed = false;

  constructor(parts: SessionParts) {
    const { plan, heap, pool, options } = parts;
    this.#parts = parts;
    const { threads } = pool;
    this.description = `wasm, ${threads} ${threads === 1 ? "thread" : "threads"}`;
    this.#parameters = plan.placed.map(({ plan: tensor, parameterAt }) => {
      if (!parameterAt) return tensor.parameter as Float32Array | undefined;
      const own = this.#array(parameterAt, tensor.size);
      if (tensor.parameter) own.set(tensor.parameter as Float32Array);
      return own;
    });
    this.#pieces = plan.placed.map(piecesOf);
    this.#tasks = new Tasks(plan, heap, pool, this.#parameters);
    this.#reductions = new Reductions(plan, heap, this.#tasks);
    this.#scales = new Scales(plan, heap, this.#tasks);
    if (options.hostStates) this.hostStates = hostStates(plan);
    else fillZeroCodes(plan, heap.bytes);
  }

  async step(input: StepInput): Promise<void> {
    this.stepSync(input);
  }

  stepSync({ tensors, maxGradNorm, regions }: StepInput): void {
    const { plan, options, heap } = this.#parts;
    if (this.#disposed) throw new Error("wasm: the session was disposed");
    heap.refresh();
    const statesAt = options.hostStates ? this.#regionAt(regions) : 0;
    const begin = (factor: number) =>
      this.#tasks.begin({ tensors, factor, statesAt });
    begin(1);
    const work = this.#pieces.filter((_, tensor) => tensors[tensor]);
    this.#takeGradients(tensors);
    try {
      let gradNorm: number | undefined;
      if (options.clip || options.skip === "step") {
        const { sum, bad } = this.#statistics(work);
        gradNorm = options.clip ? Math.sqrt(sum) : undefined;
        if (options.skip === "step" && bad > 0) {
          this.#report = { nonFinite: bad, gradNorm, skipped: true };
          return;
        }
        if (options.clip) begin(clipFactor(gradNorm!, maxGradNorm!));
      }
      tensors.forEach((given, i) => {
        if (given) heap.floats.set(given.uniforms, plan.uniforms[i]! / 4);
      });
      if (options.hostStates) moveSmallStates(plan, heap, statesAt, "in");
      this.#scales.spread(work);
      const small = this.#reductions.run(work);
      const measured = this.#scales.measure(work);
      const nonFinite = this.#update(work, measured);
      this.#scales.store(measured);
      this.#reductions.store(small);
      if (options.hostStates) moveSmallStates(plan, heap, statesAt, "out");
      this.#report = { nonFinite, gradNorm, skipped: false };
    } finally {
      this.#tasks.end();
    }
  }

  /** @returns elements left out since they were not finite. */
  #update(work: readonly (readonly Piece[])[], measured: Measured): number {
    const { placed } = this.#parts.plan;
    let nonFinite = 0;
    for (const [kernel, pieces] of byKernel(
      work,
      (i) => placed[i]!.kernels.update,
    ))
      this.#tasks.run(
        kernel,
        pieces,
        { parameter: true, write: true, measured },
        (record) => {
          nonFinite += this.#parts.heap.words[(record + task.nonFinite) / 4]!;
        },
      );
    return nonFinite;
  }

  #statistics(work: readonly (readonly Piece[])[]): {
    sum: number;
    bad: number;
  } {
    const { heap } = this.#parts;
    let sum = 0;
    let bad = 0;
    this.#tasks.run(
      0,
      work.flat(),
      { parameter: false, write: false, measured: new Measured() },
      (record) => {
        sum += heap.view.getFloat64(record + task.sum, true);
        bad += heap.words[(record + task.nonFinite) / 4]!;
      },
    );
    return { sum, bad };
  }

  /** Resident gradients given from elsewhere are copied to their place. */
  #takeGradients(tensors: StepInput["tensors"]): void {
    const { plan, heap } = this.#parts;
    plan.placed.forEach(({ gradientAt }, i) => {
      const gradient = tensors[i]?.gradient as Float32Array | undefined;
      if (gradientAt && gradient && !heap.addressOf(gradient))
        heap.floats.set(gradient, gradientAt / 4);
    });
  }

  /** Address of the host's states in this step. */
  #regionAt(regions: StepInput["regions"]): number {
    const { plan, heap } = this.#parts;
    const region = regions?.[0];
    if (
      !(region instanceof Uint8Array) ||
      region.buffer !== heap.memory.buffer ||
      region.length !== plan.regionBytes ||
      region.byteOffset % 4 !== 0
    )
      throw new TypeError(
        `wasm: the states must be a Uint8Array of ${plan.regionBytes} bytes in the host's memory, at a multiple of 4`,
      );
    return region.byteOffset;
  }

  report(): StepReport {
    return this.#report;
  }

  async readState(tensor: number, state: number): Promise<StoredState> {
    return readState(this.#owned(tensor), this.#parts.heap, state);
  }

  writeState(tensor: number, state: number, stored: StoredState): void {
    writeState(this.#owned(tensor), this.#parts.heap, state, stored);
  }

  #owned(tensor: number) {
    const { plan, options, heap } = this.#parts;
    if (options.hostStates)
      throw new Error("wasm: the states of this session are kept by its host");
    heap.refresh();
    return plan.placed[tensor]!;
  }

  parameter(tensor: number): Float32Array | undefined {
    const { parameterAt, plan } = this.#parts.plan.placed[tensor]!;
    return parameterAt
      ? this.#array(parameterAt, plan.size)
      : this.#parameters[tensor];
  }

  async readParameter(tensor: number): Promise<Float32Array<ArrayBuffer>> {
    return Float32Array.from(this.parameter(tensor)!);
  }

  writeParameter(tensor: number, values: Float32Array): void {
    this.parameter(tensor)!.set(values);
  }

  gradient(tensor: number): Float32Array | undefined {
    const { plan, gradientAt } = this.#parts.plan.placed[tensor]!;
    if (!this.#parts.options.resident) return undefined;
    return this.#array(gradientAt, plan.size);
  }

  #array(address: number, length: number): Float32Array {
    return new Float32Array(this.#parts.heap.memory.buffer, address, length);
  }

  stateBytes(tensor: number, state: number): number {
    return bytesOfState(this.#parts.plan.placed[tensor]!, state);
  }

  workspaceBytes(): number {
    return this.#parts.plan.workspace;
  }

  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#parts.pool.dispose();
    this.#parts.release();
  }
}
