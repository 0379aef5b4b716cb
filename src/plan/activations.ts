/**
 * What a transformer keeps of the forward pass for the backward pass: the count
 * of Korthikanti et al. (arXiv 2205.05198, section 4.1), written out by tensor so
 * that it holds for float32, gated MLPs, grouped queries and cross-attention,
 * too. With 16 bits, dropout, a plain MLP of four times the width and as many
 * key heads as heads, a layer comes to their s b h (34 + 5 a s / h) bytes.
 */
import type { Stack, Transformer } from "./model.ts";

/** What the size of the activations depends on beside the model. */
export interface ActivationOptions {
  /** Sequences in a batch. */
  readonly batch: number;
  /** Tokens in a sequence; of encoder and decoder each. */
  readonly context: number;
  /** Bytes of an activation: 4, or 2 for 16-bit types. */
  readonly bytes: 2 | 4;
  /** Keep only each layer's input, and compute the rest again. */
  readonly checkpointing: boolean;
  /** `standard` keeps the attention's weights (context x context), `flash` does not. */
  readonly attention: "standard" | "flash";
}

/** Bytes that the forward pass leaves for the backward pass, in parts. */
export interface Activations {
  /** Of the layers, without the attention's weights. */
  readonly layers: number;
  /** The attention's weights: heads x context x context in each layer. */
  readonly attention: number;
  /** Embedded tokens, last norm, and the logits with what the loss keeps of them. */
  readonly head: number;
  /** All of them. */
  readonly total: number;
}

/**
 * Bytes of the activations at their peak, the end of the forward pass
 * (arXiv 2205.05198, section 4.1).
 */
export function activationBytes(
  { stacks, width, vocabulary }: Transformer,
  options: ActivationOptions,
): Activations {
  const { batch, context, bytes, checkpointing } = options;
  const tokens = batch * context;
  let [layers, attention] = [0, 0];
  for (const stack of stacks) {
    const layer = tokens * layerBytes(stack, width, options);
    const weights = tokens * attentionBytes(stack, options);
    // Checkpointing holds one layer whole while its backward pass runs.
    const times = checkpointing ? 1 : stack.layers;
    layers += times * layer;
    attention += times * weights;
    if (checkpointing) layers += stack.layers * tokens * bytes * width;
  }
  // Each stack embeds its tokens and ends in a norm. The loss keeps the logits,
  // their logarithms of probabilities in float32 and the gradient of these; from
  // 16 bits the logits are widened first.
  const ends = stacks.length * 2 * bytes * width;
  const logits = vocabulary * (bytes + (bytes === 4 ? 0 : 4) + 4 + 4);
  const head = tokens * (ends + logits);
  return { layers, attention, head, total: layers + attention + head };
}

/** Bytes a token of one layer, without what grows with the square of the context. */
function layerBytes(
  stack: Stack,
  width: number,
  { bytes, attention }: ActivationOptions,
): number {
  const { heads, headWidth, keyHeads, feedForward, gated, cross } = stack;
  const inner = heads * headWidth;
  const mask = stack.dropout ? width : 0; // a byte each
  // Its input, queries, keys, values, and what the output matrix multiplies.
  // Without flash kernels keys and values are repeated for each of their heads.
  const keys = attention === "flash" ? keyHeads * headWidth : inner;
  const flash = attention === "flash" ? 4 * heads : 0; // a float32 a row
  const attends = bytes * (width + 2 * inner + 2 * keys) + mask + flash;
  const mlp = bytes * (width + (gated ? 4 : 2) * feedForward) + mask;
  const norms = (cross ? 3 : 2) * bytes * width;
  return (cross ? 2 : 1) * attends + mlp + norms;
}

/** Bytes a token of one layer's attention weights: after softmax, and with dropout its mask and result. */
function attentionBytes(
  { heads, cross, attentionDropout }: Stack,
  { bytes, context, attention }: ActivationOptions,
): number {
  if (attention === "flash") return 0;
  const each = attentionDropout ? 2 * bytes + 1 : bytes;
  return (cross ? 2 : 1) * heads * context * each;
}

/**
 * Bytes that jax-js keeps for each token of a GPT until a step ends: every
 * intermediate, in float32. The factors were measured on jax-js 0.1.25 with nine
 * models of 0.02 to 6.5 million parameters, and hold within about a tenth.
 *
 * @param context tokens of a sequence.
 */
export function jaxActivationBytes(
  model: {
    readonly layers: number;
    readonly width: number;
    readonly heads: number;
    readonly vocabulary: number;
  },
  context: number,
): number {
  const { layers, width, heads, vocabulary } = model;
  return 4 * (layers * (72 * width + 7.6 * heads * context) + 6 * vocabulary);
}
