/** lowbit/trainer: a small GPT on jax-js, trained with the optimizers of lowbit. */
export {
  resolveConfig,
  optionName,
  type TrainConfig,
  type TrainDevice,
} from "./train/config.ts";
export { nearestName } from "./formula/error.ts";
export { asInputError, InputError } from "./train/errors.ts";
export { estimateHeap } from "./train/heap.ts";
export {
  parameterCount,
  parameterShapes,
  type ModelSize,
  type Parameter,
} from "./train/model.ts";
export { trainOptions, type Option } from "./train/options.ts";
export type { CodeUse, QuantizationError } from "./train/quantization.ts";
export { optimizerName, trainRecipe } from "./train/recipe.ts";
export { run, type TrainEvent } from "./train/run.ts";
export { learningRate, type Schedule } from "./train/schedule.ts";
export { Split } from "./train/split.ts";
export {
  Trainer,
  type Position,
  type Saved,
  type StepResult,
} from "./train/trainer.ts";
export type { RandomState } from "./train/random.ts";
export { FileError } from "./io/fault.ts";
export type { ByteSource } from "./io/source.ts";
export {
  readSafetensors,
  writeSafetensors,
  type Dtype,
  type SafeTensor,
  type SafeTensors,
} from "./io/safetensors.ts";
