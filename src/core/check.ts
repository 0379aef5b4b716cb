/** Checks of what a user hands over, before anything is written. */
import type { Engine, StoredState } from "../engines/engine.ts";
import { scaleCount, type Format } from "../formats/format.ts";
import { codeBytes } from "../formats/pack.ts";
import type { Parameter } from "./parts.ts";
import type { TensorInfo } from "./options.ts";

const kindOf = (given: unknown) =>
  Object.prototype.toString.call(given).slice(8, -1);

/** @throws TypeError for what is no parameters by name, with their shapes. */
export function checkParameters(
  parameters: Readonly<Record<string, Parameter>>,
): void {
  const check = (right: boolean, what: string, given: unknown) => {
    if (!right)
      throw new TypeError(
        `createOptimizer: ${what} must be as in { w: { data: new Float32Array(6), shape: [2, 3] } }, given ${kindOf(given)}`,
      );
  };
  check(kindOf(parameters) === "Object", "the parameters", parameters);
  for (const [name, given] of Object.entries(parameters))
    check(Array.isArray(given?.shape), `the parameter '${name}'`, given);
}

/** A tied weight given twice, or a part of one, would be updated twice. */
export function checkShared(
  parameters: Readonly<Record<string, Parameter>>,
): void {
  const views = new Map<ArrayBufferLike, [string, Float32Array][]>();
  for (const [name, { data }] of Object.entries(parameters)) {
    if (!(data instanceof Float32Array) || data.length === 0) continue;
    const list = views.get(data.buffer) ?? [];
    views.set(data.buffer, list);
    list.push([name, data]);
  }
  for (const list of views.values()) {
    list.sort(([, a], [, b]) => a.byteOffset - b.byteOffset);
    list.slice(1).forEach(([name, data], i) => {
      const [before, previous] = list[i]!;
      if (previous.byteOffset + previous.byteLength <= data.byteOffset) return;
      const same = previous.byteOffset === data.byteOffset;
      throw new TypeError(
        `createOptimizer: '${before}' and '${name}' ${same ? "are the same array" : "overlap in memory"}; give a tied weight once`,
      );
    });
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
    `${owner} '${tensor.name}' must be a Float32Array${engine.accepts ? " or a GPU buffer" : ""} on device '${engine.name}', given ${kindOf(data)}`,
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
