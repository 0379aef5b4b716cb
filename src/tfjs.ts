/** lowbit/tfjs: the stable embedding layer for TensorFlow.js. */
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
