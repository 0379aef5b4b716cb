/** lowbit: optimizer state in 8, 4 or fewer bits. */
export {
  estimateMemory,
  type MemoryReport,
  type TensorMemory,
} from "./core/memory.ts";
export { createOptimizer } from "./core/create.ts";
export type { Float32State } from "./core/float32.ts";
export type { Explanation, Stats } from "./core/reports.ts";
export type { OptimizerHandle } from "./core/optimizer.ts";
export type { Parameter } from "./core/parts.ts";
export type { ReadState } from "./core/states.ts";
export type { LoadReport } from "./core/checkpoint.ts";
export type { Group, Match, Override, TensorInfo } from "./core/options.ts";
export type { Device, OptimizerOptions } from "./core/settings.ts";
export type {
  Engine,
  EngineOptions,
  Session,
  StoredState,
} from "./engines/engine.ts";
export {
  codebook,
  codebookNames,
  quantileCodebook,
  type CodebookName,
} from "./formats/codebook.ts";
export type { Format, FormatOptions } from "./formats/format.ts";
export { packCodes, unpackCodes } from "./formats/pack.ts";
export {
  dequantize,
  quantize,
  type Quantized,
  type QuantizeOptions,
} from "./formats/quantize.ts";
export { FormulaError } from "./formula/error.ts";
export { FileError } from "./io/fault.ts";
export type { ByteSource, FileData } from "./io/source.ts";
export {
  defineOptimizer,
  type OptimizerFactory,
  type Recipe,
  type RecipeOptions,
} from "./optimizers/define.ts";
export type { OptimizerDefinition } from "./optimizers/definition.ts";
export * from "./optimizers/recipes.ts";
export { optimizerByName, optimizers } from "./optimizers/registry.ts";
export { withAverage } from "./optimizers/average.ts";
export * as schedules from "./optimizers/schedules.ts";
