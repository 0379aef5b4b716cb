import { estimateMemory } from "../core/memory.ts";
import type { Recipe } from "../optimizers/define.ts";
import { optimizerByName } from "../optimizers/registry.ts";
import {
  activationBytes,
  jaxActivationBytes,
  type Activations,
} from "./activations.ts";
import { adviceFor } from "./advice.ts";
import { loraShapes } from "./lora.ts";
import { parametersOf, sizeOf, type PlanModel } from "./model.ts";
import {
  checkPlan,
  dtypes,
  type CheckedPlan,
  type PlanDtype,
  type PlanHost,
  type PlanOptions,
} from "./options.ts";

/** What training needs with one recipe. All sizes in bytes. */
export interface PlanRow {
  /** Name of the recipe. */
  readonly recipe: string;
  /** Codes, scales and float32 values of all states, by the rules of createOptimizer. */
  readonly stateBytes: number;
  /** For each number that is trained. */
  readonly stateBytesPerParameter: number;
  /** What the optimizer's step takes beside its state for a moment. */
  readonly temporaryBytes: number;
  /** Parameters, gradients, state, the larger of activations and temporaries, and the reserve. */
  readonly totalBytes: number;
  /** Less than with the first row's recipe. */
  readonly savedBytes: number;
  /** Whether it fits into the memory; undefined where none was given. */
  readonly fits: boolean | undefined;
}

/** What training a model needs. All sizes in bytes. */
export interface Plan {
  /** Its name. */
  readonly model: string;
  /** Numbers in the model. */
  readonly parameters: number;
  /** Numbers that are trained: the parameters, or with LoRA the adapters. */
  readonly trained: number;
  /** How numbers of parameters, gradients and activations are kept. */
  readonly dtype: PlanDtype;
  /** Who runs the step. */
  readonly host: PlanHost;
  /** Sequences in a batch. */
  readonly batch: number;
  /** Tokens in a sequence. */
  readonly context: number;
  /** Whether only each layer's input is kept. */
  readonly checkpointing: boolean;
  /** `standard` keeps the attention's weights, `flash` does not. */
  readonly attention: "standard" | "flash";
  /** Bytes there are; Infinity where none were given. */
  readonly memory: number;
  /** Bytes that something else takes. */
  readonly reserve: number;
  /** Of all parameters, those not trained included. */
  readonly parameterBytes: number;
  /** Of the numbers that are trained. */
  readonly gradientBytes: number;
  /** Undefined where only tensors are known and `activations` was not given. */
  readonly activations: Activations | undefined;
  /** One for each recipe, in the order asked for. */
  readonly rows: readonly PlanRow[];
  /** Sentences: where low-bit state will hardly help, and which limits of browsers are met. */
  readonly notes: readonly string[];
}

/**
 * What training a model takes with each recipe, without allocating anything.
 *
 * Parameters and gradients follow from the `dtype`, states from the very rules
 * of `createOptimizer`, activations from {@link activationBytes} (for jax-js from
 * factors measured there). The step's temporaries exist when the activations are
 * gone, so that only the larger of the two counts.
 *
 * @param model from `modelFromConfig`, `modelFromSizes`, or `{ name, shapes }`
 * @throws TypeError or RangeError for options that are unknown or no sizes.
 */
export function planMemory(model: PlanModel, options: PlanOptions = {}): Plan {
  const checked = checkPlan(model, options);
  const { dtype, lora } = checked;
  const parameters = parametersOf(model);
  const shapes = lora === undefined ? model.shapes : loraShapes(model, lora);
  const trained = parametersOf({ name: model.name, shapes });
  const frozen = lora === undefined ? 0 : parameters;
  const bytes = dtypes[dtype];
  // What is not trained needs no float32 beside the 16 bits it is used in.
  const parameterBytes =
    bytes.parameter * trained +
    (dtype === "mixed" ? 2 : bytes.parameter) * frozen;
  const gradientBytes = bytes.gradient * trained;
  const activations = activationsOf(model, checked);
  const fixed = { parameterBytes, gradientBytes, activations };
  const rows = planRows(shapes, checked, fixed);
  const { host, batch, context, checkpointing, attention } = checked;
  const plan = {
    ...{ model: model.name, parameters, trained },
    ...{ dtype, host, batch, context, checkpointing, attention },
    ...{ memory: checked.memory, reserve: checked.reserve },
    ...fixed,
    rows,
  };
  return { ...plan, notes: adviceFor(model, plan) };
}

function activationsOf(
  { transformer }: PlanModel,
  checked: CheckedPlan,
): Activations | undefined {
  const { activations, host, batch, context, dtype } = checked;
  const whole = (total: number): Activations => ({
    ...{ layers: total, attention: 0, head: 0, total },
  });
  if (activations !== undefined) return whole(activations);
  if (!transformer) return undefined;
  if (host === "jax") {
    const { vocabulary, width, stacks } = transformer;
    const tokens = batch * context;
    return whole(
      stacks.reduce(
        (sum, { layers, heads }, i) =>
          sum +
          tokens *
            jaxActivationBytes(
              { layers, heads, width, vocabulary: i === 0 ? vocabulary : 0 },
              context,
            ),
        0,
      ),
    );
  }
  return activationBytes(transformer, {
    ...checked,
    bytes: dtypes[dtype].activation,
  });
}

interface Fixed {
  readonly parameterBytes: number;
  readonly gradientBytes: number;
  readonly activations: Activations | undefined;
}

function planRows(
  shapes: PlanModel["shapes"],
  checked: CheckedPlan,
  fixed: Fixed,
): PlanRow[] {
  const { memory, reserve, host, minQuantizedSize } = checked;
  const { parameterBytes, gradientBytes, activations } = fixed;
  const trained = parametersOf({ name: "", shapes });
  const own = checked.recipes.map((given) => {
    const recipe = typeof given === "string" ? named(given) : given;
    const { stateBytes } = estimateMemory(shapes, recipe, { minQuantizedSize });
    const temporaryBytes = temporaries(host, recipe, shapes, checked.dtype);
    return { recipe: recipe.name, stateBytes, temporaryBytes };
  });
  const all = [...own, ...hostRows(host, trained)].map((row) => ({
    ...row,
    totalBytes:
      parameterBytes +
      gradientBytes +
      row.stateBytes +
      Math.max(activations?.total ?? 0, row.temporaryBytes) +
      reserve,
  }));
  return all.map((row) => ({
    ...row,
    stateBytesPerParameter: trained > 0 ? row.stateBytes / trained : 0,
    savedBytes: all[0]!.totalBytes - row.totalBytes,
    fits: memory === Infinity ? undefined : row.totalBytes <= memory,
  }));
}

const named = (name: string) => optimizerByName(name)();

/**
 * Bytes of temporaries of a step, at most.
 *
 * lowbit's engines hold nothing as large as a tensor. On TensorFlow.js that is so
 * on wasm and WebGPU; on its cpu backend the largest variable's new value exists
 * beside the old one. PyTorch's default for 32-bit states on a GPU (`foreach`)
 * takes about the parameters once more, as its documentation says; the low-bit
 * libraries there update in place.
 */
function temporaries(
  host: PlanHost,
  { storage }: Recipe,
  shapes: PlanModel["shapes"],
  dtype: PlanDtype,
): number {
  const sizes = Object.values(shapes).map(sizeOf);
  if (host === "tfjs") return 4 * sizes.reduce((a, b) => Math.max(a, b), 0);
  if (host !== "pytorch" || (storage.bits ?? 32) < 32) return 0;
  const each = dtype === "float32" || dtype === "mixed" ? 4 : 2;
  return each * sizes.reduce((a, b) => a + b, 0);
}

/**
 * What the host's own Adam takes. TensorFlow.js 4.22 makes 14 arrays the size of
 * each variable in `applyGradients` and frees none before all variables are done:
 * 56 bytes a parameter, as measured on its wasm backend.
 */
const hostRows = (host: PlanHost, trained: number) =>
  host === "tfjs"
    ? [
        {
          recipe: "tf.train.adam",
          stateBytes: 8 * trained,
          temporaryBytes: 56 * trained,
        },
      ]
    : [];
