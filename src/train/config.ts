import { nearestName } from "../formula/error.ts";
import { optimizerByName } from "../optimizers/registry.ts";
import { asInputError, InputError } from "./errors.ts";
import { trainOptions, type Option } from "./options.ts";
import type { Schedule } from "./schedule.ts";

/** Where the model is computed. */
export type TrainDevice = "wasm" | "webgpu" | "cpu";

/** Everything that decides a run besides its text. See {@link trainOptions}. */
export interface TrainConfig {
  /** Name of an optimizer or recipe. Default adamw8bit. */
  readonly optimizer: string;
  /** Highest learning rate. Default: one that suits the optimizer. */
  readonly lr: number;
  /** Of matrices; biases, norms and embeddings have none. Default 0.1. */
  readonly weightDecay: number;
  /** Undefined leaves it to the optimizer, which need not have one. */
  readonly beta1?: number | undefined;
  /** As beta1. */
  readonly beta2?: number | undefined;
  /** Longer gradients are shortened to this 2-norm; 0: never. Default 1. */
  readonly maxGradNorm: number;
  /** Tensors with fewer elements keep float32 state. Default 4096. */
  readonly minQuantizedSize: number;
  /** How the learning rate falls after the warm-up. Default cosine. */
  readonly schedule: Schedule;
  /** Steps over which it rises from 0. Default: a fifth of the steps, 50 at most. */
  readonly warmup: number;
  /** Learning rate at the end. Default: a tenth of `lr`. */
  readonly minLr: number;
  /** Updates of the parameters. Default 400. */
  readonly steps: number;
  /** Pieces of text in each step. Default 8. */
  readonly batch: number;
  /** Steps between looks at the validation loss; 0: only before and after. Default: a quarter of the steps. */
  readonly evalEvery: number;
  /** Steps between checkpoints; 0: none, but when a run is ended early. */
  readonly saveEvery: number;
  /** Of initial parameters, batches and samples. Default 0. */
  readonly seed: number;
  /** Blocks of attention and MLP. Default 4. */
  readonly layers: number;
  /** Attention heads, which divide `width`. Default 4. */
  readonly heads: number;
  /** Size of the residual stream. Default 128. */
  readonly width: number;
  /** Bytes that the model sees at once. Default 64. */
  readonly context: number;
  /** Bytes of text to generate before and after; 0: none. Default 200. */
  readonly sampleLength: number;
  /** How the generated text begins. Default: a line break. */
  readonly prompt: string;
  /** 0 takes the likeliest byte, 1 draws as the model says. Default 0.8. */
  readonly temperature: number;
  /** Where the model is computed. Default wasm. */
  readonly device: TrainDevice;
  /** Of model and optimizer. Default: one for each core, 8 at most. */
  readonly threads: number;
}

/**
 * Learning rates that suit the default model. Others take the one that their
 * definition has.
 */
const usualRates: Readonly<Record<string, number>> = {
  adam: 1.5e-3,
  adamw: 1.5e-3,
  factor: 1.5e-3, // AdamW with a factored second moment
  lion: 3e-4,
  sgd: 0.1,
};

/**
 * Checks a configuration and fills in what is missing.
 *
 * @throws InputError for an unknown key, with the nearest one, and for a value
 * of the wrong kind or outside of its range.
 */
export function resolveConfig(
  given: Readonly<Record<string, unknown>> = {},
): TrainConfig {
  const values: Record<string, unknown> = {};
  // In the order of the table, whatever the order given.
  for (const [key, option] of Object.entries(trainOptions))
    values[key] = option.default;
  for (const [key, value] of Object.entries(given))
    if (value !== undefined) values[key] = checkOption(key, value);
  const config = values as unknown as TrainConfig;
  if (config.width % config.heads !== 0)
    throw new InputError(
      `width must be a multiple of heads, given width ${config.width} and heads ${config.heads}`,
    );
  const lr = config.lr ?? usualRate(config.optimizer);
  const filled: TrainConfig = {
    ...config,
    lr,
    minLr: config.minLr ?? lr / 10,
    warmup: config.warmup ?? Math.min(50, Math.floor(config.steps / 5)),
    evalEvery: config.evalEvery ?? Math.ceil(config.steps / 4),
    threads: config.threads ?? usualThreads(),
  };
  if (filled.minLr > filled.lr)
    throw new InputError(
      `min-lr must not be above lr, given ${filled.minLr} and ${filled.lr}`,
    );
  return filled;
}

function usualRate(optimizer: string): number {
  try {
    const { name, hyper } = optimizerByName(optimizer).definition;
    return usualRates[name] ?? Number(hyper.lr);
  } catch (error) {
    throw asInputError(error);
  }
}

/** More than eight do not make a model of this size faster. */
const usualThreads = () =>
  Math.min(8, globalThis.navigator?.hardwareConcurrency || 1);

function checkOption(key: string, value: unknown): unknown {
  if (!Object.hasOwn(trainOptions, key)) {
    const guess = nearestName(key, Object.keys(trainOptions));
    throw new InputError(
      `unknown option '${key}'${guess ? `; did you mean '${guess}'?` : `; there are ${Object.keys(trainOptions).join(", ")}`}`,
    );
  }
  const option: Option = trainOptions[key as keyof TrainConfig];
  const name = optionName(key);
  switch (option.kind) {
    case "text":
      if (typeof value === "string") return value;
      throw new InputError(`${name} must be text, given ${show(value)}`);
    case "choice":
      if (option.choices.includes(value as string)) return value;
      throw new InputError(
        `${name} must be ${option.choices.join(", ")}, given ${show(value)}`,
      );
    case "integer":
    case "number":
      return checkNumber(name, option, value);
  }
  return option satisfies never;
}

function checkNumber(
  name: string,
  option: Extract<Option, { kind: "integer" | "number" }>,
  value: unknown,
): number {
  const { kind, min, max, below } = option;
  const inRange =
    typeof value === "number" &&
    value >= min &&
    value <= max &&
    !(below !== undefined && value >= below) &&
    (kind === "number" || Number.isInteger(value));
  if (inRange && Number.isFinite(value)) return value;
  const what = kind === "integer" ? "a whole number" : "a number";
  const range =
    below !== undefined
      ? `from ${min} to below ${below}`
      : Number.isFinite(max)
        ? `from ${min} to ${max}`
        : `of ${min} or more`;
  throw new InputError(
    `${name} must be ${what} ${range}, given ${show(value)}`,
  );
}

/** `weightDecay` as people write it: `weight-decay`. */
export const optionName = (key: string) =>
  key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

const show = (value: unknown) =>
  typeof value === "number" ? String(value) : JSON.stringify(value);
