/** A model as far as memory goes: the tensors it trains, and what its layers keep for the backward pass. */
export interface PlanModel {
  /** For people: `gpt2`, or the file it came from. */
  readonly name: string;
  /** Shape of every trained tensor by name; a tied weight once. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  /** Undefined where only tensors are known: then activations are, too. */
  readonly transformer?: Transformer;
}

/** What the activations of a transformer follow from. */
export interface Transformer {
  /** Decoder, or encoder, or first the encoder and then the decoder. */
  readonly stacks: readonly Stack[];
  /** Size of the residual stream. */
  readonly width: number;
  /** Columns of the logits; 0 for a model without a head over a vocabulary. */
  readonly vocabulary: number;
  /** Longest sequence the model was made for; Infinity where there is none. */
  readonly context: number;
}

/** Layers that are alike. */
export interface Stack {
  /** How many. */
  readonly layers: number;
  /** Attention heads of a layer. */
  readonly heads: number;
  /** Size of a head. */
  readonly headWidth: number;
  /** Heads of keys and values; fewer than `heads` with grouped queries. */
  readonly keyHeads: number;
  /** Inner size of the MLP. */
  readonly feedForward: number;
  /** Whether the MLP has a gate: three matrices instead of two. */
  readonly gated: boolean;
  /** Whether each layer also attends to an encoder. */
  readonly cross: boolean;
  /** Whether the residual stream and the attention's weights see dropout. */
  readonly dropout: boolean;
  /** The same of the attention's weights. */
  readonly attentionDropout: boolean;
}

/** How many numbers a model trains. */
export const parametersOf = ({ shapes }: PlanModel): number =>
  Object.values(shapes).reduce((sum, shape) => sum + sizeOf(shape), 0);

export const sizeOf = (shape: readonly number[]): number =>
  shape.reduce((product, n) => product * n, 1);

/** Tensors that are looked up or that make logits, not multiplied in a layer. */
export const isEmbedding = (name: string) =>
  /embed|wte|wpe|^shared|lm_head|position|token_type/.test(name);
