import type * as jax from "@jax-js/jax";
import { VOCABULARY, type ModelSize } from "./model.ts";

export type Jax = typeof jax;
export type Tensor = jax.numpy.Array;
export type Tensors = Record<string, Tensor>;

/** The model as functions of jax-js arrays. They consume their arguments. */
export interface Forward {
  /** Logits [batch * context, 256] of the byte after each of `tokens` [batch, context]. */
  logits(parameters: Tensors, tokens: Tensor): Tensor;
  /** Mean cross-entropy in nats a byte; `targets` are shaped like `tokens`. */
  loss(parameters: Tensors, tokens: Tensor, targets: Tensor): Tensor;
}

/**
 * A GPT with norms before its blocks, learned positions and tied embeddings.
 *
 * jax-js counts references: each use consumes its array, and `.ref` keeps it.
 * Here every use of a parameter takes a `.ref`, and the functions at the end
 * dispose of the parameters as a whole.
 */
export function createForward(library: Jax, model: ModelSize): Forward {
  const { numpy: np, nn, tree } = library;
  const { layers, heads, width, context } = model;

  const norm = (x: Tensor, p: Tensors, name: string) => {
    const centred = x.ref.sub(np.mean(x, -1, { keepdims: true }));
    const variance = np.mean(np.square(centred.ref), -1, { keepdims: true });
    return centred
      .mul(np.reciprocal(np.sqrt(variance.add(1e-5))))
      .mul(p[`${name}.w`]!.ref)
      .add(p[`${name}.b`]!.ref);
  };

  const linear = (x: Tensor, p: Tensors, name: string) =>
    np.matmul(x, p[`${name}.w`]!.ref).add(p[`${name}.b`]!.ref);

  const attention = (x: Tensor, p: Tensors, name: string) => {
    const rows = x.shape[0]!;
    const headShape = [rows / context, context, heads, width / heads];
    const qkv = linear(x, p, name);
    const part = (i: number) =>
      qkv.ref.slice([], [i * width, (i + 1) * width]).reshape(headShape);
    const [q, k, v] = [part(0), part(1), part(2)];
    qkv.dispose();
    const mixed = nn.dotProductAttention(q, k, v, { isCausal: true });
    return linear(mixed.reshape([rows, width]), p, `${name}.proj`);
  };

  /**
   * GELU by its tanh formula, with (1 + tanh(u)) / 2 written as sigmoid(2 u):
   * the same function, a third faster in jax-js.
   */
  const gelu = (x: Tensor) => {
    const inner = np.square(x.ref).mul(0.044715).add(1).mul(x.ref);
    return nn.sigmoid(inner.mul(2 * Math.sqrt(2 / Math.PI))).mul(x);
  };

  const mlp = (x: Tensor, p: Tensors, name: string) =>
    linear(gelu(linear(x, p, name)), p, `${name}.proj`);

  /** 1 where a token is the byte of the column: [tokens, 256]. */
  const isByte = (tokens: Tensor) =>
    np.equal(
      np.arange(VOCABULARY).astype(np.int32).reshape([1, VOCABULARY]),
      tokens.reshape([tokens.size, 1]),
    );

  const logits = (p: Tensors, tokens: Tensor) => {
    const batch = tokens.shape[0]!;
    const wte = p.wte!;
    // A product with 0 and 1 instead of `take`, whose gradient is a scatter:
    // slow on wasm, of random order on WebGPU.
    const embedded = np.matmul(isByte(tokens).astype(wte.dtype), wte.ref);
    let x = embedded
      .reshape([batch, context, width])
      .add(p.wpe!.ref)
      .reshape([batch * context, width]);
    for (let i = 0; i < layers; i++) {
      const h = `h.${i}`;
      x = x.ref.add(attention(norm(x, p, `${h}.ln_1`), p, `${h}.attn`));
      x = x.ref.add(mlp(norm(x, p, `${h}.ln_2`), p, `${h}.mlp`));
    }
    const out = np.matmul(norm(x, p, "ln_f"), np.transpose(wte.ref));
    tree.dispose(p);
    return out;
  };

  const loss = (p: Tensors, tokens: Tensor, targets: Tensor) => {
    const logProbability = nn.logSoftmax(logits(p, tokens), -1);
    const chosen = np.where(isByte(targets), logProbability, 0);
    // Two sums, as one over everything loses digits in jax-js.
    return np.mean(np.sum(chosen, -1)).neg();
  };

  return { logits, loss };
}
