/// <reference lib="esnext.disposable" preserve="true" />
import type {
  Engine,
  Session,
  StepReport,
  StepTensor,
  StoredState,
} from "../engines/engine.ts";
import type { Format } from "../formats/format.ts";
import { scaleCount } from "../formats/format.ts";
import { codeBytes } from "../formats/pack.ts";
import { randomKey } from "../formats/random.ts";
import { nearestName } from "../formula/error.ts";
import {
  checkLearningRate,
  type LearningRate,
  type Recipe,
} from "../optimizers/define.ts";
import { createAccumulator, type Accumulator } from "./accumulate.ts";
import { loadEngine } from "./engines.ts";
import { memoryReport, stateLength, type MemoryReport } from "./memory.ts";
import { NormHistory } from "./norms.ts";
import { resolveTensors, type Resolved, type TensorInfo } from "./options.ts";
import {
  checkSettings,
  checkShape,
  type CheckedOptions,
  type OptimizerOptions,
} from "./settings.ts";

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

/**
 * Creates an optimizer: validates everything, allocates all state (zeros), and
 * runs nothing yet.
 *
 * @param parameters by name; names are what overrides and checkpoints go by.
 * @throws TypeError or RangeError for bad options; nothing stays allocated.
 */
export async function createOptimizer(
  recipe: Recipe,
  parameters: Readonly<Record<string, Parameter>>,
  options: OptimizerOptions = {},
): Promise<OptimizerHandle> {
  if (typeof recipe !== "object" || !("optimizer" in recipe))
    throw new TypeError(
      `createOptimizer: the first argument must be a recipe, such as adamw8bit({ lr: 1e-3 }), given ${typeof recipe === "function" ? "the function itself; call it" : String(recipe)}`,
    );
  const settings = checkSettings(options);
  const tensors = Object.entries(parameters).map(([name, { shape }]) => ({
    name,
    shape: [...shape],
    size: checkShape("createOptimizer", name, shape),
  }));
  checkShared(parameters);
  const resolved = resolveTensors(recipe, tensors, settings);
  const engine = await loadEngine(options.device ?? "wasm");
  const session = await engine.createSession(
    tensors.map((tensor, i) => ({
      ...tensor,
      program: resolved[i]!.optimizer.program,
      formats: resolved[i]!.formats,
      parameter: checkData(engine, tensor, parameters[tensor.name]!.data),
    })),
    {
      skip: settings.skip,
      clip: clips(settings),
      resident: settings.resident,
      threads: settings.threads,
    },
  );
  const accumulator =
    settings.accumulate > 1
      ? await createAccumulator(engine, tensors, settings)
      : undefined;
  return new OptimizerHandle(
    recipe,
    tensors,
    resolved,
    settings,
    engine,
    session,
    accumulator,
  );
}

const clips = ({ maxGradNorm, percentileClipping }: CheckedOptions) =>
  maxGradNorm !== undefined || percentileClipping !== undefined;

/** A tied weight given twice would be updated twice. */
function checkShared(parameters: Readonly<Record<string, Parameter>>): void {
  const owners = new Map<unknown, string>();
  for (const [name, { data }] of Object.entries(parameters)) {
    if (!(data instanceof Float32Array) || data.length === 0) continue;
    const owner = owners.get(data);
    if (owner !== undefined)
      throw new TypeError(
        `createOptimizer: '${owner}' and '${name}' are the same array; give a tied weight once`,
      );
    owners.set(data, name);
  }
}

function checkData(engine: Engine, tensor: TensorInfo, data: unknown): unknown {
  if (data === undefined) return undefined;
  if (data instanceof Float32Array) {
    if (data.length !== tensor.size)
      throw new RangeError(
        `createOptimizer: '${tensor.name}' of shape [${tensor.shape.join(", ")}] has ${tensor.size} elements, its data ${data.length}`,
      );
    return data;
  }
  if (engine.accepts?.(data)) return data;
  throw new TypeError(
    `createOptimizer: the data of '${tensor.name}' must be a Float32Array${engine.accepts ? " or a GPU buffer" : ""} on device '${engine.name}', given ${Object.prototype.toString.call(data).slice(8, -1)}`,
  );
}

/** The object a user holds; made by {@link createOptimizer}. */
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
    if (this.#busy)
      throw new Error(
        `${this.recipe.name}: the step before has not ended; await optimizer.step(...)`,
      );
    const passed = this.#gradients(gradients);
    const given = this.#accumulator
      ? await this.#accumulate(this.#accumulator, passed)
      : passed;
    if (!given) return;
    const t = this.#steps + 1;
    const base = this.#rate(this.#lr, t);
    const uniforms = this.#uniforms(base, t);
    const input = given.map((gradient, i): StepTensor | undefined => {
      if (gradient === null) return undefined;
      return {
        gradient,
        uniforms: uniforms[i]!,
        keys: Uint32Array.from(this.#states(i), (_, s) =>
          randomKey(this.#settings.seed, t, i, s),
        ),
      };
    });
    this.#busy = true;
    try {
      await session.step({
        tensors: input,
        maxGradNorm: this.#limit(),
      });
      await this.#norms?.take(session.report());
      this.#steps = t;
      this.#lastRate = base;
    } finally {
      this.#busy = false;
    }
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
      await session.writeState(tensor, names.indexOf(state), stored);
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
    return this.#tensors.map(({ name, size }, i) => {
      const gradient = gradients[name];
      if (gradient === undefined) {
        if (this.#settings.resident) return this.#live().gradient(i);
        throw new TypeError(
          `${this.recipe.name}: no gradient for '${name}'; a step takes one for every parameter`,
        );
      }
      if (gradient === null) return null;
      if (gradient instanceof Float32Array) {
        if (gradient.length !== size)
          throw new RangeError(
            `${this.recipe.name}: '${name}' has ${size} elements, its gradient ${gradient.length}`,
          );
        return gradient;
      }
      if (this.#engine.accepts?.(gradient)) return gradient;
      throw new TypeError(
        `${this.recipe.name}: the gradient of '${name}' must be a Float32Array${this.#engine.accepts ? " or a GPU buffer" : ""}, given ${Object.prototype.toString.call(gradient).slice(8, -1)}`,
      );
    });
  }
}

function checkStored(
  owner: string,
  format: Format,
  size: number,
  shape: readonly number[],
  stored: StoredState,
): void {
  const wrong = (what: string, wanted: number, given: number) =>
    new RangeError(`setState: ${owner} has ${wanted} ${what}, given ${given}`);
  const kind = format.kind === "float" ? "float" : "quantized";
  if (stored.kind !== kind)
    throw new TypeError(
      `setState: ${owner} is stored as ${kind}, given ${stored.kind}`,
    );
  if (stored.kind === "float") {
    if (stored.values.length !== size)
      throw wrong("values", size, stored.values.length);
    return;
  }
  const bytes = codeBytes(format.bits, size);
  if (stored.codes.length !== bytes)
    throw wrong("bytes of codes", bytes, stored.codes.length);
  const scales = scaleCount(format, size, shape);
  if (stored.scales.length !== scales)
    throw wrong("scales", scales, stored.scales.length);
}
