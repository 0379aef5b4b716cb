/** Checks of what a user hands over, before anything is written. */
import type { Engine, StoredState } from "../engines/engine.ts";
import { scaleCount, type Format } from "../formats/format.ts";
import { codeBytes } from "../formats/pack.ts";
import type { Parameter } from "./optimizer.ts";
import type { TensorInfo } from "./options.ts";

/** A tied weight given twice would be updated twice. */
export function checkShared(
  parameters: Readonly<Record<string, Parameter>>,
): void {
  const owners = new Map<unknown, string>();
  for (const [name, { data }] of Object.entries(parameters)) {
    if (!(data instanceof Float32Array) || data.length === 0) continue;
    const owner = owners.get(data);
    if (owner !== undefined)
      throw new TypeError(
        `createOptimizer: '${owner}' and '${name}' are the same array; give a tied weight once`,
      );
    owners.set(data, name);
  }
}

/** @param owner begins a sentence that goes on with the tensor's name. */
export function checkData(
  engine: Engine,
  tensor: TensorInfo,
  data: unknown,
  owner = "createOptimizer: the data of",
): unknown {
  if (data === undefined) return undefined;
  if (data instanceof Float32Array) {
    if (data.length !== tensor.size)
      throw new RangeError(
        `${owner} '${tensor.name}' must have ${tensor.size} elements (shape [${tensor.shape.join(", ")}]), given ${data.length}`,
      );
    return data;
  }
  if (engine.accepts?.(data)) return data;
  throw new TypeError(
    `${owner} '${tensor.name}' must be a Float32Array${engine.accepts ? " or a GPU buffer" : ""} on device '${engine.name}', given ${Object.prototype.toString.call(data).slice(8, -1)}`,
  );
}

/** @throws TypeError or RangeError when a stored state is not of this form. */
export function checkStored(
  owner: string,
  format: Format,
  size: number,
  shape: readonly number[],
  stored: StoredState,
): void {
  const wrong = (what: string, wanted: number, given: number) =>
    new RangeError(`setState: ${owner} has ${wanted} ${what}, given ${given}`);
  const kind = format.kind === "float" ? "float" : "quantized";
  if (stored.kind !== kind)
    throw new TypeError(
      `setState: ${owner} is stored as ${kind}, given ${stored.kind}`,
    );
  if (stored.kind === "float") {
    if (stored.values.length !== size)
      throw wrong("values", size, stored.values.length);
    return;
  }
  const bytes = codeBytes(format.bits, size);
  if (stored.codes.length !== bytes)
    throw wrong("bytes of codes", bytes, stored.codes.length);
  const scales = scaleCount(format, size, shape);
  if (stored.scales.length !== scales)
    throw wrong("scales", scales, stored.scales.length);
}
