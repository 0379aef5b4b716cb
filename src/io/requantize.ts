/** From one stored form of a state to another, through float32. */
import type { StoredState } from "../engines/engine.ts";
import type { Format } from "../formats/format.ts";
import { packCodes, unpackCodes } from "../formats/pack.ts";
import { decodeTensor, encodeState, makeCoder } from "../formats/quantize.ts";

/** What a state of `length` values stands for; its own array when it is float32. */
export function decodeStored(
  stored: StoredState,
  format: Format,
  length: number,
  shape: readonly number[],
): Float32Array<ArrayBuffer> {
  if (stored.kind === "float") return stored.values;
  if (format.kind === "float")
    throw new TypeError("decodeStored: codes need the format of codes");
  const codes = unpackCodes(stored.codes, format.bits, length);
  return decodeTensor(format, codes, stored.scales, shape);
}

/**
 * Stores values as a step would.
 *
 * @param key for stochastic rounding
 */
export function encodeStored(
  values: Float32Array<ArrayBuffer>,
  format: Format,
  shape: readonly number[],
  key: number,
): StoredState {
  if (format.kind === "float") return { kind: "float", values };
  const { codes, scales } = encodeState(makeCoder(format), values, shape, key);
  return { kind: "quantized", codes: packCodes(codes, format.bits), scales };
}
