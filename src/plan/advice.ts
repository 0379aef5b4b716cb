/** What a plan's numbers mean, in sentences. */
import { sizeOf, type PlanModel } from "./model.ts";
import type { Plan } from "./plan.ts";

/** WebGPU's defaults, which every adapter has; https://www.w3.org/TR/webgpu/#limits. */
export const webgpuLimits = {
  maxStorageBufferBindingSize: 2 ** 27,
  maxBufferSize: 2 ** 28,
} as const;

/** What a 32-bit WebAssembly memory holds. */
export const wasmLimit = 2 ** 32;

export function adviceFor(
  model: PlanModel,
  plan: Omit<Plan, "notes">,
): string[] {
  return [
    ...savingsAdvice(model, plan),
    ...unknownActivations(model, plan),
    ...(plan.host === "pytorch" ? [] : browserAdvice(model, plan)),
    `Inference keeps no optimizer state: ${size(plan.parameterBytes)} of parameters, whatever the recipe.`,
  ];
}

/** Below this part of the total, low-bit state makes no difference that matters. */
const HARDLY = 0.1;

function savingsAdvice(
  model: PlanModel,
  { rows, trained, parameters, activations }: Omit<Plan, "notes">,
): string[] {
  const [first] = rows;
  const best = Math.max(...rows.map(({ savedBytes }) => savedBytes));
  if (!first || first.totalBytes === 0) return [];
  const share = best / first.totalBytes;
  if (trained < parameters / 10)
    return [
      `Low-bit state will hardly help: adapters train ${percent(trained / parameters)} of the parameters, and their state is ${size(first.stateBytes)}; the frozen parameters are what fills the memory (quantize those).`,
    ];
  if (rows.length < 2 || share >= HARDLY) return [];
  const cause =
    activations && activations.total > first.stateBytes
      ? `activations take ${size(activations.total)}, the state ${size(first.stateBytes)} of ${size(first.totalBytes)}; a smaller batch, checkpointing or 16-bit activations save more`
      : `the state is ${size(first.stateBytes)} of ${size(first.totalBytes)}`;
  return [
    `Low-bit state will hardly help: it saves ${percent(share)} at most, as ${cause}.`,
  ];
}

function unknownActivations(
  { shapes, transformer }: PlanModel,
  { activations }: Omit<Plan, "notes">,
): string[] {
  if (Object.keys(shapes).every((name) => /\.lora_[AB]\./.test(name)))
    return [
      "These are adapters: low-bit state will hardly help, as the model that they are for fills the memory; plan that model with --lora RANK.",
    ];
  if (activations) return [];
  const all = Object.values(shapes);
  const total = all.reduce((sum, shape) => sum + sizeOf(shape), 0);
  const convolved = all
    .filter((shape) => shape.length >= 4)
    .reduce((sum, shape) => sum + sizeOf(shape), 0);
  const missing = `Activations are not counted${transformer ? "" : ": only the tensors are known"}; give them with --activations SIZE, or a config.json.`;
  return convolved > total / 2
    ? [
        `This is a convolutional network: activations, not optimizer state, fill its memory, and low-bit state will hardly help. ${missing}`,
      ]
    : [missing];
}

function browserAdvice(
  { shapes }: PlanModel,
  plan: Omit<Plan, "notes">,
): string[] {
  const { parameterBytes, gradientBytes, activations, rows, dtype } = plan;
  const bytes = dtype === "bfloat16" || dtype === "float16" ? 2 : 4;
  const large = Object.entries(shapes)
    .map(([name, shape]) => ({ name, bytes: bytes * sizeOf(shape) }))
    .filter((one) => one.bytes > webgpuLimits.maxStorageBufferBindingSize)
    .sort((a, b) => b.bytes - a.bytes);
  const notes: string[] = [];
  if (large.length > 0)
    notes.push(
      `WebGPU: ${large.length === 1 ? "one tensor is" : `${large.length} tensors are`} larger than the 134 MB that a binding has by default, the largest ${large[0]!.name} with ${size(large[0]!.bytes)}: ask for maxStorageBufferBindingSize${large[0]!.bytes > webgpuLimits.maxBufferSize ? " and maxBufferSize" : ""} in requestDevice. lowbit's own step cuts tensors into pieces.`,
    );
  const model = parameterBytes + gradientBytes + (activations?.total ?? 0);
  if (model > wasmLimit)
    notes.push(
      `WebAssembly: parameters, gradients and activations take ${size(model)}, more than the 4.29 GB of one memory; the model cannot run there.`,
    );
  const over = rows.filter(({ stateBytes }) => stateBytes > wasmLimit);
  if (over.length > 0)
    notes.push(
      `WebAssembly: the state of ${over.map(({ recipe }) => recipe).join(", ")} alone is more than the 4.29 GB of one memory.`,
    );
  const own = rows.find(({ recipe }) => recipe === "tf.train.adam");
  if (own)
    notes.push(
      `TensorFlow.js's own Adam makes temporaries of 56 bytes a parameter in each step, ${size(own.temporaryBytes)}; a wasm heap never shrinks again.`,
    );
  return notes;
}

const percent = (share: number) =>
  `${share < 0.0995 ? (100 * share).toPrecision(2) : Math.round(100 * share)} %`;

function size(bytes: number): string {
  const units = { kB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 };
  const [unit, of] = Object.entries(units).find(
    ([, one]) => bytes < 999.5 * one,
  ) ?? ["TB", 1e12];
  return `${(bytes / of).toPrecision(3)} ${unit}`;
}
