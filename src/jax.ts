/** lowbit/jax: the stable embedding layer for jax-js. */
export {
  stableEmbedding,
  type JaxStableEmbedding,
} from "./hosts/jax/stable-embedding.ts";
export type {
  EmbeddingParameter,
  StableEmbeddingOptions,
} from "./nn/options.ts";
