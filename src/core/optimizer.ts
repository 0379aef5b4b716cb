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
import {
  checkLearningRate,
  type LearningRate,
  type Recipe,
} from "../optimizers/define.ts";
import type { Accumulator } from "./accumulate.ts";
import { checkData, checkStored } from "./check.ts";
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
  #busy = false;

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
    const given = this.#accumulator
      ? await this.#accumulate(this.#accumulator, passed)
      : passed;
    if (!given) return;
    const t = this.#steps + 1;
    const base = this.#rate(this.#lr, t);
    this.#busy = true;
    try {
      await session.step(this.#input(given, base, t));
      if (this.#norms) this.#norms.take(await session.report());
      this.#steps = t;
      this.#lastRate = base;
    } finally {
      this.#busy = false;
    }
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

  /** How states lie that the host keeps; undefined when the engine does. */
  get hostStates(): HostStates | undefined {
    return this.#live().hostStates;
  }

  #checkIdle(): void {
    if (this.#busy)
      throw new Error(
        `${this.recipe.name}: the step before has not ended; await optimizer.step(...)`,
      );
  }

  /** What the engine gets for step `t`. */
  #input(
    gradients: readonly unknown[],
    base: number,
    t: number,
    parameters: readonly unknown[] = [],
  ): StepInput {
    const uniforms = this.#uniforms(base, t);
    const { seed } = this.#settings;
    return {
      tensors: gradients.map((gradient, i): StepTensor | undefined => {
        if (gradient === null) return undefined;
        const given = {
          gradient,
          uniforms: uniforms[i]!,
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
      void report.then((known) => norms.take(known));
    else norms.take(report);
  }

  /** Largest norm of this step: the least of what the options ask for. */
  #limit(): number | undefined {
    const { maxGradNorm } = this.#settings;
    if (!this.#norms) return maxGradNorm;
    return Math.min(maxGradNorm ?? Infinity, this.#norms.limit());
  }

  /** Adds up; the mean gradients when it is time for a step, else nothing. */
  async #accumulate(
    accumulator: Accumulator,
    gradients: readonly unknown[],
  ): Promise<unknown[] | undefined> {
    this.#busy = true;
    try {
      return await accumulator.add(gradients);
    } finally {
      this.#busy = false;
    }
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

  /** Uniforms of every tensor; tensors with the same hyperparameters share an array. */
  #uniforms(base: number, t: number): Float32Array[] {
    const shared = new Map<unknown, Map<unknown, Float32Array>>();
    return this.#resolved.map(({ optimizer, lr, hyper }) => {
      const own = lr !== undefined;
      const byHyper = shared.get(optimizer) ?? new Map<unknown, Float32Array>();
      shared.set(optimizer, byHyper);
      const cached = own ? undefined : byHyper.get(hyper);
      if (cached) return cached;
      const rate = own ? this.#rate(lr, t) : base;
      const uniforms = optimizer.program.uniforms(
        optimizer.scalarsAt(
          {
            ...hyper,
            lr: rate,
            maxGradValue: this.#settings.maxGradValue ?? 0,
          },
          t,
        ),
      );
      if (!own) byHyper.set(hyper, uniforms);
      return uniforms;
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
