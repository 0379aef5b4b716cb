import type * as jaxJs from "@jax-js/jax";
import type { Override } from "../../core/options.ts";
import {
  checkEmbedding,
  embeddingOverrides,
  type EmbeddingParameter,
  type StableEmbeddingOptions,
} from "../../nn/options.ts";
import { xavierUniform } from "../../nn/xavier.ts";

type Jax = typeof jaxJs;
type Tensor = jaxJs.numpy.Array;

/** The layer as functions of its parameters. */
export interface JaxStableEmbedding {
  /** New parameters: the same numbers as those of `lowbit/nn`. */
  init(): Record<EmbeddingParameter, Tensor>;
  /**
   * The normed rows of `ids`, [...ids.shape, width]. Consumes its arguments, as
   * the functions of jax-js do; keep them with `tree.ref(params)`, `ids.ref`.
   */
  apply(
    params: Readonly<Record<EmbeddingParameter, Tensor>>,
    ids: Tensor,
  ): Tensor;
  /** For `createOptimizer`: 32-bit state for the weight, and for it alone. */
  overrides(prefix?: string): Override[];
}

/**
 * The stable embedding layer of arXiv 2110.02861, section 2.3, for jax-js.
 *
 * @param jax your `import * as jax from "@jax-js/jax"`
 * @throws TypeError or RangeError for options that make no layer.
 */
export function stableEmbedding(
  jax: Pick<Jax, "numpy">,
  options: StableEmbeddingOptions,
): JaxStableEmbedding {
  const { numpy: np } = jax;
  const checked = checkEmbedding("stableEmbedding", options);
  const { vocabulary, width, seed, eps } = checked;

  const init = () => ({
    weight: np
      .array(xavierUniform(vocabulary, width, seed))
      .reshape([vocabulary, width]),
    scale: np.ones([width]),
    bias: np.zeros([width]),
  });

  const apply: JaxStableEmbedding["apply"] = ({ weight, scale, bias }, ids) => {
    const shape = [...ids.shape, width];
    // Under jit, jax-js 0.1.25 has no gradient for a look-up whose result is only
    // reshaped or summed. The norm right behind it keeps it from that.
    const x = np.take(weight, ids.reshape([ids.size]), 0);
    const centred = x.ref.sub(np.mean(x, -1, { keepdims: true }));
    const variance = np.mean(np.square(centred.ref), -1, { keepdims: true });
    return centred
      .mul(np.reciprocal(np.sqrt(variance.add(eps))))
      .mul(scale)
      .add(bias)
      .reshape(shape);
  };

  return { init, apply, overrides: embeddingOverrides };
}
