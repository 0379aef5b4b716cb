import type { LoadReport } from "../core/checkpoint.ts";
import { estimateMemory, type MemoryReport } from "../core/memory.ts";
import { safetensorsChunks, type SafeTensors } from "../io/safetensors.ts";
import type { FileData } from "../io/source.ts";
import type { FusedOptimizer } from "../hosts/jax/fused.ts";
import type { Recipe } from "../optimizers/define.ts";
import { resolveConfig, type TrainConfig } from "./config.ts";
import { asInputError, InputError } from "./errors.ts";
import { checkArrays, checkHeap } from "./heap.ts";
import { Host } from "./host.ts";
import { loadJax } from "./jax.ts";
import {
  initialParameters,
  parameterCount,
  parameterShapes,
  WITHOUT_DECAY,
  type Parameter,
} from "./model.ts";
import {
  codeUse,
  quantizationError,
  type CodeUse,
  type QuantizationError,
} from "./quantization.ts";
import { Random, type RandomState } from "./random.ts";
import { trainRecipe } from "./recipe.ts";
import { generate } from "./sample.ts";
import { learningRate } from "./schedule.ts";
import { Split } from "./split.ts";

/** What one step did. */
export interface StepResult {
  /** From 1. */
  readonly step: number;
  /** Of the batch, before the update, in nats a byte. */
  readonly loss: number;
  /** Learning rate of the step. */
  readonly lr: number;
  /** 2-norm of all gradients before clipping; only with maxGradNorm. */
  readonly gradNorm: number | undefined;
  /** Gradient elements that were not finite and were left out. */
  readonly nonFinite: number;
  /** Bytes that the model learned from. */
  readonly tokens: number;
  /** Time of the whole step, and the optimizer's part of it. */
  readonly milliseconds: number;
  /** Of the optimizer alone. */
  readonly optimizerMilliseconds: number;
}

/** Where a run stands, besides its parameters and its optimizer. */
export interface Position {
  /** Steps taken. */
  readonly step: number;
  /** Of the generator that draws the batches: the position in the text. */
  readonly batches: RandomState;
}

/** All that a run goes on from. */
export interface Saved {
  /** Where the run stood. */
  readonly position: Position;
  /** As from `modelFile`. */
  readonly model: SafeTensors;
  /** As from `optimizerFile`. */
  readonly optimizer: FileData;
}

/** A byte-level GPT, its text and its optimizer. */
export class Trainer {
  /** The options, complete. */
  readonly config: TrainConfig;
  /** Numbers that the model has. */
  readonly parameterCount: number;
  /** The text, in a part for training and one for validation. */
  readonly split: Split;
  readonly #host: Host;
  readonly #optimizer: FusedOptimizer;
  readonly #batches: Random;
  #step = 0;

  private constructor(
    config: TrainConfig,
    split: Split,
    host: Host,
    optimizer: FusedOptimizer,
  ) {
    this.config = config;
    this.split = split;
    this.parameterCount = parameterCount(config);
    this.#host = host;
    this.#optimizer = optimizer;
    this.#batches = new Random(config.seed, "batches");
  }

  /**
   * @param options see `trainOptions`; what is left out gets its default
   * @throws InputError for options, texts and sizes that cannot work
   */
  static async create(
    text: Uint8Array,
    options: Readonly<Record<string, unknown>> = {},
  ): Promise<Trainer> {
    const config = resolveConfig(options);
    const recipe = trainRecipe(config);
    const split = new Split(text, config.context);
    const { minQuantizedSize } = config;
    const { stateBytes } = estimateMemory(parameterShapes(config), recipe, {
      minQuantizedSize,
    });
    const onGpu = config.device === "webgpu";
    if (!onGpu) checkHeap(config, config.batch, stateBytes);
    const jax = await loadJax(config.device, config.threads);
    if (onGpu) checkArrays(config, config.batch, jax.getWebGPUDevice().limits);
    const parameters = initialParameters(
      config,
      new Random(config.seed, "parameters"),
    );
    const host = new Host(jax, config, parameters, config);
    try {
      const optimizer = await host.createOptimizer(
        recipe,
        optimizerOptions(config, recipe),
      );
      optimizer.handle.lr = learningRate(config);
      return new Trainer(config, split, host, optimizer);
    } catch (error) {
      host.dispose();
      throw asInputError(error);
    }
  }

  /** Steps taken. */
  get steps(): number {
    return this.#step;
  }

  /** Where the model and the optimizer run, in words. */
  get description(): { model: string; optimizer: string } {
    return {
      model: this.#host.description,
      optimizer: this.#optimizer.handle.device,
    };
  }

  /** What the optimizer's states take, from its buffers, and what 32-bit would. */
  memory(): MemoryReport {
    return this.#optimizer.handle.memory();
  }

  /** The parameters as they are now; a copy. */
  weights(): Promise<Record<string, Parameter>> {
    return this.#host.parameters();
  }

  get position(): Position {
    return { step: this.#step, batches: this.#batches.state };
  }

  /** The parameters as a safetensors file, piece by piece. */
  async *modelFile(): AsyncGenerator<Uint8Array, void, undefined> {
    const { layers, heads, width, context } = this.config;
    yield* safetensorsChunks(
      Object.fromEntries(
        Object.entries(await this.weights()).map(([name, { data, shape }]) => [
          name,
          { dtype: "F32" as const, shape, data },
        ]),
      ),
      {
        model: JSON.stringify({ layers, heads, width, context }),
        step: String(this.#step),
      },
    );
  }

  /** The optimizer as a safetensors file, piece by piece; no step until its end. */
  optimizerFile(): AsyncGenerator<Uint8Array, void, undefined> {
    return this.#optimizer.handle.saveStream();
  }

  /**
   * Goes on from where another trainer stood.
   *
   * @throws InputError or FileError when something is not this model's; the
   * trainer is of no use then.
   */
  async restore({ position, model, optimizer }: Saved): Promise<LoadReport> {
    const batches = new Random(0, "");
    batches.state = position.batches;
    const known = Object.entries(parameterShapes(this.config));
    if (Object.keys(model.tensors).length !== known.length)
      throw new InputError(
        `the model file has ${Object.keys(model.tensors).length} tensors, and the model ${known.length}`,
      );
    for (const [name, shape] of known) {
      const saved = model.tensors[name];
      if (saved?.dtype !== "F32" || String(saved.shape) !== String(shape))
        throw new InputError(
          `the model file has no '${name}' in float32 of shape [${shape.join(", ")}]`,
        );
    }
    const report = await this.#optimizer.handle.load(optimizer);
    if (report.step !== position.step)
      throw new InputError(
        `the optimizer had taken ${report.step} steps, and the run ${position.step}`,
      );
    this.#host.setParameters(
      Object.fromEntries(
        known.map(([name, shape]) => [
          name,
          {
            data: model.tensors[name]!.data as Float32Array<ArrayBuffer>,
            shape,
          },
        ]),
      ),
    );
    this.#batches.state = position.batches;
    this.#step = position.step;
    return report;
  }

  /** One update from the next batch. */
  async step(): Promise<StepResult> {
    const start = performance.now();
    const { batch, context } = this.config;
    const { loss, gradients } = await this.#host.backward(
      this.split.trainBatch(batch, this.#batches),
    );
    const before = performance.now();
    await this.#host.update(this.#optimizer, gradients);
    // On a GPU the step is done when its report is there.
    const stats = await this.#optimizer.handle.stats();
    const after = performance.now();
    return {
      step: ++this.#step,
      loss,
      lr: stats.lr,
      gradNorm: stats.gradNorm,
      nonFinite: stats.nonFinite,
      tokens: batch * context,
      milliseconds: performance.now() - start,
      optimizerMilliseconds: after - before,
    };
  }

  /** Mean loss in nats a byte over the text that training never sees. */
  async validationLoss(): Promise<number> {
    const batches = this.split.validationBatches(this.config.batch);
    let sum = 0;
    for (const batch of batches) sum += await this.#host.loss(batch);
    return sum / batches.length;
  }

  /** Text of `sampleLength` bytes; the same parameters write the same text. */
  async sample(signal?: AbortSignal): Promise<Uint8Array> {
    const { context, prompt, sampleLength, temperature, seed } = this.config;
    return generate({
      logits: (tokens) => this.#host.logits(tokens),
      context,
      prompt: new TextEncoder().encode(prompt || "\n"),
      length: sampleLength,
      temperature,
      random: new Random(seed, "sample"),
      stopped: () => signal?.aborted ?? false,
    });
  }

  /** Which codes the states are stored as; nothing where they are float32. */
  async codeUse(): Promise<CodeUse[]> {
    return codeUse(this.#optimizer.handle, parameterShapes(this.config));
  }

  /**
   * How well another recipe's formats hold the states of this run, as they are
   * now; nothing for states that are not float32 here.
   *
   * @param optimizer the recipe's name
   * @throws InputError for an unknown one
   */
  async quantizationError(optimizer: string): Promise<QuantizationError[]> {
    const config = resolveConfig({ ...this.config, optimizer });
    const recipe = trainRecipe(config);
    return quantizationError(
      this.#optimizer.handle,
      parameterShapes(this.config),
      recipe,
      optimizerOptions(config, recipe),
    );
  }

  /** Frees the model's and the optimizer's memory. */
  dispose(): void {
    this.#host.dispose();
    this.#optimizer.dispose();
  }
}

function optimizerOptions(config: TrainConfig, recipe: Recipe) {
  const { threads, seed, minQuantizedSize, maxGradNorm } = config;
  return {
    threads,
    seed,
    minQuantizedSize,
    ...(maxGradNorm > 0 ? { maxGradNorm } : {}),
    overrides:
      "weightDecay" in recipe.hyper
        ? [{ match: WITHOUT_DECAY, weightDecay: 0 }]
        : [],
  };
}
