/** lowbit/plan: what training a model takes, before anything is allocated. */
export {
  activationBytes,
  jaxActivationBytes,
  type ActivationOptions,
  type Activations,
} from "./plan/activations.ts";
export { wasmLimit, webgpuLimits } from "./plan/advice.ts";
export { publicModel, publicModelNames, series } from "./plan/catalogue.ts";
export {
  modelFromConfig,
  modelFromSizes,
  type ModelSizes,
} from "./plan/config.ts";
export {
  largestAlike,
  largestModels,
  type LargestModel,
  type ScaledModel,
} from "./plan/largest.ts";
export {
  parametersOf,
  type PlanModel,
  type Stack,
  type Transformer,
} from "./plan/model.ts";
export {
  dtypes,
  hosts,
  usualRecipes,
  type PlanDtype,
  type PlanHost,
  type PlanOptions,
} from "./plan/options.ts";
export { planMemory, type Plan, type PlanRow } from "./plan/plan.ts";
export {
  presets,
  runPreset,
  type Preset,
  type PresetResult,
  type PresetRow,
} from "./plan/presets.ts";
