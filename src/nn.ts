/** lowbit/nn: the stable embedding layer on typed arrays. */
export {
  withPrefix,
  type EmbeddingParameter,
  type StableEmbeddingOptions,
} from "./nn/options.ts";
export {
  stableEmbedding,
  type EmbeddingGradients,
  type EmbeddingPass,
  type StableEmbedding,
} from "./nn/stable-embedding.ts";
