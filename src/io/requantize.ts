/**
 * From one stored form of a state to another, through float32. The usual formats
 * have loops of their own here, block by block and by table: a large model has
 * a thousand million values, and `formats/quantize.ts` is written to be read.
 */
import type { StoredState } from "../engines/engine.ts";
import { encodeTable } from "../formats/encode.ts";
import type { Format, QuantizedFormat } from "../formats/format.ts";
import { packCodes, unpackCodes } from "../formats/pack.ts";
import {
  decodeTensor,
  encodeState,
  groupSize,
  inverseScale,
  makeCoder,
  tensorScales,
  type Coder,
} from "../formats/quantize.ts";

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
  const { scales } = stored;
  const codes = unpackCodes(stored.codes, format.bits, length);
  if (!hasGroups(format)) return decodeTensor(format, codes, scales, shape);
  const values = new Float32Array(length);
  const entries = format.values;
  forEachGroup(format, length, (group, start, end) => {
    const scale = scales[group]!;
    for (let i = start; i < end; i++) values[i] = entries[codes[i]!]! * scale;
  });
  return values;
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
  const coder = makeCoder(format);
  const { codes, scales } =
    encodeGroups(coder, values, shape) ??
    encodeState(coder, values, shape, key);
  return { kind: "quantized", codes: packCodes(codes, format.bits), scales };
}

/** Whether consecutive elements share a scale. */
const hasGroups = ({ scale }: QuantizedFormat): boolean =>
  scale === "block" || scale === "tensor";

function forEachGroup(
  format: QuantizedFormat,
  length: number,
  visit: (group: number, start: number, end: number) => void,
): void {
  const size = groupSize(format, length);
  for (let group = 0; group * size < length; group++)
    visit(group, group * size, Math.min(length, (group + 1) * size));
}

/** By table; undefined where the format, or a value that is not finite, asks for more. */
function encodeGroups(
  { format, limits, zero }: Coder,
  values: Float32Array,
  shape: readonly number[],
) {
  const plain = format.rounding === "nearest" && !format.correctScale;
  if (!plain || !hasGroups(format)) return undefined;
  const table = encodeTable(limits, format.signed);
  if (!table) return undefined;
  const scales = tensorScales(values, format, shape);
  if (!scales.every(Number.isFinite)) return undefined;
  const { entries, shift } = table;
  const codes = new Uint8Array(values.length);
  const bits = new Int32Array(Math.min(4096, values.length));
  const floats = new Float32Array(bits.buffer);
  forEachGroup(format, values.length, (group, start, end) => {
    const inverse = inverseScale(scales[group]!);
    if (inverse === 0) return void codes.fill(zero, start, end);
    for (let from = start; from < end; from += bits.length) {
      const count = Math.min(bits.length, end - from);
      for (let i = 0; i < count; i++) floats[i] = values[from + i]! * inverse;
      for (let i = 0; i < count; i++) {
        const word = bits[i]!;
        codes[from + i] = Math.abs(
          ((word + entries[word >>> shift]!) | 0) >> shift,
        );
      }
    }
  });
  return { codes, scales };
}
