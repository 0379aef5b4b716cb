/**
 * The families of transformers that `modelFromConfig` knows: which tensors the
 * models of Hugging Face's library transformers train for a `config.json`. Tests
 * hold the counts to the published ones.
 */
import { layers, linear, norm, type Fields } from "./fields.ts";
import type { PlanModel, Stack } from "./model.ts";

type Family = (fields: Fields) => Omit<PlanModel, "name">;

const same = (heads: number, width: number) => ({
  heads,
  headWidth: width / heads,
  keyHeads: heads,
});

/** GPT-2 and DistilGPT2: norms first, learned positions, the head tied. */
const gpt2: Family = (f) => {
  const [width, count] = [f.count("n_embd"), f.count("n_layer")];
  const [vocabulary, context] = [f.count("vocab_size"), f.count("n_positions")];
  const feedForward = f.count("n_inner", 4 * width);
  const heads = f.count("n_head");
  const shapes = {
    "wte.weight": [vocabulary, width],
    "wpe.weight": [context, width],
    // Stored [inputs, outputs] in this family.
    ...layers(count, "h", (h) => ({
      ...norm(`${h}.ln_1`, width),
      [`${h}.attn.c_attn.weight`]: [width, 3 * width],
      [`${h}.attn.c_attn.bias`]: [3 * width],
      [`${h}.attn.c_proj.weight`]: [width, width],
      [`${h}.attn.c_proj.bias`]: [width],
      ...norm(`${h}.ln_2`, width),
      [`${h}.mlp.c_fc.weight`]: [width, feedForward],
      [`${h}.mlp.c_fc.bias`]: [feedForward],
      [`${h}.mlp.c_proj.weight`]: [feedForward, width],
      [`${h}.mlp.c_proj.bias`]: [width],
    })),
    ...norm("ln_f", width),
  };
  const stack: Stack = {
    layers: count,
    ...same(heads, width),
    feedForward,
    gated: false,
    cross: false,
    dropout: f.happens("resid_pdrop", 0.1),
    attentionDropout: f.happens("attn_pdrop", 0.1),
  };
  return {
    shapes,
    transformer: { stacks: [stack], width, vocabulary, context },
  };
};

/** Llama, Mistral, Qwen 2 and 3: RMS norms, rotary positions, a gated MLP, grouped queries. */
const llama =
  (kind: "llama" | "mistral" | "qwen2" | "qwen3"): Family =>
  (f) => {
    const [width, count] = [
      f.count("hidden_size"),
      f.count("num_hidden_layers"),
    ];
    const heads = f.count("num_attention_heads");
    const keyHeads = f.count("num_key_value_heads", heads);
    const headWidth = f.count(
      "head_dim",
      kind === "qwen3" ? 128 : width / heads,
    );
    const feedForward = f.count("intermediate_size");
    const vocabulary = f.count("vocab_size");
    const all = f.flag("attention_bias", false);
    const qkv = all || kind === "qwen2";
    const mlp = f.flag("mlp_bias", false);
    const shapes = {
      "model.embed_tokens.weight": [vocabulary, width],
      ...layers(count, "model.layers", (h) => ({
        ...linear(`${h}.self_attn.q_proj`, heads * headWidth, width, qkv),
        ...linear(`${h}.self_attn.k_proj`, keyHeads * headWidth, width, qkv),
        ...linear(`${h}.self_attn.v_proj`, keyHeads * headWidth, width, qkv),
        ...linear(`${h}.self_attn.o_proj`, width, heads * headWidth, all),
        ...(kind === "qwen3"
          ? {
              ...norm(`${h}.self_attn.q_norm`, headWidth, false),
              ...norm(`${h}.self_attn.k_norm`, headWidth, false),
            }
          : {}),
        ...linear(`${h}.mlp.gate_proj`, feedForward, width, mlp),
        ...linear(`${h}.mlp.up_proj`, feedForward, width, mlp),
        ...linear(`${h}.mlp.down_proj`, width, feedForward, mlp),
        ...norm(`${h}.input_layernorm`, width, false),
        ...norm(`${h}.post_attention_layernorm`, width, false),
      })),
      ...norm("model.norm", width, false),
      ...(f.flag("tie_word_embeddings", false)
        ? {}
        : { "lm_head.weight": [vocabulary, width] }),
    };
    const stack: Stack = {
      layers: count,
      heads,
      headWidth,
      keyHeads,
      feedForward,
      gated: true,
      cross: false,
      dropout: false,
      attentionDropout: f.happens("attention_dropout", 0),
    };
    const context = f.count("max_position_embeddings", 2048);
    return {
      shapes,
      transformer: { stacks: [stack], width, vocabulary, context },
    };
  };

/** The first Qwen: its configuration counts both halves of the gated MLP. */
const qwen: Family = (f) => {
  const [width, count] = [f.count("hidden_size"), f.count("num_hidden_layers")];
  const heads = f.count("num_attention_heads");
  const feedForward = f.count("intermediate_size") / 2;
  const vocabulary = f.count("vocab_size");
  const shapes = {
    "transformer.wte.weight": [vocabulary, width],
    ...layers(count, "transformer.h", (h) => ({
      ...norm(`${h}.ln_1`, width, false),
      ...linear(`${h}.attn.c_attn`, 3 * width, width),
      ...linear(`${h}.attn.c_proj`, width, width, false),
      ...norm(`${h}.ln_2`, width, false),
      ...linear(`${h}.mlp.w1`, feedForward, width, false),
      ...linear(`${h}.mlp.w2`, feedForward, width, false),
      ...linear(`${h}.mlp.c_proj`, width, feedForward, false),
    })),
    ...norm("transformer.ln_f", width, false),
    "lm_head.weight": [vocabulary, width],
  };
  const stack: Stack = {
    layers: count,
    ...same(heads, width),
    feedForward,
    gated: true,
    cross: false,
    dropout: false,
    attentionDropout: f.happens("attn_dropout_prob", 0),
  };
  const context = f.count("seq_length", 2048);
  return {
    shapes,
    transformer: { stacks: [stack], width, vocabulary, context },
  };
};

/** BERT and RoBERTa: norms last, a head that depends on the architecture. */
const bert =
  (kind: "bert" | "roberta"): Family =>
  (f) => {
    const [width, count] = [
      f.count("hidden_size"),
      f.count("num_hidden_layers"),
    ];
    const heads = f.count("num_attention_heads");
    const feedForward = f.count("intermediate_size");
    const vocabulary = f.count("vocab_size");
    const places = f.count("max_position_embeddings");
    const { head } = f;
    const pools = head === "none" || (head === "classes" && kind === "bert");
    const shapes = {
      "embeddings.word_embeddings.weight": [vocabulary, width],
      "embeddings.position_embeddings.weight": [places, width],
      "embeddings.token_type_embeddings.weight": [
        f.count("type_vocab_size"),
        width,
      ],
      ...norm("embeddings.LayerNorm", width),
      ...layers(count, "encoder.layer", (h) => ({
        ...linear(`${h}.attention.self.query`, width, width),
        ...linear(`${h}.attention.self.key`, width, width),
        ...linear(`${h}.attention.self.value`, width, width),
        ...linear(`${h}.attention.output.dense`, width, width),
        ...norm(`${h}.attention.output.LayerNorm`, width),
        ...linear(`${h}.intermediate.dense`, feedForward, width),
        ...linear(`${h}.output.dense`, width, feedForward),
        ...norm(`${h}.output.LayerNorm`, width),
      })),
      ...(pools ? linear("pooler.dense", width, width) : {}),
      ...(head === "classes" && kind === "roberta"
        ? linear("classifier.dense", width, width)
        : {}),
      ...(head === "classes" ? linear("classifier.out", f.labels, width) : {}),
      ...(head === "language"
        ? {
            ...linear("lm_head.dense", width, width),
            ...norm("lm_head.layer_norm", width),
            "lm_head.bias": [vocabulary],
          }
        : {}),
    };
    const stack: Stack = {
      layers: count,
      ...same(heads, width),
      feedForward,
      gated: false,
      cross: false,
      dropout: f.happens("hidden_dropout_prob", 0.1),
      attentionDropout: f.happens("attention_probs_dropout_prob", 0.1),
    };
    // RoBERTa counts positions from the padding's on, which takes two.
    const context = kind === "roberta" ? places - 2 : places;
    return {
      shapes,
      transformer: {
        stacks: [stack],
        width,
        vocabulary: head === "language" ? vocabulary : 0,
        context,
      },
    };
  };

/** OPT; its 350M model has narrower embeddings and norms after the blocks. */
const opt: Family = (f) => {
  const [width, count] = [f.count("hidden_size"), f.count("num_hidden_layers")];
  const heads = f.count("num_attention_heads");
  const feedForward = f.count("ffn_dim");
  const vocabulary = f.count("vocab_size");
  const context = f.count("max_position_embeddings");
  const embedding = f.count("word_embed_proj_dim", width);
  const projects = embedding !== width;
  const before =
    f.flag("do_layer_norm_before", true) &&
    !f.flag("_remove_final_layer_norm", false);
  const shapes = {
    "decoder.embed_tokens.weight": [vocabulary, embedding],
    "decoder.embed_positions.weight": [context + 2, width],
    ...(projects
      ? {
          ...linear("decoder.project_in", width, embedding, false),
          ...linear("decoder.project_out", embedding, width, false),
        }
      : {}),
    ...layers(count, "decoder.layers", (h) => ({
      ...linear(`${h}.self_attn.k_proj`, width, width),
      ...linear(`${h}.self_attn.v_proj`, width, width),
      ...linear(`${h}.self_attn.q_proj`, width, width),
      ...linear(`${h}.self_attn.out_proj`, width, width),
      ...norm(`${h}.self_attn_layer_norm`, width),
      ...linear(`${h}.fc1`, feedForward, width),
      ...linear(`${h}.fc2`, width, feedForward),
      ...norm(`${h}.final_layer_norm`, width),
    })),
    ...(before ? norm("decoder.final_layer_norm", width) : {}),
  };
  const stack: Stack = {
    layers: count,
    ...same(heads, width),
    feedForward,
    gated: false,
    cross: false,
    dropout: f.happens("dropout", 0.1),
    attentionDropout: f.happens("attention_dropout", 0),
  };
  return {
    shapes,
    transformer: { stacks: [stack], width, vocabulary, context },
  };
};

/** T5 and mT5: an encoder and a decoder without biases; mT5 with gates and a head of its own. */
const t5: Family = (f) => {
  const [width, count] = [f.count("d_model"), f.count("num_layers")];
  const decoders = f.count("num_decoder_layers", count);
  const heads = f.count("num_heads");
  const headWidth = f.count("d_kv");
  const inner = heads * headWidth;
  const feedForward = f.count("d_ff");
  const vocabulary = f.count("vocab_size");
  const gated = f.text("feed_forward_proj", "relu").startsWith("gated");
  const attention = (name: string) => ({
    ...linear(`${name}.q`, inner, width, false),
    ...linear(`${name}.k`, inner, width, false),
    ...linear(`${name}.v`, inner, width, false),
    ...linear(`${name}.o`, width, inner, false),
  });
  const block = (name: string, index: number, cross: boolean) => ({
    ...attention(`${name}.SelfAttention`),
    // One table of relative positions for a whole stack.
    ...(index === 0
      ? {
          [`${name}.SelfAttention.relative_attention_bias.weight`]: [
            f.count("relative_attention_num_buckets", 32),
            heads,
          ],
        }
      : {}),
    ...norm(`${name}.layer_norm.0`, width, false),
    ...(cross
      ? {
          ...attention(`${name}.EncDecAttention`),
          ...norm(`${name}.layer_norm.1`, width, false),
        }
      : {}),
    ...linear(`${name}.DenseReluDense.wi`, feedForward, width, false),
    ...(gated
      ? linear(`${name}.DenseReluDense.wi_1`, feedForward, width, false)
      : {}),
    ...linear(`${name}.DenseReluDense.wo`, width, feedForward, false),
    ...norm(`${name}.layer_norm.2`, width, false),
  });
  const shapes = {
    "shared.weight": [vocabulary, width],
    ...layers(count, "encoder.block", (name, i) => block(name, i, false)),
    ...norm("encoder.final_layer_norm", width, false),
    ...layers(decoders, "decoder.block", (name, i) => block(name, i, true)),
    ...norm("decoder.final_layer_norm", width, false),
    ...(f.flag("tie_word_embeddings", true)
      ? {}
      : { "lm_head.weight": [vocabulary, width] }),
  };
  const dropout = f.happens("dropout_rate", 0.1);
  const stack = (layers: number, cross: boolean): Stack => ({
    layers,
    heads,
    headWidth,
    keyHeads: heads,
    feedForward,
    gated,
    cross,
    dropout,
    attentionDropout: dropout,
  });
  return {
    shapes,
    transformer: {
      stacks: [stack(count, false), stack(decoders, true)],
      width,
      vocabulary,
      context: Infinity, // positions are relative
    },
  };
};

/** By the `model_type` of a configuration. */
export const families: Readonly<Record<string, Family>> = {
  gpt2,
  llama: llama("llama"),
  mistral: llama("mistral"),
  qwen,
  qwen2: llama("qwen2"),
  qwen3: llama("qwen3"),
  bert: bert("bert"),
  roberta: bert("roberta"),
  "xlm-roberta": bert("roberta"),
  opt,
  t5,
  mt5: (f) => t5(f),
};
