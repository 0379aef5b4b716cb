import { nearestName } from "../formula/error.ts";
import { optimizerByName } from "../optimizers/registry.ts";
import { asInputError, InputError } from "./errors.ts";
import { trainOptions, type Option } from "./options.ts";
import type { Schedule } from "./schedule.ts";

/** Where the model is computed. */
export type TrainDevice = "wasm" | "webgpu" | "cpu";

/** Everything that decides a run besides its text. See {@link trainOptions}. */
export interface TrainConfig {
  readonly optimizer: string;
  readonly lr: number;
  readonly weightDecay: number;
  /** Undefined leaves it to the optimizer, which need not have one. */
  readonly beta1?: number | undefined;
  readonly beta2?: number | undefined;
  readonly maxGradNorm: number;
  readonly minQuantizedSize: number;
  readonly schedule: Schedule;
  readonly warmup: number;
  readonly minLr: number;
  readonly steps: number;
  readonly batch: number;
  readonly evalEvery: number;
  /** Steps between checkpoints; 0: none, but when a run is ended early. */
  readonly saveEvery: number;
  readonly seed: number;
  readonly layers: number;
  readonly heads: number;
  readonly width: number;
  readonly context: number;
  readonly sampleLength: number;
  readonly prompt: string;
  readonly temperature: number;
  readonly device: TrainDevice;
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
