/** lowbit/io: optimizer states as files, lowbit's own and those of the Python libraries. */
export { openTensors, type TensorSource } from "./interchange/fields.ts";
export {
  readState,
  recogniseLayout,
  type OpenState,
  type ReadStateOptions,
} from "./interchange/read.ts";
export {
  bytesOfState,
  numbersOf,
  stateStatistics,
  valueStatistics,
  type CodeStatistics,
  type StateStatistics,
  type ValueStatistics,
} from "./interchange/inspect.ts";
export {
  describeFormat,
  layoutNames,
  type LayoutName,
  type TargetBits,
} from "./interchange/layout.ts";
export {
  writeState,
  type QuantizationError,
  type StateChange,
  type StateFile,
  type WriteStateOptions,
} from "./interchange/write.ts";
export type {
  Checkpoint,
  CheckpointState,
  CheckpointTensor,
} from "./io/checkpoint.ts";
export { FileError } from "./io/fault.ts";
export {
  readSafetensors,
  writeSafetensors,
  type Dtype,
  type SafeTensor,
  type SafeTensors,
} from "./io/safetensors.ts";
export type { ByteSource, FileData } from "./io/source.ts";
