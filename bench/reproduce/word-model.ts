/**
 * A small word model on jax-js: embeddings of the words before, one tanh layer,
 * a softmax over all words. With `stable`, the stable embedding of paper 1: layer
 * norm on the embeddings' output and Xavier-uniform weights.
 */
import type * as jax from "@jax-js/jax";
import { normals, randomSource } from "./random.ts";
import { context, type Batch } from "./words.ts";

type Jax = typeof jax;
type Tensor = jax.numpy.Array;
type Tensors = Record<string, Tensor>;

export interface ModelSize {
  readonly vocabulary: number;
  /** Of an embedding. */
  readonly width: number;
  readonly hidden: number;
  readonly stable: boolean;
}

export interface Parameter {
  readonly data: Float32Array<ArrayBuffer>;
  readonly shape: readonly number[];
}
export type Parameters = Record<string, Parameter>;

function shapesOf({ vocabulary, width, hidden, stable }: ModelSize) {
  return {
    embedding: [vocabulary, width],
    ...(stable ? { scale: [width], shift: [width] } : {}),
    inner: [context * width, hidden],
    innerBias: [hidden],
    outer: [hidden, vocabulary],
    outerBias: [vocabulary],
  } as Record<string, number[]>;
}

export function initialParameters(size: ModelSize, seed: number): Parameters {
  const random = randomSource(seed * 7919 + 1);
  const deviations: Record<string, number> = {
    embedding: 0.1,
    inner: 1 / Math.sqrt(context * size.width),
    outer: 1 / Math.sqrt(size.hidden),
  };
  return Object.fromEntries(
    Object.entries(shapesOf(size)).map(([name, shape]) => {
      const length = shape.reduce((a, b) => a * b);
      const deviation = deviations[name] ?? 0;
      const data = normals(length, random, deviation);
      if (name === "scale") data.fill(1);
      if (name === "embedding" && size.stable) {
        const bound = Math.sqrt(6 / (size.vocabulary + size.width));
        data.set(data.map(() => bound * (2 * random() - 1)));
      }
      return [name, { data, shape }];
    }),
  );
}

export interface Gradients {
  readonly loss: number;
  readonly gradients: Record<string, Float32Array<ArrayBuffer>>;
}

export class WordModel {
  readonly #jax: Jax;
  readonly #backward;
  readonly #loss;

  private constructor(library: Jax, size: ModelSize) {
    this.#jax = library;
    const loss = lossFunction(library, size);
    this.#backward = library.jit(library.valueAndGrad(loss));
    this.#loss = library.jit(loss);
  }

  static async create(size: ModelSize): Promise<WordModel> {
    const library = await import("@jax-js/jax");
    await library.init("wasm");
    return new WordModel(library, size);
  }

  async backward(parameters: Parameters, batch: Batch): Promise<Gradients> {
    const [loss, gradients] = this.#backward(
      this.#tensors(parameters),
      ...this.#batch(batch),
    );
    const names = Object.keys(gradients);
    const [value, ...read] = await Promise.all(
      [loss, ...names.map((name) => gradients[name]!)].map(
        async (array) => (await array.data()) as Float32Array<ArrayBuffer>,
      ),
    );
    return {
      loss: value![0]!,
      gradients: Object.fromEntries(names.map((name, i) => [name, read[i]!])),
    };
  }

  async loss(parameters: Parameters, batch: Batch): Promise<number> {
    const loss = this.#loss(this.#tensors(parameters), ...this.#batch(batch));
    return ((await loss.data()) as Float32Array)[0]!;
  }

  #tensors(parameters: Parameters): Tensors {
    const { numpy: np } = this.#jax;
    return Object.fromEntries(
      Object.entries(parameters).map(([name, { data, shape }]) => [
        name,
        np.array(data, { shape: [...shape], device: "wasm" }),
      ]),
    );
  }

  #batch({ before, next }: Batch): [Tensor, Tensor] {
    const { numpy: np } = this.#jax;
    const device = "wasm";
    return [
      np.array(before, { shape: [next.length, context], device }),
      np.array(next, { shape: [next.length, 1], device }),
    ];
  }
}

/** Mean cross-entropy in nats a word; jax-js arrays are consumed by each use but `.ref`. */
function lossFunction(library: Jax, { vocabulary, width, stable }: ModelSize) {
  const { numpy: np, nn, tree } = library;
  const isWord = (tokens: Tensor) =>
    np.equal(
      np.arange(vocabulary).astype(np.int32).reshape([1, vocabulary]),
      tokens.reshape([tokens.size, 1]),
    );
  const norm = (x: Tensor, p: Tensors) => {
    const centred = x.ref.sub(np.mean(x, -1, { keepdims: true }));
    const variance = np.mean(np.square(centred.ref), -1, { keepdims: true });
    return centred
      .mul(np.reciprocal(np.sqrt(variance.add(1e-5))))
      .mul(p["scale"]!.ref)
      .add(p["shift"]!.ref);
  };
  return (p: Tensors, before: Tensor, next: Tensor): Tensor => {
    const rows = next.shape[0]!;
    // A product with 0 and 1: the gradient of a look-up would be a scatter, slow here.
    let x = np.matmul(
      isWord(before).astype(p["embedding"]!.dtype),
      p["embedding"]!.ref,
    );
    if (stable) x = norm(x, p);
    const h = np.tanh(
      np
        .matmul(x.reshape([rows, context * width]), p["inner"]!.ref)
        .add(p["innerBias"]!.ref),
    );
    const logits = np.matmul(h, p["outer"]!.ref).add(p["outerBias"]!.ref);
    tree.dispose(p);
    const chosen = np.where(isWord(next), nn.logSoftmax(logits, -1), 0);
    return np.mean(np.sum(chosen, -1)).neg();
  };
}
