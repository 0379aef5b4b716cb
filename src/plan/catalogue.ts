/**
 * Public models by name, as far as memory goes: what of their `config.json` says
 * how large they are. In each series from small to large.
 */
import { modelFromConfig } from "./config.ts";
import type { PlanModel } from "./model.ts";

type Config = Readonly<Record<string, unknown>>;

const gpt2 = (n_layer: number, n_embd: number, n_head: number): Config => ({
  ...{ model_type: "gpt2", vocab_size: 50257, n_positions: 1024 },
  ...{ n_layer, n_embd, n_head, architectures: ["GPT2LMHeadModel"] },
});

const bert = (
  model_type: "bert" | "roberta",
  layers: number,
  width: number,
): Config => ({
  ...(model_type === "bert"
    ? { vocab_size: 30522, max_position_embeddings: 512, type_vocab_size: 2 }
    : { vocab_size: 50265, max_position_embeddings: 514, type_vocab_size: 1 }),
  model_type,
  hidden_size: width,
  num_hidden_layers: layers,
  num_attention_heads: width / 64,
  intermediate_size: 4 * width,
  architectures: [
    model_type === "bert" ? "BertForMaskedLM" : "RobertaForMaskedLM",
  ],
});

const opt = (layers: number, width: number, heads: number): Config => ({
  ...{ model_type: "opt", vocab_size: 50272, max_position_embeddings: 2048 },
  ...{ hidden_size: width, num_hidden_layers: layers, ffn_dim: 4 * width },
  ...{ num_attention_heads: heads, word_embed_proj_dim: width },
});

const t5 = (
  layers: number,
  d_model: number,
  d_ff: number,
  num_heads: number,
): Config => ({
  ...{ model_type: "t5", vocab_size: 32128, num_layers: layers, d_kv: 64 },
  ...{ d_model, d_ff, num_heads, feed_forward_proj: "relu" },
});

const mt5 = (
  layers: number,
  d_model: number,
  d_ff: number,
  num_heads: number,
): Config => ({
  ...t5(layers, d_model, d_ff, num_heads),
  ...{ model_type: "mt5", vocab_size: 250112, tie_word_embeddings: false },
  feed_forward_proj: "gated-gelu",
});

const llama = (
  model_type: string,
  sizes: readonly [
    layers: number,
    width: number,
    feedForward: number,
    heads: number,
    keyHeads: number,
  ],
  vocab_size: number,
  more: Config = {},
): Config => ({
  ...{ model_type, vocab_size, hidden_size: sizes[1] },
  ...{ num_hidden_layers: sizes[0], intermediate_size: sizes[2] },
  ...{ num_attention_heads: sizes[3], num_key_value_heads: sizes[4] },
  ...{ max_position_embeddings: 2048, ...more },
});

const tied = { tie_word_embeddings: true };
const long = { max_position_embeddings: 32768 };

/** Series by name; each from small to large. */
export const series: Readonly<
  Record<string, Readonly<Record<string, Config>>>
> = {
  gpt2: {
    distilgpt2: gpt2(6, 768, 12),
    gpt2: gpt2(12, 768, 12),
    "gpt2-medium": gpt2(24, 1024, 16),
    "gpt2-large": gpt2(36, 1280, 20),
    "gpt2-xl": gpt2(48, 1600, 25),
  },
  bert: {
    "bert-base": bert("bert", 12, 768),
    "bert-large": bert("bert", 24, 1024),
  },
  roberta: {
    "roberta-base": bert("roberta", 12, 768),
    "roberta-large": bert("roberta", 24, 1024),
  },
  opt: {
    "opt-125m": opt(12, 768, 12),
    "opt-350m": {
      ...opt(24, 1024, 16),
      ...{ word_embed_proj_dim: 512, do_layer_norm_before: false },
    },
    "opt-1.3b": opt(24, 2048, 32),
    "opt-2.7b": opt(32, 2560, 32),
    "opt-6.7b": opt(32, 4096, 32),
    "opt-13b": opt(40, 5120, 40),
    "opt-30b": opt(48, 7168, 56),
    "opt-66b": opt(64, 9216, 72),
  },
  t5: {
    "t5-small": t5(6, 512, 2048, 8),
    "t5-base": t5(12, 768, 3072, 12),
    "t5-large": t5(24, 1024, 4096, 16),
    "t5-3b": { ...t5(24, 1024, 16384, 32), d_kv: 128 },
    "t5-11b": { ...t5(24, 1024, 65536, 128), d_kv: 128 },
  },
  mt5: {
    "mt5-small": mt5(8, 512, 1024, 6),
    "mt5-base": mt5(12, 768, 2048, 12),
    "mt5-large": mt5(24, 1024, 2816, 16),
    "mt5-xl": mt5(24, 2048, 5120, 32),
    "mt5-xxl": mt5(24, 4096, 10240, 64),
  },
  llama: {
    "tinyllama-1.1b": llama("llama", [22, 2048, 5632, 32, 4], 32000),
    "llama-7b": llama("llama", [32, 4096, 11008, 32, 32], 32000),
    "llama-13b": llama("llama", [40, 5120, 13824, 40, 40], 32000),
    "llama-33b": llama("llama", [60, 6656, 17920, 52, 52], 32000),
    "llama-65b": llama("llama", [80, 8192, 22016, 64, 64], 32000),
  },
  mistral: {
    "mistral-7b": llama("mistral", [32, 4096, 14336, 32, 8], 32000, long),
  },
  qwen2: {
    "qwen2.5-0.5b": llama("qwen2", [24, 896, 4864, 14, 2], 151936, {
      ...tied,
      ...long,
    }),
    "qwen2.5-1.5b": llama("qwen2", [28, 1536, 8960, 12, 2], 151936, {
      ...tied,
      ...long,
    }),
    "qwen2.5-3b": llama("qwen2", [36, 2048, 11008, 16, 2], 151936, {
      ...tied,
      ...long,
    }),
    "qwen2.5-7b": llama("qwen2", [28, 3584, 18944, 28, 4], 152064, long),
    "qwen2.5-14b": llama("qwen2", [48, 5120, 13824, 40, 8], 152064, long),
  },
};

/** Every public model known here by its name. */
export const publicModelNames = (): string[] =>
  Object.values(series).flatMap((models) => Object.keys(models));

/**
 * A public model by its name, as `gpt2-medium`.
 *
 * @returns undefined for a name that is not known.
 */
export function publicModel(
  name: string,
  changes: Config = {},
): PlanModel | undefined {
  for (const models of Object.values(series))
    if (Object.hasOwn(models, name))
      return modelFromConfig({ ...models[name], ...changes }, name);
  return undefined;
}
