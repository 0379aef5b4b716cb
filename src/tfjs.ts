/** lowbit/tfjs: the optimizers as TensorFlow.js has them, and the stable embedding layer. */
export * from "./hosts/tfjs/recipes.ts";
export {
  optimizerClass,
  optimizerFactory,
  type LowbitOptimizerClass,
  type TfOptimizerFactory,
} from "./hosts/tfjs/classes.ts";
export { LowbitOptimizer } from "./hosts/tfjs/optimizer.ts";
export type {
  TfConfig,
  TfGroup,
  TfHyper,
  TfOptions,
  TfOverride,
} from "./hosts/tfjs/options.ts";
export { registerWith, type Registry } from "./hosts/tfjs/register.ts";
export {
  registerWasmTrainingKernels,
  type KernelRegistry,
} from "./hosts/tfjs/training-kernels.ts";
export {
  stableEmbedding,
  stableEmbeddingLayer,
  type StableEmbeddingLayerClass,
  type StableEmbeddingLayerConfig,
  type TensorFlow,
  type TensorFlowWithLayers,
  type TfStableEmbedding,
  type TfStableEmbeddingOptions,
} from "./hosts/tfjs/stable-embedding.ts";
export type { EmbeddingParameter } from "./nn/options.ts";
