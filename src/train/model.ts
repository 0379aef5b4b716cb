import type { Random } from "./random.ts";

/** The size of a byte-level GPT. */
export interface ModelSize {
  /** Blocks of attention and MLP. */
  readonly layers: number;
  /** Attention heads; they divide `width`. */
  readonly heads: number;
  /** Size of the residual stream. */
  readonly width: number;
  /** Bytes that the model sees at once. */
  readonly context: number;
}

/** A parameter in the form that `createOptimizer` takes. */
export interface Parameter {
  /** In row-major order. */
  readonly data: Float32Array<ArrayBuffer>;
  /** Sizes of its axes. */
  readonly shape: readonly number[];
}

/** Every value that a byte can have. */
export const VOCABULARY = 256;

/** Parameters without weight decay: embeddings, norms and biases. */
export const WITHOUT_DECAY = /^w[tp]e$|(^|\.)ln_|\.b$/;

/**
 * The shape of every parameter by name. The embedding `wte` is also the output
 * layer, turned over.
 */
export function parameterShapes(model: ModelSize): Record<string, number[]> {
  const { layers, width, context } = model;
  const shapes: Record<string, number[]> = {
    wte: [VOCABULARY, width],
    wpe: [context, width],
  };
  for (let i = 0; i < layers; i++)
    Object.assign(shapes, {
      [`h.${i}.ln_1.w`]: [width],
      [`h.${i}.ln_1.b`]: [width],
      [`h.${i}.attn.w`]: [width, 3 * width],
      [`h.${i}.attn.b`]: [3 * width],
      [`h.${i}.attn.proj.w`]: [width, width],
      [`h.${i}.attn.proj.b`]: [width],
      [`h.${i}.ln_2.w`]: [width],
      [`h.${i}.ln_2.b`]: [width],
      [`h.${i}.mlp.w`]: [width, 4 * width],
      [`h.${i}.mlp.b`]: [4 * width],
      [`h.${i}.mlp.proj.w`]: [4 * width, width],
      [`h.${i}.mlp.proj.b`]: [width],
    });
  return { ...shapes, "ln_f.w": [width], "ln_f.b": [width] };
}

/** How many numbers the model has; embeddings count, and tied weights once. */
export function parameterCount(model: ModelSize): number {
  return Object.values(parameterShapes(model))
    .map((shape) => shape.reduce((a, b) => a * b))
    .reduce((a, b) => a + b);
}

/**
 * Initial parameters as in GPT-2: normal with deviation 0.02, smaller where a
 * layer adds to the residual stream, so that its variance does not grow with
 * depth. Narrow models take 1 / sqrt(inputs) instead, when that is larger.
 */
export function initialParameters(
  model: ModelSize,
  random: Random,
): Record<string, Parameter> {
  const parameters: Record<string, Parameter> = {};
  for (const [name, shape] of Object.entries(parameterShapes(model))) {
    const data = new Float32Array(shape.reduce((a, b) => a * b));
    const deviation = initialDeviation(name, shape, model.layers);
    if (/ln_.*\.w$/.test(name)) data.fill(1);
    else if (deviation > 0)
      for (let i = 0; i < data.length; i++)
        data[i] = deviation * random.normal();
    parameters[name] = { data, shape };
  }
  return parameters;
}

function initialDeviation(name: string, shape: number[], layers: number) {
  if (name.endsWith(".b")) return 0;
  if (name === "wte" || name === "wpe") return 0.02;
  const deviation = Math.max(0.02, 0.5 / Math.sqrt(shape[0]!));
  return name.endsWith(".proj.w")
    ? deviation / Math.sqrt(2 * layers)
    : deviation;
}
