import type { TrainConfig } from "./config.ts";

interface Described {
  /** Heading in the help. */
  readonly group: "model" | "training" | "optimizer" | "sample" | "machine";
  /** One line for a newcomer. */
  readonly help: string;
}

/** An option of a run: what it may be, its default, and what it means. */
export type Option = Described &
  (
    | { readonly kind: "text"; readonly default: string }
    | {
        readonly kind: "choice";
        readonly choices: readonly string[];
        readonly default: string;
      }
    | {
        readonly kind: "integer" | "number";
        readonly min: number;
        readonly max: number;
        /** An upper limit that is itself not allowed. */
        readonly below?: number;
        /** Undefined where the help says what it depends on. */
        readonly default?: number;
      }
  );

type Limits = { max?: number; below?: number; default?: number };

const integer = (min: number, limits: Limits = {}) =>
  ({ kind: "integer", min, max: Infinity, ...limits }) as const;
const number = (min: number, limits: Limits = {}) =>
  ({ kind: "number", min, max: Infinity, ...limits }) as const;

/**
 * Every option of a run: the one table behind the checks, the command line's
 * flags and its help. An option without a default here gets it in
 * `resolveConfig` from the others.
 */
export const trainOptions: { readonly [K in keyof TrainConfig]-?: Option } = {
  layers: {
    group: "model",
    ...integer(1, { default: 4, max: 1000 }),
    help: "Blocks of attention and MLP",
  },
  heads: {
    group: "model",
    ...integer(1, { default: 4 }),
    help: "Attention heads; they must divide the width",
  },
  width: {
    group: "model",
    ...integer(1, { default: 128 }),
    help: "Numbers for each byte inside of the model",
  },
  context: {
    group: "model",
    ...integer(1, { default: 64 }),
    help: "Bytes that the model sees at once",
  },
  steps: {
    group: "training",
    ...integer(1, { default: 400 }),
    help: "Updates of the parameters",
  },
  batch: {
    group: "training",
    ...integer(1, { default: 8 }),
    help: "Pieces of text in each step",
  },
  evalEvery: {
    group: "training",
    ...integer(0),
    help: "Steps between looks at the validation loss; 0: only before and after (default: a quarter of the steps)",
  },
  saveEvery: {
    group: "training",
    ...integer(0, { default: 0 }),
    help: "Steps between checkpoints, from which --resume goes on; 0: only when Ctrl-C ends the run",
  },
  seed: {
    group: "training",
    ...integer(0, { default: 0, max: 2 ** 32 - 1 }),
    help: "The same seed gives the same run",
  },
  optimizer: {
    group: "optimizer",
    kind: "text",
    default: "adamw8bit",
    help: "adamw8bit, adamw4bit, adamw32bit, sgd8bit and so on; a wrong name lists them all",
  },
  lr: {
    group: "optimizer",
    ...number(0),
    help: "Highest learning rate (default: one that suits the optimizer; 0.0015 for adamw)",
  },
  weightDecay: {
    group: "optimizer",
    ...number(0, { default: 0.1 }),
    help: "Weight decay; biases, norms and embeddings have none",
  },
  beta1: {
    group: "optimizer",
    ...number(0, { below: 1 }),
    help: "How slowly the first moment forgets (default: the optimizer's)",
  },
  beta2: {
    group: "optimizer",
    ...number(0, { below: 1 }),
    help: "How slowly the second moment forgets (default: the optimizer's)",
  },
  maxGradNorm: {
    group: "optimizer",
    ...number(0, { default: 1 }),
    help: "Longer gradients are shortened to this norm; 0: never",
  },
  minQuantizedSize: {
    group: "optimizer",
    ...integer(0, { default: 4096 }),
    help: "Tensors with fewer numbers keep 32-bit state",
  },
  schedule: {
    group: "optimizer",
    kind: "choice",
    choices: ["cosine", "linear", "constant"],
    default: "cosine",
    help: "How the learning rate falls after the warm-up: cosine, linear or constant",
  },
  warmup: {
    group: "optimizer",
    ...integer(0),
    help: "Steps over which the learning rate rises from 0 (default: a fifth of the steps, 50 at most)",
  },
  minLr: {
    group: "optimizer",
    ...number(0),
    help: "Learning rate at the end of the schedule (default: a tenth of lr)",
  },
  sampleLength: {
    group: "sample",
    ...integer(0, { default: 200, max: 1_000_000 }),
    help: "Bytes of text to generate before and after; 0: none",
  },
  prompt: {
    group: "sample",
    kind: "text",
    default: "\n",
    help: "How the generated text begins (default: a line break)",
  },
  temperature: {
    group: "sample",
    ...number(0, { default: 0.8 }),
    help: "0 always takes the likeliest byte; 1 draws as the model says",
  },
  device: {
    group: "machine",
    kind: "choice",
    choices: ["wasm", "webgpu", "cpu"],
    default: "wasm",
    help: "Where jax-js computes the model: wasm, webgpu or cpu (see below)",
  },
  threads: {
    group: "machine",
    ...integer(1, { max: 256 }),
    help: "Threads for the model and the optimizer (default: one for each core, 8 at most)",
  },
};
