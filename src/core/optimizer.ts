/// <reference lib="esnext.disposable" preserve="true" />
import type {
  Engine,
  HostStates,
  Session,
  StepInput,
  StepReport,
  StepTensor,
  StoredState,
} from "../engines/engine.ts";
import type { Format } from "../formats/format.ts";
import { randomKey } from "../formats/random.ts";
import { nearestName } from "../formula/error.ts";
import type { FileData } from "../io/source.ts";
import { checkLearningRate, type LearningRate } from "../optimizers/hyper.ts";
import type { Recipe } from "../optimizers/define.ts";
import type { Accumulator } from "./accumulate.ts";
import { checkData, checkStored } from "./check.ts";
import type { LoadReport, Running } from "./checkpoint.ts";
import type { Float32State } from "./float32.ts";
import { memoryReport, stateLength, type MemoryReport } from "./memory.ts";
import { NormHistory } from "./norms.ts";
import type { Resolved, TensorInfo } from "./options.ts";
import type { CheckedOptions } from "./settings.ts";

/** A parameter to optimize. */
export interface Parameter {
  /**
   * Where its values live; a step changes them in place. A Float32Array, or on
   * a WebGPU device a GPUBuffer or `{ buffer, offset }`. Left out, the engine
   * allocates zeros, see {@link OptimizerHandle.parameter}.
   */
  readonly data?: unknown;
  readonly shape: readonly number[];
}

export interface Stats {
  /** Steps taken. */
  readonly step: number;
  /** Learning rate of the last step (of the next, before the first). */
  readonly lr: number;
  /** 2-norm of all gradients in the last step, before clipping; only with maxGradNorm. */
  readonly gradNorm?: number;
  /** Elements left out in the last step since they were not finite. */
  readonly nonFinite: number;
  /** Whether the last step was left out as a whole. */
  readonly skipped: boolean;
}

/** Where things lie in one step, on a host whose memory moves. */
export interface StepPlaces {
  /** Parameters by name, in the form of the gradients. Default: where they were. */
  readonly parameters?: Readonly<Record<string, unknown>>;
  /** With `hostStates`: each region of {@link OptimizerHandle.hostStates}. */
  readonly regions?: readonly unknown[];
  /** Number of the step, from 1. Default: one more than the last. */
  readonly step?: number;
}

/** One row of `explain()`: what holds for a tensor, and which rule decided. */
export interface Explanation {
  readonly name: string;
  readonly shape: string;
  readonly state: string;
  readonly bytes: number;
  readonly "bytes in 32-bit": number;
  readonly why: string;
  readonly rules: string;
  readonly [hyper: string]: string | number;
}

/** A state's format beside its stored form. */
export type ReadState = StoredState & { readonly format: Format };

/** Loaded when first used, so that a page that never saves does not carry it. */
const checkpoints = () => import("./checkpoint.ts");
const plainStates = () => import("./float32.ts");

/** The object a user holds; made by `createOptimizer`. */
export class OptimizerHandle {
  readonly recipe: Recipe;
  readonly #tensors: readonly TensorInfo[];
  readonly #resolved: readonly Resolved[];
  readonly #settings: CheckedOptions;
  readonly #engine: Engine;
  readonly #indices: ReadonlyMap<string, number>;
  readonly #norms: NormHistory | undefined;
  #accumulator: Accumulator | undefined;
  #session: Session | undefined;
  #lr: LearningRate;
  #steps = 0;
  #lastRate: number | undefined;
  /** What is under way, in words. */
  #busy: string | undefined;
  /** What left the states so that they cannot be used: a load that did not end. */
  #broken: string | undefined;
  /** Ends when the norm of the last step is known. */
  #norming: Promise<void> | undefined;

  /** @internal */
  constructor(
    recipe: Recipe,
    tensors: readonly TensorInfo[],
    resolved: readonly Resolved[],
    settings: CheckedOptions,
    engine: Engine,
    session: Session,
    accumulator: Accumulator | undefined,
  ) {
    this.recipe = recipe;
    this.#tensors = tensors;
    this.#resolved = resolved;
    this.#settings = settings;
    this.#engine = engine;
    this.#session = session;
    this.#accumulator = accumulator;
    if (settings.percentileClipping !== undefined)
      this.#norms = new NormHistory(settings.percentileClipping);
    this.#lr = recipe.lr;
    this.#indices = new Map(tensors.map(({ name }, i) => [name, i]));
  }

  /** Steps taken. */
  get steps(): number {
    return this.#steps;
  }

  /** Learning rate of the next step; set it to a number or a function of the step. */
  get lr(): number {
    return this.#rate(this.#lr, this.#steps + 1);
  }

  set lr(value: LearningRate) {
    this.#lr = checkLearningRate(this.recipe.name, value);
  }

  /** The device that steps run on, in words. */
  get device(): string {
    return this.#live().description;
  }

  /**
   * Updates the parameters in place, one step further; with `accumulate: n`, only
   * at every n-th call.
   *
   * @param gradients by name, in the form of the parameters (Float32Array, GPU
   * buffer). All of them, unless they are resident: then none need be given.
   * `null` leaves a tensor and its state as they are in this step.
   * @throws TypeError or RangeError for a missing, unknown or wrongly sized
   * gradient; nothing has changed then.
   */
  async step(gradients: Readonly<Record<string, unknown>> = {}): Promise<void> {
    const session = this.#live();
    this.#checkIdle();
    const passed = this.#gradients(gradients);
    const accumulator = this.#accumulator;
    const given = accumulator
      ? await this.#alone("step", () => accumulator.add(passed))
      : passed;
    if (!given) return;
    const t = this.#steps + 1;
    const base = this.#rate(this.#lr, t);
    await this.#alone("step", async () => {
      await session.step(this.#input(given, base, t));
      if (this.#norms) this.#norms.take(await session.report());
      this.#steps = t;
      this.#lastRate = base;
    });
  }

  /**
   * The same at once, for optimizers of `createOptimizerSync`; on a device
   * the work is queued.
   *
   * @param places where things lie in this step, on a host whose memory moves.
   */
  stepSync(
    gradients: Readonly<Record<string, unknown>>,
    { parameters = {}, regions, step }: StepPlaces = {},
  ): void {
    const session = this.#live();
    this.#checkIdle();
    if (!session.stepSync)
      throw new Error(
        `${this.recipe.name}: this optimizer takes steps that wait; call step(), or make it with createOptimizerSync`,
      );
    const given = this.#gradients(gradients);
    const places = this.#parameters(parameters, given);
    const t = step ?? this.#steps + 1;
    const base = this.#rate(this.#lr, t);
    const input = this.#input(given, base, t, places);
    session.stepSync(regions ? { ...input, regions } : input);
    this.#takeNorm(session);
    this.#steps = t;
    this.#lastRate = base;
  }

  /**
   * What the formulas take of a step, one array a tensor (tensors with the same
   * options share theirs): for hosts that compute a step with their own
   * operations.
   *
   * @param rate learning rate in place of the optimizer's.
   */
  uniformsAt(step: number, rate?: number): readonly Float32Array[] {
    const base = rate ?? this.#rate(this.#lr, step);
    return this.#scalars(base, step).map(({ uniforms }) => uniforms);
  }

  /** How states lie that the host keeps; undefined when the engine does. */
  get hostStates(): HostStates | undefined {
    return this.#live().hostStates;
  }

  #checkIdle(): void {
    if (this.#busy !== undefined)
      throw new Error(
        `${this.recipe.name}: the ${this.#busy} before has not ended; await optimizer.${this.#busy}(...)`,
      );
    if (this.#broken !== undefined)
      throw new Error(
        `${this.recipe.name}: ${this.#broken} ended midway and left states of two kinds; load a file again`,
      );
  }

  /** What the engine gets for step `t`. */
  #input(
    gradients: readonly unknown[],
    base: number,
    t: number,
    parameters: readonly unknown[] = [],
  ): StepInput {
    const scalars = this.#scalars(base, t);
    const { seed } = this.#settings;
    return {
      tensors: gradients.map((gradient, i): StepTensor | undefined => {
        if (gradient === null) return undefined;
        const given = {
          gradient,
          ...scalars[i]!,
          keys: Uint32Array.from(this.#states(i), (_, s) =>
            randomKey(seed, t, i, s),
          ),
        };
        const parameter = parameters[i];
        return parameter === undefined ? given : { ...given, parameter };
      }),
      maxGradNorm: this.#limit(),
    };
  }

  /** A device's norm is known, and counts, later. */
  #takeNorm(session: Session): void {
    const norms = this.#norms;
    if (!norms) return;
    const report = session.report();
    if (report instanceof Promise)
      this.#norming = report.then((known) => norms.take(known));
    else norms.take(report);
  }

  /** Largest norm of this step: the least of what the options ask for. */
  #limit(): number | undefined {
    const { maxGradNorm } = this.#settings;
    if (!this.#norms) return maxGradNorm;
    return Math.min(maxGradNorm ?? Infinity, this.#norms.limit());
  }

  /** What happened in the last step. A promise on a WebGPU device; `await` it anywhere. */
  stats(): Stats | Promise<Stats> {
    const step = this.#steps;
    const lr = this.#lastRate ?? this.lr;
    const describe = ({ nonFinite, gradNorm, skipped }: StepReport): Stats => ({
      step,
      lr,
      ...(gradNorm === undefined ? {} : { gradNorm }),
      nonFinite,
      skipped,
    });
    const report = this.#live().report();
    return report instanceof Promise ? report.then(describe) : describe(report);
  }

  /** What the states take, from the buffers as allocated, and what float32 would. */
  memory(): MemoryReport {
    const session = this.#live();
    return memoryReport(
      this.#tensors,
      this.#resolved,
      (tensor, state) => session.stateBytes(tensor, state),
      session.workspaceBytes() + (this.#accumulator?.bytes() ?? 0),
    );
  }

  /** For people: a row for each tensor with what applies to it and which rule decided. */
  explain(): Explanation[] {
    const rate = this.lr;
    return this.memory().tensors.map((row, i) => {
      const { lr, hyper, rules } = this.#resolved[i]!;
      return {
        name: row.name,
        shape: `[${row.shape.join(", ")}]`,
        state: Object.entries(row.formats)
          .map(([name, format]) => `${name}: ${format}`)
          .join("; "),
        bytes: row.bytes,
        "bytes in 32-bit": row.bytes32,
        why: row.why,
        rules: rules.join("; "),
        lr: lr === undefined ? rate : this.#rate(lr, this.#steps + 1),
        ...hyper,
      };
    });
  }

  /** Where a parameter lives now: what was given, or the engine's memory. */
  parameter(name: string): unknown {
    return this.#live().parameter(this.#index(name));
  }

  /** With `resident: true`: memory to write a gradient into, read by a step without a copy. */
  gradient(name: string): unknown {
    if (!this.#settings.resident)
      throw new Error(
        `${this.recipe.name}: gradients live with their owner; create the optimizer with { resident: true } to get memory for them`,
      );
    return this.#live().gradient(this.#index(name));
  }

  /** The stored states of a tensor by name: a copy of codes and scales, or float32 values. */
  async state(name: string): Promise<Record<string, ReadState>> {
    const session = this.#live();
    const tensor = this.#index(name);
    const names = this.#states(tensor);
    const states = await Promise.all(
      names.map((_, s) => session.readState(tensor, s)),
    );
    return Object.fromEntries(
      names.map((state, s) => [
        state,
        { ...states[s]!, format: this.#resolved[tensor]!.formats[s]! },
      ]),
    );
  }

  /**
   * Replaces stored states of a tensor.
   *
   * @throws RangeError when a size is not the state's own; nothing has changed then.
   */
  async setState(
    name: string,
    states: Readonly<Record<string, StoredState>>,
  ): Promise<void> {
    this.setStateSync(name, states);
  }

  /** The format of each state of a tensor. */
  formats(name: string): Readonly<Record<string, Format>> {
    const tensor = this.#index(name);
    const { formats } = this.#resolved[tensor]!;
    return Object.fromEntries(
      this.#states(tensor).map((state, s) => [state, formats[s]!]),
    );
  }

  /** The same at once; on a device it is queued. */
  setStateSync(
    name: string,
    states: Readonly<Record<string, StoredState>>,
  ): void {
    const session = this.#live();
    const tensor = this.#index(name);
    const names = this.#states(tensor);
    const { formats, optimizer } = this.#resolved[tensor]!;
    for (const [state, stored] of Object.entries(states)) {
      const s = names.indexOf(state);
      if (s < 0)
        throw new TypeError(
          `${this.recipe.name}: unknown state '${state}'; there are ${names.join(", ")}`,
        );
      checkStored(
        `${name}/${state}`,
        formats[s]!,
        stateLength(optimizer, this.#tensors[tensor]!, s),
        this.#tensors[tensor]!.shape,
        stored,
      );
    }
    for (const [state, stored] of Object.entries(states))
      session.writeState(tensor, names.indexOf(state), stored);
  }

  /**
   * Everything about the optimizer but its parameters, as a safetensors file
   * that says itself how each number is stored: see docs/checkpoints.md.
   * Another optimizer for the same parameters, on whatever engine, loads it and
   * goes on.
   */
  async save(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#alone("save", async () => {
      const { checkpointFile, describeRunning } = await checkpoints();
      const { size, chunks } = checkpointFile(
        describeRunning(await this.#running()),
      );
      const file = new Uint8Array(size);
      let at = 0;
      for await (const chunk of chunks()) {
        file.set(chunk, at);
        at += chunk.length;
      }
      return file;
    });
  }

  /**
   * The file of {@link save} piece by piece, of which one state is in memory at
   * a time. No step can be taken until the last piece, or the iterator's
   * `return`.
   */
  async *saveStream(): AsyncGenerator<
    Uint8Array<ArrayBuffer>,
    void,
    undefined
  > {
    this.#checkIdle();
    this.#busy = "save";
    try {
      const { checkpointFile, describeRunning } = await checkpoints();
      yield* checkpointFile(describeRunning(await this.#running())).chunks();
    } finally {
      this.#busy = undefined;
    }
  }

  /**
   * Takes over a saved optimizer: states, step, the history of percentile
   * clipping, sums of an accumulation; and the learning rate, unless a schedule
   * gives it here or gave it there. Other hyperparameters stay as they are here.
   * States saved in other bits, blocks or codebooks are requantized. The report
   * lists that and whatever else differs.
   *
   * @param file what `save` gave: bytes, a Blob, or `{ size, read(start, end) }`,
   * of which one state is in memory at a time.
   * @throws FileError for a file that is cut off, changed, of another optimizer
   * or other tensors; nothing has changed then.
   */
  async load(file: FileData): Promise<LoadReport> {
    return this.#replaceStates("load", async (begin) => {
      const { loadRunning } = await checkpoints();
      const loaded = await loadRunning(await this.#running(), file, begin);
      this.#steps = loaded.step;
      this.#lastRate = loaded.lastRate;
      if (loaded.lr !== undefined) this.#lr = loaded.lr;
      return loaded.report;
    });
  }

  /** A copy of all states as plain float32 numbers. */
  async toFloat32(): Promise<Float32State> {
    return this.#alone("toFloat32", async () =>
      (await plainStates()).readFloat32(await this.#running()),
    );
  }

  /**
   * Replaces all states by float32 ones, as another optimizer's `toFloat32` gives
   * them or another library keeps them, stored in this optimizer's formats; and
   * the step. So a run changes its recipe midway.
   *
   * @throws TypeError or RangeError for a tensor or state that is missing or
   * unknown, a length, or a value that is not finite; nothing has changed then.
   */
  async toLowBit(state: Float32State): Promise<void> {
    await this.#replaceStates("toLowBit", async (begin) => {
      const { writeFloat32 } = await plainStates();
      await writeFloat32(await this.#running(), state, begin);
      this.#steps = state.step;
      this.#lastRate = undefined;
    });
  }

  /** Frees everything the optimizer allocated; it cannot be used after. */
  dispose(): void {
    this.#accumulator?.dispose();
    this.#accumulator = undefined;
    this.#session?.dispose();
    this.#session = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #live(): Session {
    if (!this.#session)
      throw new Error(`${this.recipe.name}: the optimizer was disposed`);
    return this.#session;
  }

  async #alone<T>(what: string, work: () => Promise<T>): Promise<T> {
    this.#live();
    this.#checkIdle();
    this.#busy = what;
    try {
      return await work();
    } finally {
      this.#busy = undefined;
    }
  }

  /** Runs work that replaces all states, from `begin` on; if it ends midway, they cannot be used. */
  async #replaceStates<T>(
    what: string,
    work: (begin: () => void) => Promise<T>,
  ): Promise<T> {
    const before = this.#broken;
    this.#broken = undefined;
    let after = before;
    try {
      const result = await this.#alone(what, () =>
        work(() => void (after = what)),
      );
      after = undefined;
      return result;
    } finally {
      this.#broken = after;
    }
  }

  async #running(): Promise<Running> {
    await this.#norming;
    return {
      recipe: this.recipe,
      tensors: this.#tensors,
      resolved: this.#resolved,
      settings: this.#settings,
      session: this.#live(),
      accumulator: this.#accumulator,
      norms: this.#norms,
      step: this.#steps,
      scheduled: typeof this.#lr === "function",
      lastRate: this.#lastRate,
      rateAt: (step) => this.#rate(this.#lr, step),
      ownRateAt: (tensor, step) => {
        const { lr } = this.#resolved[tensor]!;
        return lr === undefined ? undefined : this.#rate(lr, step);
      },
    };
  }

  /** Names of a tensor's states. */
  #states(tensor: number): readonly string[] {
    return this.#resolved[tensor]!.optimizer.program.states;
  }

  #index(name: string): number {
    const index = this.#indices.get(name);
    if (index !== undefined) return index;
    const guess = nearestName(name, this.#indices.keys());
    throw new TypeError(
      `${this.recipe.name}: there is no tensor '${name}'${guess ? `; did you mean '${guess}'?` : ""}`,
    );
  }

  #rate(lr: LearningRate, t: number): number {
    if (typeof lr === "number") return lr;
    const value = lr(t);
    if (typeof value !== "number" || !Number.isFinite(value) || value < 0)
      throw new RangeError(
        `${this.recipe.name}: the learning rate of step ${t} must be a finite number, 0 or more, the schedule gave ${String(value)}`,
      );
    return value;
  }

  /** What a step's scalars make for every tensor; tensors with the same hyperparameters share it. */
  #scalars(base: number, t: number): Pick<StepTensor, "uniforms" | "floors">[] {
    type Shared = Pick<StepTensor, "uniforms" | "floors">;
    const shared = new Map<unknown, Map<unknown, Shared>>();
    return this.#resolved.map(({ optimizer, lr, hyper }) => {
      const own = lr !== undefined;
      const byHyper = shared.get(optimizer) ?? new Map<unknown, Shared>();
      shared.set(optimizer, byHyper);
      const cached = own ? undefined : byHyper.get(hyper);
      if (cached) return cached;
      const rate = own ? this.#rate(lr, t) : base;
      const scalars = optimizer.scalarsAt(
        {
          ...hyper,
          lr: rate,
          maxGradValue: this.#settings.maxGradValue ?? 0,
        },
        t,
      );
      const made = {
        uniforms: optimizer.program.uniforms(scalars),
        floors: Float32Array.from(
          optimizer.program.states,
          (name) => optimizer.floors[name]?.(scalars) ?? 0,
        ),
      };
      if (!own) byHyper.set(hyper, made);
      return made;
    });
  }

  /** Checks all gradients before anything is written. */
  #gradients(gradients: Readonly<Record<string, unknown>>): unknown[] {
    for (const name of Object.keys(gradients)) this.#index(name);
    return this.#tensors.map(({ name }, i) => {
      const gradient = gradients[name];
      if (gradient === undefined) {
        if (this.#settings.resident) return this.#live().gradient(i);
        throw new TypeError(
          `${this.recipe.name}: no gradient for '${name}'; a step takes one for every parameter`,
        );
      }
      if (gradient === null) return null;
      return checkData(
        this.#engine,
        this.#tensors[i]!,
        gradient,
        `${this.recipe.name}: the gradient of`,
      );
    });
  }

  /** Parameters of one step, by tensor. */
  #parameters(
    places: Readonly<Record<string, unknown>>,
    gradients: readonly unknown[],
  ): unknown[] {
    const session = this.#live();
    for (const name of Object.keys(places)) this.#index(name);
    return this.#tensors.map((tensor, i) => {
      const place = places[tensor.name];
      if (
        place === undefined &&
        gradients[i] !== null &&
        session.parameter(i) === undefined
      )
        throw new TypeError(
          `${this.recipe.name}: the parameter '${tensor.name}' was not given, and this optimizer was made without it`,
        );
      return checkData(
        this.#engine,
        tensor,
        place,
        `${this.recipe.name}: the parameter`,
      );
    });
  }
}
