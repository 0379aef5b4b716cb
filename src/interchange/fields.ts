/** Files of named tensors, read one tensor at a time. */
import { FileError } from "../io/fault.ts";
import {
  arrays,
  readHeader,
  type TensorArray,
  type TensorEntry,
} from "../io/safetensors.ts";
import { readRange, type ByteSource } from "../io/source.ts";

/** A file whose header is known and whose tensors are read when they are asked for. */
export interface TensorSource {
  /** The file's own metadata, all text. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Type, shape and place of every tensor, by its key. */
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** A copy of a tensor's data; F16, BF16 and FP8 as their bits. */
  read(name: string): Promise<TensorArray>;
}

/**
 * Opens a safetensors file: reads its header, and each tensor when it is asked for.
 *
 * @throws FileError for a file that is cut off, or no safetensors file.
 */
export async function openTensors(file: ByteSource): Promise<TensorSource> {
  const { metadata, entries } = await readHeader(file);
  const tensors = new Map(entries.map((entry) => [entry.name, entry]));
  return {
    metadata,
    tensors,
    async read(name) {
      const { dtype, start, end } = tensors.get(name)!;
      // Not slice(), which in Node's Buffer is no copy.
      const bytes = new Uint8Array(await readRange(file, start, end));
      return new arrays[dtype](bytes.buffer);
    },
  };
}

/** The keys below one parameter's name, to their full names in the file. */
export type Fields = ReadonlyMap<string, string>;

/** A parameter of an optimizer's state as a file has it. */
export interface Parameter {
  /** Name or index, without what all keys begin with. */
  readonly key: string;
  readonly fields: Fields;
}

/**
 * What may stand below a parameter. Keys of all layouts, so that a file can be
 * sorted before its layout is known; the longest match counts, as in
 * `exp_avg_sq` and `exp_avg_sq.codes`.
 */
const field =
  /^(?:(.*?)\.)?((?:__bnb_optimizer_quant_state__\.)?(?:state[12]|absmax[12]|qmap[12]|(?:new_)?max[12]|gnorm_vec|unorm_vec)|(?:step|mu_product)|(?:(?:max_)?exp_avg(?:_sq|_fast|_slow|_sq_row|_sq_col)?|momentum_buffer|square_avg|grad_avg|sum)(?:\.(?:codes|scale|qmap|max1|max_dims\d+)|_qstate\.[\w.]+)?)$/;

/** Sorts a file's tensors by parameter; `rest` are those that are no optimizer state. */
export function parametersOf(source: TensorSource): {
  readonly parameters: readonly Parameter[];
  readonly rest: readonly string[];
} {
  const byKey = new Map<string, Map<string, string>>();
  const rest: string[] = [];
  for (const name of source.tensors.keys()) {
    const match = shortestKey(name);
    if (!match) {
      rest.push(name);
      continue;
    }
    const fields = byKey.get(match.key) ?? new Map<string, string>();
    byKey.set(match.key, fields.set(match.field, name));
  }
  const keys = [...byKey.keys()];
  const prefix = commonPrefix(keys);
  return {
    parameters: [...byKey].map(([key, fields]) => ({
      key: key.slice(prefix.length),
      fields,
    })),
    rest,
  };
}

/** `h.0.w.exp_avg.codes` -> `h.0.w` and `exp_avg.codes`. */
function shortestKey(name: string): { key: string; field: string } | undefined {
  const match = field.exec(name);
  if (!match) return undefined;
  // bitsandbytes since 0.50 wraps its tensors once more, for FSDP.
  const plain = match[2]!.replace("__bnb_optimizer_quant_state__.", "");
  return { key: match[1] ?? "", field: plain };
}

/** What people put in front of every parameter: `state.`, `optimizer.state.`. */
function commonPrefix(keys: readonly string[]): string {
  for (const prefix of ["optimizer.state.", "optim.state.", "state."])
    if (keys.every((key) => key.startsWith(prefix))) return prefix;
  return "";
}

/** The largest count of steps among the parameters, and whether they differ. */
export async function readSteps(
  source: TensorSource,
  parameters: readonly Parameter[],
): Promise<{ step: number | undefined; differ: boolean }> {
  const steps: number[] = [];
  for (const { key, fields } of parameters) {
    const name = fields.get("step");
    if (name === undefined) continue;
    const [value] = await readNumbers(source, name);
    if (value === undefined || !Number.isSafeInteger(value) || value < 0)
      throw new FileError(
        `'${name}' must be a count of steps, and is ${value ?? "empty"} (of '${key}')`,
      );
    steps.push(value);
  }
  if (steps.length === 0) return { step: undefined, differ: false };
  const step = steps.reduce((a, b) => Math.max(a, b));
  return { step, differ: steps.some((one) => one !== step) };
}

async function readNumbers(
  source: TensorSource,
  name: string,
): Promise<number[]> {
  const { dtype } = source.tensors.get(name)!;
  if (["F16", "BF16", "F8_E4M3", "F8_E5M2"].includes(dtype))
    throw new FileError(`'${name}' is ${dtype}; a number is I64 or F32`);
  return Array.from(await source.read(name), Number);
}

/** A float32 tensor; bfloat16 is widened. */
export async function readFloats(
  source: TensorSource,
  name: string,
  length: number,
): Promise<Float32Array<ArrayBuffer>> {
  const { dtype } = source.tensors.get(name)!;
  const data = await source.read(name);
  if (data.length !== length)
    throw new FileError(
      `'${name}' must have ${length} values, and has ${data.length}`,
    );
  if (dtype === "F32") return data as Float32Array<ArrayBuffer>;
  if (dtype === "BF16")
    return new Float32Array(
      Uint32Array.from(data as Uint16Array, (bits) => bits << 16).buffer,
    );
  if (dtype === "F64") return Float32Array.from(data as Float64Array);
  throw new FileError(`'${name}' must be F32 or BF16, and is ${dtype}`);
}

/** Codes as bytes, whichever signedness they were written with. */
export async function readBytes(
  source: TensorSource,
  name: string,
): Promise<Uint8Array<ArrayBuffer>> {
  const { dtype } = source.tensors.get(name)!;
  const data = await source.read(name);
  if (data.BYTES_PER_ELEMENT !== 1)
    throw new FileError(`'${name}' must be U8 or I8, and is ${dtype}`);
  return new Uint8Array(
    data.buffer as ArrayBuffer,
    data.byteOffset,
    data.length,
  );
}

/** A finite, non-negative scale each; a file that has others is broken. */
export function checkScales<T extends Float32Array>(
  name: string,
  scales: T,
): T {
  const bad = scales.findIndex((scale) => !(scale >= 0 && scale < Infinity));
  if (bad >= 0)
    throw new FileError(
      `'${name}' must hold scales, finite and 0 or more; number ${bad} is ${scales[bad]}`,
    );
  return scales;
}
