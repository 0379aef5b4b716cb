/**
 * The papers' tables of the largest models that can be trained, as the plan
 * computes them. A paper names GPU memory, batch and sometimes the length; what
 * it leaves open is assumed here, and said.
 */
import { publicModel, series } from "./catalogue.ts";
import { largestModels } from "./largest.ts";
import type { PlanModel } from "./model.ts";
import type { PlanOptions } from "./options.ts";

/** One line of such a table. */
export interface PresetRow {
  /** Memory of the GPU, in 2^30 bytes. */
  readonly memoryGiB: number;
  /** Whose sizes compete. */
  readonly models: readonly string[];
  /** The largest by recipe, as printed in the paper; undefined where it has none. */
  readonly printed: Readonly<Record<string, string | undefined>>;
}

/** A table of a paper, and what it takes to compute it. */
export interface Preset {
  /** As the paper has it. */
  readonly title: string;
  /** Paper and table. */
  readonly source: string;
  /** What the paper says, and what is assumed. */
  readonly assumptions: readonly string[];
  /** Of every plan in the table. */
  readonly options: PlanOptions;
  /** One a size of memory. */
  readonly rows: readonly PresetRow[];
}

const names = (name: string) => Object.keys(series[name]!);

/** A CUDA context with its libraries; of a card's memory it is gone at once. */
const CUDA_CONTEXT = 5e8;

const OPT = names("opt").filter((name) => name !== "opt-2.7b");

const classifier = {
  architectures: ["RobertaForSequenceClassification"],
};

/** The tables by name: `paper1-table2`, `paper2-table5`. */
export const presets: Readonly<Record<string, Preset>> = {
  "paper1-table2": {
    title: "Largest model that can be finetuned",
    source: "arXiv 2110.02861, table 2",
    assumptions: [
      "the paper: batch size 1",
      "assumed: sequences of 512 tokens, everything in float32, no checkpointing, attention weights kept",
      "assumed: a card sold as 6 GB has 6 GiB, of which a CUDA context takes 0.5 GB",
      "assumed: RoBERTa with a classification head (GLUE), mT5 and GPT-2 with their heads over the vocabulary",
      "the paper's GPT-2-medium (762M) and GPT-2-large (1.5B) are the checkpoints gpt2-large and gpt2-xl",
    ],
    options: {
      recipes: ["adam32bit", "adam8bit"],
      reserve: CUDA_CONTEXT,
      context: 512,
    },
    rows: [
      {
        memoryGiB: 6,
        models: names("roberta"),
        printed: { adam32bit: "roberta-base", adam8bit: "roberta-large" },
      },
      {
        memoryGiB: 11,
        models: names("mt5"),
        printed: { adam32bit: "mt5-small", adam8bit: "mt5-base" },
      },
      {
        memoryGiB: 24,
        models: names("mt5"),
        printed: { adam32bit: "mt5-base", adam8bit: "mt5-large" },
      },
      {
        memoryGiB: 24,
        models: names("gpt2"),
        printed: { adam32bit: "gpt2-large", adam8bit: "gpt2-xl" },
      },
    ],
  },
  "paper2-table5": {
    title: "Largest model that can be trained",
    source: "arXiv 2309.01507, table 5",
    assumptions: [
      "the paper: batch size 1, 512 tokens; FSDP on 80 GB",
      "assumed: everything in float32, no checkpointing, attention weights kept",
      "assumed: PyTorch's default 32-bit AdamW, whose step takes the size of the parameters once more; without that, OPT-1.3B would fit into 24 GB in 32 bits",
      "assumed: a card sold as 24 GB has 24 GiB, of which a CUDA context takes 0.5 GB",
      "OPT-2.7B is left out, which the table does not name: by this count it fits into 80 GB in 32 bits, and the paper does not say why it is not there",
    ],
    options: {
      recipes: ["adamw32bit", "adamw4bitBlock"],
      reserve: CUDA_CONTEXT,
      context: 512,
      host: "pytorch",
    },
    rows: [
      {
        memoryGiB: 24,
        models: OPT,
        printed: { adamw32bit: "opt-350m", adamw4bitBlock: "opt-1.3b" },
      },
      {
        memoryGiB: 80,
        models: OPT,
        printed: { adamw32bit: "opt-1.3b", adamw4bitBlock: "opt-6.7b" },
      },
      {
        memoryGiB: 80,
        models: names("llama").filter((name) => name !== "tinyllama-1.1b"),
        printed: { adamw32bit: undefined, adamw4bitBlock: "llama-7b" },
      },
    ],
  },
};

/** A line of a table as computed, beside what the paper prints. */
export interface PresetResult {
  /** Memory of the GPU, in 2^30 bytes. */
  readonly memoryGiB: number;
  /** By recipe: the largest model that fits (see {@link LargestModel}), and what the paper prints. */
  readonly largest: readonly {
    readonly recipe: string;
    readonly model: string | undefined;
    readonly parameters: number;
    readonly totalBytes: number;
    readonly printed: string | undefined;
  }[];
}

/** Computes a paper's table: for each size of memory and recipe the largest model that fits. */
export function runPreset({ options, rows }: Preset): PresetResult[] {
  return rows.map(({ memoryGiB, models, printed }) => ({
    memoryGiB,
    largest: largestModels(models.map(presetModel), {
      ...options,
      memory: memoryGiB * 2 ** 30,
    }).map((found) => ({ ...found, printed: printed[found.recipe] })),
  }));
}

const presetModel = (name: string): PlanModel =>
  publicModel(name, name.startsWith("roberta") ? classifier : {})!;
