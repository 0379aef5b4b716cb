/**
 * Recordings as the files that Python would have saved after a step: the keys of
 * the library's own state dict, as docs/interchange.md's `save_state` writes them.
 */
import { writeSafetensors, type Dtype, type SafeTensor } from "lowbit/io";
import type { Recording } from "./recordings.ts";

const arrays = {
  F32: Float32Array,
  U8: Uint8Array,
  I8: Int8Array,
} as const;

/** A tensor of a recording, under another dtype if need be. */
function tensorOf(
  { name, tensors }: Recording,
  key: string,
  as?: Dtype,
): SafeTensor {
  const tensor = tensors.get(key);
  if (!tensor) throw new Error(`${name} has no '${key}'`);
  const dtype = tensor.dtype as keyof typeof arrays;
  const data = new arrays[dtype](tensor.bytes.slice().buffer);
  return as === undefined
    ? { dtype, shape: tensor.shape, data }
    : { dtype: as, shape: tensor.shape, data };
}

export interface PythonFile {
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly tensors: Readonly<Record<string, SafeTensor>>;
  readonly metadata: Readonly<Record<string, string>>;
}

export interface PythonOptions {
  /** In front of the keys. Default `state.0.`. */
  readonly prefix?: string;
  /** Whether the metadata say what they can. Default true. */
  readonly described?: boolean;
}

/** The file after `step` steps of a recording. */
export function pythonState(
  recording: Recording,
  step: number,
  { prefix = "state.0.", described = true }: PythonOptions = {},
): PythonFile {
  const meta = JSON.parse(recording.metadata.meta!) as Record<string, unknown>;
  const keys = [...recording.tensors.keys()];
  const has = (key: string) => keys.includes(key);
  const tensors: Record<string, SafeTensor> = {};
  const put = (key: string, from: string, as?: Dtype) =>
    (tensors[`${prefix}${key}`] = tensorOf(recording, from, as));
  const shape = recording.tensors.get("p0")!.shape;
  if (has("state1.1")) bitsandbytes();
  else if (has("exp_avg.codes.1")) torchao();
  else lpmm();
  return {
    bytes: writeSafetensors(tensors, metadata()),
    tensors,
    metadata: metadata(),
  };

  function bitsandbytes() {
    for (const slot of [1, 2].filter((slot) => has(`state${slot}.1`))) {
      put(`state${slot}`, `state${slot}.${step}`);
      if (!has(`absmax${slot}.1`)) continue;
      put(`absmax${slot}`, `absmax${slot}.${step}`);
      tensors[`${prefix}qmap${slot}`] = bnbTables[slot - 1]!();
    }
    count("I64");
  }

  function torchao() {
    for (const state of ["exp_avg", "exp_avg_sq"]) {
      const fp8 = !has(`${state}.qmap`);
      put(`${state}.codes`, `${state}.codes.${step}`, fp8 ? "F8_E4M3" : "U8");
      put(`${state}.scale`, `${state}.scale.${step}`);
      if (!fp8) put(`${state}.qmap`, `${state}.qmap`);
    }
    count("F32");
  }

  function lpmm() {
    const states = ["exp_avg", "exp_avg_sq", "momentum_buffer"];
    for (const state of states.filter((state) => has(`${state}.1`))) {
      put(state, `${state}.${step}`);
      put(`${state}_qstate.qmap`, `${state}.qmap`);
      if (has(`${state}.max1.1`))
        put(`${state}_qstate.overhead.max1`, `${state}.max1.${step}`);
      for (let axis = 0; has(`${state}.max_dims${axis}.1`); axis++)
        put(
          `${state}_qstate.overhead.max_dims.${axis}`,
          `${state}.max_dims${axis}.${step}`,
        );
    }
    for (const state of ["exp_avg_sq_row", "exp_avg_sq_col"])
      if (has(`${state}.1`)) put(state, `${state}.${step}`);
    // Its SGD counts no steps.
    if (!has("momentum_buffer.1")) count("F32");
  }

  function count(dtype: "I64" | "F32") {
    tensors[`${prefix}step`] = {
      dtype,
      shape: [],
      data:
        dtype === "I64"
          ? BigInt64Array.of(BigInt(step))
          : Float32Array.of(step),
    };
  }

  function metadata(): Record<string, string> {
    if (!described) return {};
    const { variant, lr, betas, eps, weight_decay, momentum, alpha } = meta;
    const name = String(meta.optimizer ?? variant);
    return {
      optimizer: name.startsWith("adamw4_") ? "AdamW" : name.replace(/4$/, ""),
      names: JSON.stringify(["w"]),
      shapes: JSON.stringify({ w: shape }),
      param_groups: JSON.stringify([
        { lr, betas, eps, weight_decay, momentum, alpha, params: [0] },
      ]),
    };
  }
}

let quantizeTables: readonly [SafeTensor, SafeTensor] | undefined;

/** The runs of bitsandbytes were recorded without their tables, which another recording has. */
const bnbTables = [() => quantizeTables![0], () => quantizeTables![1]] as const;

export function useTables(quantizations: Recording): void {
  quantizeTables = [
    tensorOf(quantizations, "dynamic_signed"),
    tensorOf(quantizations, "dynamic_unsigned"),
  ];
}
