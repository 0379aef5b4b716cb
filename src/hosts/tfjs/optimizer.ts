/** The optimizers as TensorFlow.js has them. */
import {
  dispose,
  engine,
  keep,
  Optimizer,
  tidy,
  type NamedTensorMap,
  type Tensor,
  type Variable,
} from "@tensorflow/tfjs-core";
import type { MemoryReport } from "../../core/memory.ts";
import type { Explanation, Stats } from "../../core/reports.ts";
import {
  checkLearningRate,
  type LearningRate,
} from "../../optimizers/hyper.ts";
import type { OptimizerFactory } from "../../optimizers/define.ts";
import type { Access, NamedTensor, Update } from "./access.ts";
import { accessTo } from "./backends.ts";
import { Batch, infoOf } from "./batch.ts";
import { apart, clippedTogether, concernsAll } from "./joint.ts";
import { hostName, translated } from "./names.ts";
import {
  parseOptions,
  toConfig,
  type Parsed,
  type TfConfig,
} from "./options.ts";
import { joinMemory, joinStats } from "./reports.ts";
import { rulesFor } from "./rules.ts";
import { SavedStates, writeWeights } from "./weights.ts";

/** The classes of the door extend it, see classes.ts. */
export abstract class LowbitOptimizer extends Optimizer {
  readonly #factory: OptimizerFactory;
  readonly #parsed: Parsed;
  readonly #options: Readonly<Record<string, unknown>>;
  #learningRate: LearningRate;
  #batches: Batch[] = [];
  /** By the variable itself: a name may come again with another size. */
  readonly #batchOf = new Map<Variable, Batch>();
  /** Batches that took part in the last step. */
  #last: readonly Batch[] = [];
  /** Of all gradients in the last step, when they are in several batches. */
  #norm: Tensor | undefined;
  #saved: SavedStates | undefined;
  #exported: Tensor[] = [];
  #disposed = false;

  /** The base class says yes to every optimizer there is. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return Function.prototype[Symbol.hasInstance].call(this, value);
  }

  constructor(
    factory: OptimizerFactory,
    learningRate: LearningRate | undefined,
    options: Readonly<Record<string, unknown>>,
  ) {
    super();
    this.#factory = factory;
    this.#parsed = parseOptions(factory, learningRate, options);
    this.#options = { ...options };
    this.#learningRate = this.#parsed.recipe.lr;
    // So that what must be tried out has been when the first step comes.
    if (engine().backendName) accessTo(engine().backend);
  }

  /** A number, or a function of the step (the first is 1). Set it whenever you like. */
  get learningRate(): LearningRate {
    return this.#learningRate;
  }

  set learningRate(value: LearningRate) {
    try {
      this.#learningRate = checkLearningRate(this.#name, value);
    } catch (error) {
      throw translated(error, this.#factory.definition.hyper);
    }
  }

  /** As `tf.train.sgd` has it. */
  setLearningRate(learningRate: LearningRate): void {
    this.learningRate = learningRate;
  }

  /**
   * Updates variables by their names, one step further.
   *
   * @param gradients as `tf.variableGrads` gives them, or a list. A variable
   * without a gradient keeps its values and its state.
   * @throws TypeError for a name that is no variable, or a gradient of another
   * shape; nothing has changed then.
   */
  override applyGradients(gradients: NamedTensorMap | NamedTensor[]): void {
    this.#checkAlive();
    const updates = this.#updates(gradients);
    try {
      tidy(() => this.#step(updates));
    } catch (error) {
      throw translated(error, this.#factory.definition.hyper);
    }
    this.incrementIterations();
  }

  #updates(gradients: NamedTensorMap | NamedTensor[]): Update[] {
    const list = Array.isArray(gradients)
      ? gradients
      : Object.entries(gradients).map(([name, tensor]) => ({ name, tensor }));
    const { registeredVariables } = engine();
    const names = new Set<string>();
    return list.flatMap(({ name, tensor: gradient }) => {
      const variable = registeredVariables[name];
      if (!variable)
        throw new TypeError(
          `${this.#name}: there is no variable '${name}'; it was disposed, or gradients go by other names`,
        );
      if (names.has(name))
        throw new TypeError(`${this.#name}: two gradients for '${name}'`);
      names.add(name);
      // Variables that a loss does not depend on have none.
      if (!(gradient as Tensor | null | undefined)) return [];
      checkGradient(this.#name, variable, gradient);
      return variable.size === 0 ? [] : [{ variable, gradient }];
    });
  }

  #step(given: readonly Update[]): void {
    const access = accessTo(engine().backend);
    this.#dropDisposed();
    const fresh = given.filter(({ variable }) => !this.#batchOf.has(variable));
    if (fresh.length > 0)
      this.#addBatch(
        fresh.map(({ variable }) => variable),
        access,
      );
    const { settings } = this.#parsed;
    const batches = new Set(given.map(({ variable }) => this.#batch(variable)));
    for (const batch of batches) this.#checkPlace(batch, access);
    let updates = apart(given);
    this.#keepNorm(undefined);
    if (batches.size > 1 && concernsAll(settings)) {
      const { gradients, norm } = clippedTogether(
        updates.map(({ gradient }) => gradient),
        settings,
      );
      this.#keepNorm(norm);
      updates = updates.map(({ variable }, i) => ({
        variable,
        gradient: gradients[i]!,
      }));
    }
    for (const batch of batches)
      batch.step(
        updates.filter(({ variable }) => this.#batch(variable) === batch),
        this.#learningRate,
        this.iterations + 1,
      );
    this.#last = [...batches];
  }

  #keepNorm(norm: Tensor | undefined): void {
    this.#norm?.dispose();
    this.#norm = norm && keep(norm);
  }

  #batch(variable: Variable): Batch {
    return this.#batchOf.get(variable)!;
  }

  #addBatch(variables: readonly Variable[], access: Access): void {
    const { recipe, settings } = this.#parsed;
    const fresh = new Set(variables);
    const others = [
      ...this.#batchOf.keys(),
      ...Object.values(engine().registeredVariables),
    ].filter((variable) => !fresh.has(variable));
    const rules = rulesFor(settings, variables.map(infoOf), others.map(infoOf));
    const batch = new Batch(recipe, variables, access, {
      ...settings,
      ...rules,
    });
    try {
      this.#saved?.giveTo(batch);
    } catch (error) {
      batch.handle.dispose();
      throw error;
    }
    this.#batches.push(batch);
    for (const variable of variables) this.#batchOf.set(variable, batch);
  }

  /** The states of variables that are gone, once all that came with them are. */
  #dropDisposed(): void {
    for (const variable of this.#batchOf.keys())
      if (variable.isDisposed) this.#batchOf.delete(variable);
    this.#batches = this.#batches.filter((batch) => {
      if (batch.live) return true;
      batch.handle.dispose();
      return false;
    });
  }

  #checkPlace(batch: Batch, access: Access): void {
    if (batch.access === access) return;
    // An engine in memory takes numbers from wherever they are.
    if (!batch.access.onDevice && !access.onDevice) return;
    throw new Error(
      `${this.#name}: the states lie with another backend than '${engine().backendName}'; take them along by: await optimizer.setWeights(await optimizer.getWeights())`,
    );
  }

  /**
   * The states as tensors: `iter`, a description, and for each variable and state its
   * numbers, or codes (four in an int32) and scales; see docs/tfjs.md. The
   * tensors are the optimizer's: they are disposed at the next call.
   */
  override async getWeights(): Promise<NamedTensor[]> {
    this.#checkAlive();
    this.#dropDisposed();
    const [iterations, states] = await Promise.all([
      this.saveIterations(),
      writeWeights(this.#parsed.recipe, this.#batches, this.#saved),
    ]);
    const weights = [iterations, ...states];
    dispose(this.#exported);
    this.#exported = weights.map(({ tensor }) => tensor);
    return weights;
  }

  /**
   * Takes over what {@link getWeights} gave, here or in another process, on
   * this backend or another one. The numbers are copied; variables find their
   * states at their next step, by name, or else by order and shape.
   */
  override async setWeights(weights: NamedTensor[]): Promise<void> {
    this.#checkAlive();
    const saved = await SavedStates.read(this.#parsed.recipe, weights);
    await this.extractIterations(weights);
    this.#freeStates();
    this.#saved = saved;
  }

  /** What makes this optimizer again: every hyperparameter, defaults included. */
  override getConfig(): TfConfig {
    return toConfig(this.#parsed, this.#options, this.#learningRate);
  }

  /** What the states take, by variable, and what float32 would. Not part of `tf.memory()`. */
  memory(): MemoryReport {
    this.#checkAlive();
    return joinMemory(this.#batches.map(({ handle }) => handle.memory()));
  }

  /** For people: a row for each variable with what applies to it and which rule decided. */
  explain(): Explanation[] {
    this.#checkAlive();
    const { hyper } = this.#factory.definition;
    return this.#batches
      .flatMap(({ handle }) => handle.explain())
      .map(
        (row) =>
          Object.fromEntries(
            Object.entries(row).map(([key, value]) => [
              Object.hasOwn(hyper, key) ? hostName(key, hyper) : key,
              value,
            ]),
          ) as Explanation,
      );
  }

  /** What happened in the last step: elements left out, and the norm with `maxGradNorm`. */
  async stats(): Promise<Stats> {
    this.#checkAlive();
    const { iterations } = this;
    const all = await Promise.all(this.#last.map((batch) => batch.stats()));
    const rate = this.#rateAt(Math.max(1, iterations));
    const stats = joinStats(iterations, rate, all.flat());
    if (!this.#norm) return stats;
    const [gradNorm] = await this.#norm.data();
    return { ...stats, gradNorm: gradNorm! };
  }

  /**
   * Resolves when the way that steps will take is settled. On WebGPU the fastest is
   * tried out first, which takes a moment; steps taken before are right, too,
   * but need room for copies.
   */
  async ready(): Promise<void> {
    await accessTo(engine().backend).ready;
  }

  /** Where steps run, in words, and how the numbers are reached. */
  get device(): string {
    const { description } =
      this.#batches.at(-1)?.access ?? accessTo(engine().backend);
    return description;
  }

  /** Frees everything the optimizer allocated; it cannot be used after. */
  override dispose(): void {
    this.#disposed = true;
    this.#freeStates();
    dispose(this.#exported);
    this.#exported = [];
  }

  #freeStates(): void {
    for (const { handle } of this.#batches) handle.dispose();
    this.#batches = [];
    this.#batchOf.clear();
    this.#last = [];
    this.#keepNorm(undefined);
    this.#saved = undefined;
  }

  #rateAt(step: number): number {
    const rate = this.#learningRate;
    return typeof rate === "number" ? rate : rate(step);
  }

  get #name(): string {
    return this.#factory.optimizerName;
  }

  #checkAlive(): void {
    if (this.#disposed)
      throw new Error(`${this.#name}: the optimizer was disposed`);
  }
}

function checkGradient(
  owner: string,
  variable: Variable,
  gradient: Tensor,
): void {
  if (variable.dtype !== "float32" || gradient.dtype !== "float32")
    throw new TypeError(
      `${owner}: '${variable.name}' is ${variable.dtype} and its gradient ${gradient.dtype}; both must be float32`,
    );
  const [wanted, given] = [variable.shape, gradient.shape].map(String);
  if (wanted !== given)
    throw new TypeError(
      `${owner}: '${variable.name}' has the shape [${wanted}], its gradient [${given}]`,
    );
}
