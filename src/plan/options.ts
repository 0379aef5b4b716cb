import { nearestName } from "../formula/error.ts";
import type { Recipe } from "../optimizers/define.ts";
import type { PlanModel } from "./model.ts";

/** How numbers of parameters, gradients and activations are kept. */
export const dtypes = {
  /** 4 bytes each. */
  float32: { parameter: 4, gradient: 4, activation: 4 },
  /** 2 bytes each. */
  bfloat16: { parameter: 2, gradient: 2, activation: 2 },
  float16: { parameter: 2, gradient: 2, activation: 2 },
  /** Float32 parameters and gradients, a 16-bit copy of the parameters, 16-bit activations. */
  mixed: { parameter: 6, gradient: 4, activation: 2 },
} as const;
/** A name of {@link dtypes}. */
export type PlanDtype = keyof typeof dtypes;

/**
 * Who runs the step, which decides about its temporaries: `lowbit` on arrays or
 * buffers of your own, TensorFlow.js, jax-js, or PyTorch.
 */
export const hosts = ["lowbit", "tfjs", "jax", "pytorch"] as const;
/** A name of {@link hosts}. */
export type PlanHost = (typeof hosts)[number];

/** What a plan depends on beside the model. */
export interface PlanOptions {
  /** Recipes or their names. Default adamw32bit, adamw8bit, adamw4bit, factor4bit. */
  readonly recipes?: readonly (Recipe | string)[];
  /** Bytes there are; Infinity asks for no verdict. Default Infinity. */
  readonly memory?: number;
  /** Bytes that something else takes, as a GPU's context. Default 0. */
  readonly reserve?: number;
  /** Default float32. */
  readonly dtype?: PlanDtype;
  /** Sequences in a batch. Default 1. */
  readonly batch?: number;
  /** Tokens in a sequence. Default 1024, or the model's own limit when that is less. */
  readonly context?: number;
  /** Keep only each layer's input. Default false. */
  readonly checkpointing?: boolean;
  /** Default standard. */
  readonly attention?: "standard" | "flash";
  /** Default lowbit. */
  readonly host?: PlanHost;
  /** Bytes of activations, where you know better; the only way for models that are no transformers. */
  readonly activations?: number;
  /** Rank of LoRA adapters, which are trained in the model's place. */
  readonly lora?: number;
  /** Tensors with fewer elements keep float32 state. Default 4096. */
  readonly minQuantizedSize?: number;
}

export type CheckedPlan = Required<
  Omit<PlanOptions, "activations" | "lora" | "context">
> &
  Pick<PlanOptions, "activations" | "lora"> & { readonly context: number };

const names = [
  "recipes",
  "memory",
  "reserve",
  "dtype",
  "batch",
  "context",
  "checkpointing",
  "attention",
  "host",
  "activations",
  "lora",
  "minQuantizedSize",
];

/** What `planMemory` compares when no recipes are named. */
export const usualRecipes = [
  "adamw32bit",
  "adamw8bit",
  "adamw4bit",
  "factor4bit",
] as const;

/** @throws TypeError or RangeError that says what was given and what is allowed. */
export function checkPlan(
  { transformer }: PlanModel,
  options: PlanOptions,
): CheckedPlan {
  for (const key of Object.keys(options))
    if (!names.includes(key)) {
      const guess = nearestName(key, names);
      throw new TypeError(
        `planMemory: unknown option '${key}'; ${guess ? `did you mean '${guess}'?` : `there are ${names.join(", ")}`}`,
      );
    }
  const { batch = 1, memory = Infinity, reserve = 0, lora } = options;
  const { dtype = "float32", host = "lowbit" } = options;
  const { attention = "standard", activations } = options;
  const context =
    options.context ?? Math.min(1024, transformer?.context ?? 1024);
  count("batch", batch);
  count("context", context);
  if (lora !== undefined) count("lora", lora);
  choice("dtype", dtype, Object.keys(dtypes));
  choice("host", host, hosts);
  choice("attention", attention, ["standard", "flash"]);
  for (const [name, value] of Object.entries({ memory, reserve, activations }))
    if (value !== undefined && !(value >= 0))
      throw new RangeError(
        `planMemory: ${name} must be a number of bytes, 0 or more, given ${String(value)}`,
      );
  if (transformer && context > transformer.context)
    throw new RangeError(
      `planMemory: the model takes ${transformer.context} tokens at most, given a context of ${context}`,
    );
  return {
    recipes: options.recipes ?? usualRecipes,
    memory,
    reserve,
    dtype,
    batch,
    context,
    checkpointing: options.checkpointing ?? false,
    attention,
    host,
    minQuantizedSize: options.minQuantizedSize ?? 4096,
    ...(activations === undefined ? {} : { activations }),
    ...(lora === undefined ? {} : { lora }),
  };
}

function count(name: string, value: number): void {
  if (!Number.isSafeInteger(value) || value < 1)
    throw new RangeError(
      `planMemory: ${name} must be a whole number, 1 or more, given ${String(value)}`,
    );
}

function choice(name: string, value: string, all: readonly string[]): void {
  if (!all.includes(value))
    throw new TypeError(
      `planMemory: ${name} must be ${all.join(", ")}, given '${value}'`,
    );
}
