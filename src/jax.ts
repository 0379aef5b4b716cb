/** lowbit/jax: optimizers for jax-js in the form of optax, and the stable embedding layer. */
export * from "./hosts/jax/named.ts";
export { optimizersFor, type JaxOptimizers } from "./hosts/jax/optimizers.ts";
export { fusedOptimizer, type FusedOptimizer } from "./hosts/jax/fused.ts";
export type { ApplyUpdates } from "./hosts/jax/apply.ts";
export type {
  JaxOptimizer,
  JaxOptimizerFactory,
} from "./hosts/jax/transformation.ts";
export type {
  GradientTransformation,
  OptState,
  ScalarOrSchedule,
} from "./hosts/jax/contract.ts";
export type {
  CommonOptions,
  HostHyper,
  HostOptions,
  HostRule,
} from "./hosts/jax/options.ts";
export {
  stableEmbedding,
  type JaxStableEmbedding,
} from "./hosts/jax/stable-embedding.ts";
export type {
  EmbeddingParameter,
  StableEmbeddingOptions,
} from "./nn/options.ts";
