import type { Override } from "../core/options.ts";
import {
  normalizeRows,
  normBackward,
  scaleRows,
  type Normalized,
} from "./layer-norm.ts";
import {
  checkEmbedding,
  embeddingOverrides,
  type EmbeddingParameter,
  type StableEmbeddingOptions,
} from "./options.ts";
import { xavierUniform } from "./xavier.ts";

type Floats = Float32Array<ArrayBuffer>;

/** Gradients by the parameters' names, as `step` takes them. */
export type EmbeddingGradients = Record<EmbeddingParameter, Floats>;

/** A forward pass, and the way back. */
export interface EmbeddingPass {
  /** [ids, width], to which position embeddings may be added. */
  readonly output: Floats;
  /**
   * Gradients of the parameters from that of the output. Call it before the
   * parameters change.
   *
   * @param into gradients to add to; without it, new arrays
   */
  backward(
    gradOutput: ArrayLike<number>,
    into?: EmbeddingGradients,
  ): EmbeddingGradients;
}

/** The layer and its parameters. */
export interface StableEmbedding {
  /** In the form that `createOptimizer` takes. */
  readonly parameters: Readonly<
    Record<
      EmbeddingParameter,
      { readonly data: Floats; readonly shape: readonly number[] }
    >
  >;
  /** The normed rows of these ids. */
  forward(ids: ArrayLike<number>): EmbeddingPass;
  /** For `createOptimizer`: 32-bit state for the weight, and for it alone. */
  overrides(prefix?: string): Override[];
}

/**
 * The stable embedding layer of arXiv 2110.02861, section 2.3: Xavier-uniform
 * weight, layer norm on the rows that are looked up (before position embeddings
 * are added), 32-bit optimizer state for the weight.
 *
 * @throws TypeError or RangeError for options that make no layer.
 */
export function stableEmbedding(
  options: StableEmbeddingOptions,
): StableEmbedding {
  const checked = checkEmbedding("stableEmbedding", options);
  const { vocabulary, width, seed, eps } = checked;
  const parameters = {
    weight: {
      data: xavierUniform(vocabulary, width, seed),
      shape: [vocabulary, width],
    },
    scale: { data: new Float32Array(width).fill(1), shape: [width] },
    bias: { data: new Float32Array(width), shape: [width] },
  };
  const { weight, scale, bias } = parameters;

  const forward = (ids: ArrayLike<number>): EmbeddingPass => {
    const rows = checkIds(ids, vocabulary);
    const looked = new Float32Array(rows.length * width);
    rows.forEach((id, i) => {
      const from = id * width;
      looked.set(weight.data.subarray(from, from + width), i * width);
    });
    const normalized = normalizeRows(looked, width, eps);
    return {
      output: scaleRows(normalized.values, scale.data, bias.data),
      backward: (gradOutput, into = newGradients()) =>
        backward(rows, normalized, gradOutput, into),
    };
  };

  const backward = (
    rows: Uint32Array,
    normalized: Normalized,
    gradOutput: ArrayLike<number>,
    into: EmbeddingGradients,
  ) => {
    if (gradOutput.length !== rows.length * width)
      throw new RangeError(
        `stableEmbedding: the output of ${rows.length} ids has ${rows.length * width} numbers, its gradient ${gradOutput.length}; give one for each`,
      );
    for (const name of ["weight", "scale", "bias"] as const)
      if (into[name]?.length !== parameters[name].data.length)
        throw new RangeError(
          `stableEmbedding: '${name}' has ${parameters[name].data.length} numbers, the gradient to add to ${into[name]?.length ?? "is missing"}`,
        );
    normBackward(normalized, scale.data, gradOutput, into, (row, gradient) => {
      const start = rows[row]! * width;
      // Ids that repeat add up.
      for (let j = 0; j < width; j++) into.weight[start + j]! += gradient[j]!;
    });
    return into;
  };

  const newGradients = (): EmbeddingGradients => ({
    weight: new Float32Array(vocabulary * width),
    scale: new Float32Array(width),
    bias: new Float32Array(width),
  });

  return { parameters, forward, overrides: embeddingOverrides };
}

/** A copy, as the backward pass comes later. */
function checkIds(ids: ArrayLike<number>, vocabulary: number): Uint32Array {
  const rows = new Uint32Array(ids.length);
  for (let i = 0; i < rows.length; i++) {
    const id = ids[i]!;
    if (!Number.isInteger(id) || id < 0 || id >= vocabulary)
      throw new RangeError(
        `stableEmbedding: an id is a whole number from 0 to ${vocabulary - 1} (vocabulary ${vocabulary}), given ${String(id)} at ${i}`,
      );
    rows[i] = id;
  }
  return rows;
}
