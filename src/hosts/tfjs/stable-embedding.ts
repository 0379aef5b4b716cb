import type * as core from "@tensorflow/tfjs-core";
import type * as layersPackage from "@tensorflow/tfjs-layers";
import type { Override } from "../../core/options.ts";
import { checkEmbedding, type EmbeddingParameter } from "../../nn/options.ts";
import { xavierUniform } from "../../nn/xavier.ts";

// The public types go by what the user's own TensorFlow.js says, so that they
// fit whichever copy and version that is.

/** The part of `@tensorflow/tfjs-core` (or `@tensorflow/tfjs`) asked for. */
export interface TensorFlow {
  /** As in TensorFlow.js. */
  tensor(...args: never[]): unknown;
  /** As in TensorFlow.js. */
  variable(...args: never[]): unknown;
}

/** The same with layers, as in `@tensorflow/tfjs`. */
export interface TensorFlowWithLayers extends TensorFlow {
  /** The class that layers extend. */
  readonly layers: {
    readonly Layer: abstract new (...args: never[]) => unknown;
  };
}

/** Sizes of a stable embedding layer, named as `tf.layers.embedding` names them. */
export interface TfStableEmbeddingOptions {
  /** Vocabulary: ids are whole numbers below it. */
  readonly inputDim: number;
  /** Numbers in the output for each id. */
  readonly outputDim: number;
  /** Of the initial weight; a whole number from 0 to 2^32 - 1. */
  readonly seed?: number;
  /** Added to the variance in the layer norm. */
  readonly epsilon?: number;
}

/** The layer on variables. */
export interface TfStableEmbedding<T extends TensorFlow> {
  /** Variables, to be trained like any other. */
  readonly parameters: Readonly<
    Record<EmbeddingParameter, ReturnType<T["variable"]>>
  >;
  /** The normed rows of `ids`, [...ids.shape, outputDim]. */
  apply(ids: ReturnType<T["tensor"]>): ReturnType<T["tensor"]>;
  /** 32-bit state for the weight, and for it alone. */
  overrides(): Override[];
  /** Frees the variables. */
  dispose(): void;
}

/** What `tf.layers.embedding` takes, too. */
export interface StableEmbeddingLayerConfig extends TfStableEmbeddingOptions {
  /** Ids in a row, where it is fixed. */
  readonly inputLength?: number | null;
  /** Shape of the input without the batch. */
  readonly inputShape?: (number | null)[];
  /** The same with the batch. */
  readonly batchInputShape?: (number | null)[];
  /** Rows of a batch, where it is fixed. */
  readonly batchSize?: number;
  /** Of the layer, and of its weights' names the beginning. */
  readonly name?: string;
  /** Whether training changes it. Default true. */
  readonly trainable?: boolean;
}

/** The class `StableEmbedding`, a layer of the user's TensorFlow.js. */
export interface StableEmbeddingLayerClass<T extends TensorFlowWithLayers> {
  /** Name in saved models. */
  readonly className: string;
  /** @throws TypeError or RangeError for options that make no layer. */
  new (config: StableEmbeddingLayerConfig): InstanceType<
    T["layers"]["Layer"]
  > & {
    /** 32-bit state for the weight, and for it alone; once the layer is built. */
    overrides(): Override[];
  };
}

type Core = typeof core;
type Tf = Core & typeof layersPackage;

/**
 * The stable embedding layer of arXiv 2110.02861, section 2.3, on variables of
 * TensorFlow.js, for those who use `@tensorflow/tfjs-core` alone.
 *
 * @param tf your `import * as tf from "@tensorflow/tfjs-core"`
 * @param options and the start of the variables' names
 */
export function stableEmbedding<T extends TensorFlow>(
  tf: T,
  options: TfStableEmbeddingOptions & { readonly name?: string },
): TfStableEmbedding<T> {
  const library = checkLibrary("stableEmbedding", tf);
  const { vocabulary, width, seed, eps } = check("stableEmbedding", options);
  const { name } = options;
  const variable = (what: EmbeddingParameter, make: () => core.Tensor) =>
    library.tidy(() =>
      library.variable(make(), true, name && `${name}/${what}`),
    );
  const parameters = {
    weight: variable("weight", () =>
      library.tensor(xavierUniform(vocabulary, width, seed), [
        vocabulary,
        width,
      ]),
    ),
    scale: variable("scale", () => library.ones([width])),
    bias: variable("bias", () => library.zeros([width])),
  };
  const embedding = {
    parameters,
    apply: (ids: core.Tensor) =>
      library.tidy(() => embed(library, parameters, ids, eps)),
    overrides: (): Override[] => [{ match: parameters.weight.name, bits: 32 }],
    dispose: () => library.dispose(parameters),
  };
  return embedding as unknown as TfStableEmbedding<T>;
}

/** One class for each copy of TensorFlow.js, however often it is asked for. */
const classes = /* @__PURE__ */ new WeakMap<object, unknown>();

/**
 * Makes the class `StableEmbedding`, a `tf.layers.Layer`, and registers it, so
 * that saved models load: call it before `tf.loadLayersModel`.
 *
 * @param tf your `import * as tf from "@tensorflow/tfjs"`
 */
export function stableEmbeddingLayer<T extends TensorFlowWithLayers>(
  tf: T,
): StableEmbeddingLayerClass<T> {
  const library = checkLibrary("stableEmbeddingLayer", tf);
  if (typeof library.layers?.Layer !== "function")
    throw new TypeError(
      'stableEmbeddingLayer: this TensorFlow.js has no layers; give what `import * as tf from "@tensorflow/tfjs"` gives, or use stableEmbedding, which needs none',
    );
  const { Layer } = library.layers;
  if (!classes.has(Layer)) {
    const made = defineLayer(library);
    library.serialization.registerClass(made);
    classes.set(Layer, made);
  }
  return classes.get(Layer) as StableEmbeddingLayerClass<T>;
}

function defineLayer(tf: Tf) {
  return class StableEmbedding extends tf.layers.Layer {
    static readonly className = "StableEmbedding";
    readonly #config: StableEmbeddingLayerConfig;
    #weights: Record<EmbeddingParameter, layersPackage.LayerVariable> | null =
      null;

    constructor(config: StableEmbeddingLayerConfig) {
      check("StableEmbedding", config);
      // Without a shape the ids are [batch, length], as for tf.layers.embedding.
      const { batchInputShape, inputShape, batchSize, inputLength } = config;
      const shaped =
        batchInputShape || inputShape
          ? config
          : {
              ...config,
              batchInputShape: [batchSize ?? null, inputLength ?? null],
            };
      super(shaped as ConstructorParameters<typeof tf.layers.Layer>[0]);
      this.#config = config;
    }

    override build(): void {
      const { inputDim, outputDim, seed = 0 } = this.#config;
      const { ones, zeros } = tf.initializers;
      const add = (name: EmbeddingParameter, shape: number[], start = zeros) =>
        this.addWeight(name, shape, "float32", start());
      const shape: [number, number] = [inputDim, outputDim];
      const weight = add("weight", shape);
      const initial = tf.tensor(xavierUniform(...shape, seed), shape);
      weight.write(initial);
      initial.dispose();
      this.#weights = {
        weight,
        scale: add("scale", [outputDim], ones),
        bias: add("bias", [outputDim]),
      };
      this.built = true;
    }

    override call(
      inputs: core.Tensor | core.Tensor[],
      kwargs: Parameters<InstanceType<typeof tf.layers.Layer>["call"]>[1],
    ): core.Tensor {
      return tf.tidy(() => {
        this.invokeCallHook(inputs, kwargs);
        const ids = Array.isArray(inputs) ? inputs[0]! : inputs;
        const { weight, scale, bias } = this.#weights!;
        return embed(
          tf,
          { weight: weight.read(), scale: scale.read(), bias: bias.read() },
          ids,
          this.#config.epsilon,
        );
      });
    }

    override computeOutputShape(
      inputShape: (number | null)[] | (number | null)[][],
    ): (number | null)[] {
      const [first] = inputShape;
      const shape = Array.isArray(first) ? first : (inputShape as number[]);
      return [...shape, this.#config.outputDim];
    }

    override getConfig() {
      const { inputDim, outputDim, seed = 0, epsilon = 1e-5 } = this.#config;
      const { inputLength = null } = this.#config;
      const own = { inputDim, outputDim, seed, epsilon, inputLength };
      return { ...super.getConfig(), ...own };
    }

    overrides(): Override[] {
      if (!this.#weights)
        throw new Error(
          `StableEmbedding: '${this.name}' has no weight yet; add it to a model that has an input shape, or apply it, and ask then`,
        );
      return [{ match: this.#weights.weight.name, bits: 32 }];
    }
  };
}

/** The layer itself; ids may be of any shape, and float32 as models give them. */
function embed(
  tf: Core,
  { weight, scale, bias }: Readonly<Record<EmbeddingParameter, core.Tensor>>,
  ids: core.Tensor,
  eps = 1e-5,
): core.Tensor {
  // Functions, no chains: tfjs-core alone may come without the chained ones.
  const rows = tf.cast(tf.reshape(ids, [ids.size]), "int32");
  const x = lookUp(tf, weight, rows);
  const centred = tf.sub(x, tf.mean(x, -1, true));
  const variance = tf.mean(tf.square(centred), -1, true);
  const normed = tf.mul(centred, tf.rsqrt(tf.add(variance, eps)));
  const out = tf.add(tf.mul(normed, scale), bias);
  return tf.reshape(out, [...ids.shape, weight.shape[1]!]);
}

/**
 * tf.gather, whose gradient needs the kernel UnsortedSegmentSum. The wasm
 * backend has none; there it is ScatterNd, which adds up rows as well.
 */
function lookUp(tf: Core, weight: core.Tensor, rows: core.Tensor): core.Tensor {
  const backend = tf.getBackend();
  if (tf.getKernel("UnsortedSegmentSum", backend))
    return tf.gather(weight, rows);
  const gatherRows = tf.customGrad((table, save) => {
    (save as core.GradSaveFunc)([rows]);
    return {
      value: tf.gather(table as core.Tensor, rows),
      gradFunc: (gradient: core.Tensor, saved: core.Tensor[]) => {
        if (!tf.getKernel("ScatterNd", backend))
          throw new Error(
            `stableEmbedding: the backend '${backend}' has neither of the kernels UnsortedSegmentSum and ScatterNd, so there is no gradient; train on another backend`,
          );
        const at = tf.reshape(saved[0]!, [-1, 1]);
        return tf.scatterND(at, gradient, weight.shape as [number, number]);
      },
    };
  });
  return gatherRows(weight);
}

function checkLibrary(owner: string, tf: unknown): Tf {
  if (typeof (tf as Partial<Core> | undefined)?.customGrad !== "function")
    throw new TypeError(
      `${owner}: the first argument must be your TensorFlow.js, as in \`import * as tf from "@tensorflow/tfjs"\`, given ${String(tf)}`,
    );
  return tf as Tf;
}

const check = (owner: string, options: TfStableEmbeddingOptions) =>
  checkEmbedding(
    owner,
    options && {
      vocabulary: options.inputDim,
      width: options.outputDim,
      seed: options.seed,
      eps: options.epsilon,
    },
    { vocabulary: "inputDim", width: "outputDim", eps: "epsilon" },
  );
