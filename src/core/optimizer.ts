/// <reference lib="esnext.disposable" preserve="true" />
import type { HostStates, Session, StoredState } from "../engines/engine.ts";
import type { Format } from "../formats/format.ts";
import type { FileData } from "../io/source.ts";
import type { Recipe } from "../optimizers/define.ts";
import { checkLearningRate, type LearningRate } from "../optimizers/hyper.ts";
import type { Accumulator } from "./accumulate.ts";
import type { LoadReport, Running } from "./checkpoint.ts";
import { Exclusive } from "./exclusive.ts";
import type { Float32State } from "./float32.ts";
import { memoryReport, type MemoryReport } from "./memory.ts";
import { NormHistory } from "./norms.ts";
import { tensorIndex, type Parts } from "./parts.ts";
import { rateAt, stepScalars } from "./rates.ts";
import {
  explanations,
  statsOf,
  type Explanation,
  type Stats,
} from "./reports.ts";
import {
  formatsOfTensor,
  readStates,
  writeStates,
  type ReadState,
} from "./states.ts";
import {
  gradientsOf,
  parametersOf,
  stepInput,
  type StepPlaces,
} from "./step.ts";

/** Loaded when first used, so that a page that never saves does not carry it. */
const checkpoints = () => import("./checkpoint.ts");
const plainStates = () => import("./float32.ts");

/** The object a user holds; made by `createOptimizer`. */
export class OptimizerHandle {
  /** What it was made from. */
  readonly recipe: Recipe;
  readonly #parts: Parts;
  readonly #indexOf: (name: string) => number;
  readonly #norms: NormHistory | undefined;
  readonly #exclusive: Exclusive;
  #accumulator: Accumulator | undefined;
  #session: Session | undefined;
  #lr: LearningRate;
  #steps = 0;
  #lastRate: number | undefined;
  /** Ends when the norm of the last step is known. */
  #norming: Promise<void> | undefined;

  /** @internal */
  constructor(parts: Parts, session: Session, accumulator?: Accumulator) {
    const { recipe, settings } = parts;
    this.recipe = recipe;
    this.#parts = parts;
    this.#indexOf = tensorIndex(parts);
    this.#exclusive = new Exclusive(recipe.name);
    this.#session = session;
    this.#accumulator = accumulator;
    if (settings.percentileClipping !== undefined)
      this.#norms = new NormHistory(settings.percentileClipping);
    this.#lr = recipe.lr;
  }

  /** Steps taken. */
  get steps(): number {
    return this.#steps;
  }

  /** Learning rate of the next step; set it to a number or a function of the step. */
  get lr(): number {
    return this.#rateAt(this.#steps + 1);
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
    this.#exclusive.check();
    const passed = this.#gradients(gradients);
    const accumulator = this.#accumulator;
    const given = accumulator
      ? await this.#alone("step", () => accumulator.add(passed))
      : passed;
    if (!given) return;
    const t = this.#steps + 1;
    const base = this.#rateAt(t);
    await this.#alone("step", async () => {
      await session.step(stepInput(this.#parts, given, base, t, this.#limit()));
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
    { parameters = {}, regions, step, written }: StepPlaces = {},
  ): void {
    const session = this.#live();
    this.#exclusive.check();
    if (!session.stepSync)
      throw new Error(
        `${this.recipe.name}: this optimizer takes steps that wait; call step(), or make it with createOptimizerSync`,
      );
    const given = this.#gradients(gradients);
    this.#checkNames(parameters);
    const places = parametersOf(this.#parts, session, parameters, given);
    const t = step ?? this.#steps + 1;
    const base = this.#rateAt(t);
    const input = stepInput(
      this.#parts,
      given,
      base,
      t,
      this.#limit(),
      places,
      written,
    );
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
    const base = rate ?? this.#rateAt(step);
    return stepScalars(this.#parts, base, step).map(({ uniforms }) => uniforms);
  }

  /** How states lie that the host keeps; undefined when the engine does. */
  get hostStates(): HostStates | undefined {
    return this.#live().hostStates;
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
    const { maxGradNorm } = this.#parts.settings;
    if (!this.#norms) return maxGradNorm;
    return Math.min(maxGradNorm ?? Infinity, this.#norms.limit());
  }

  /** What happened in the last step. A promise on a WebGPU device; `await` it anywhere. */
  stats(): Stats | Promise<Stats> {
    const step = this.#steps;
    const lr = this.#lastRate ?? this.lr;
    const report = this.#live().report();
    return report instanceof Promise
      ? report.then((known) => statsOf(known, step, lr))
      : statsOf(report, step, lr);
  }

  /** What the states take, from the buffers as allocated, and what float32 would. */
  memory(): MemoryReport {
    const session = this.#live();
    return memoryReport(
      this.#parts.tensors,
      this.#parts.resolved,
      (tensor, state) => session.stateBytes(tensor, state),
      session.workspaceBytes() + (this.#accumulator?.bytes() ?? 0),
    );
  }

  /** For people: a row for each tensor with what applies to it and which rule decided. */
  explain(): Explanation[] {
    return explanations(this.#parts, this.memory(), this.lr, this.#steps + 1);
  }

  /** Where a parameter lives now: what was given, or the engine's memory. */
  parameter(name: string): unknown {
    return this.#live().parameter(this.#indexOf(name));
  }

  /** With `resident: true`: memory to write a gradient into, read by a step without a copy. */
  gradient(name: string): unknown {
    if (!this.#parts.settings.resident)
      throw new Error(
        `${this.recipe.name}: gradients live with their owner; create the optimizer with { resident: true } to get memory for them`,
      );
    return this.#live().gradient(this.#indexOf(name));
  }

  /** The stored states of a tensor by name: a copy of codes and scales, or float32 values. */
  async state(name: string): Promise<Record<string, ReadState>> {
    const session = this.#live();
    return readStates(this.#parts, session, this.#indexOf(name));
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
    return formatsOfTensor(this.#parts, this.#indexOf(name));
  }

  /** The same at once; on a device it is queued. */
  setStateSync(
    name: string,
    states: Readonly<Record<string, StoredState>>,
  ): void {
    const session = this.#live();
    writeStates(this.#parts, session, this.#indexOf(name), states);
  }

  /**
   * Everything about the optimizer but its parameters, as a safetensors file
   * that says itself how each number is stored: see docs/checkpoints.md.
   * Another optimizer for the same parameters, on whatever engine, loads it and
   * goes on.
   */
  async save(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#alone("save", async () => {
      const { wholeFile } = await checkpoints();
      return wholeFile(await this.#running());
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
    const end = this.#exclusive.begin("save");
    try {
      const { checkpointFile, describeRunning } = await checkpoints();
      yield* checkpointFile(describeRunning(await this.#running())).chunks();
    } finally {
      end();
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
    return this.#exclusive.run(what, work);
  }

  async #replaceStates<T>(
    what: string,
    work: (begin: () => void) => Promise<T>,
  ): Promise<T> {
    this.#live();
    return this.#exclusive.replace(what, work);
  }

  async #running(): Promise<Running> {
    await this.#norming;
    const { recipe, resolved } = this.#parts;
    return {
      ...this.#parts,
      session: this.#live(),
      accumulator: this.#accumulator,
      norms: this.#norms,
      step: this.#steps,
      scheduled: typeof this.#lr === "function",
      lastRate: this.#lastRate,
      rateAt: (step) => this.#rateAt(step),
      ownRateAt: (tensor, step) => {
        const { lr } = resolved[tensor]!;
        return lr === undefined ? undefined : rateAt(recipe.name, lr, step);
      },
    };
  }

  #rateAt(t: number): number {
    return rateAt(this.recipe.name, this.#lr, t);
  }

  #checkNames(given: Readonly<Record<string, unknown>>): void {
    for (const name of Object.keys(given)) this.#indexOf(name);
  }

  /** Checks all gradients before anything is written. */
  #gradients(given: Readonly<Record<string, unknown>>): unknown[] {
    this.#checkNames(given);
    return gradientsOf(this.#parts, this.#live(), given);
  }
}
