/**
 * bitsandbytes: `state1`, `state2` in the parameter's shape, as float32 or as
 * codes with `absmax1`, `absmax2` (a scale a block) and the tables `qmap1`,
 * `qmap2`; `max1`, `max2` with one scale a tensor in versions before 0.45.
 * Keys and shapes as bitsandbytes/optim/optimizer.py has them.
 */
import type { StoredState } from "../engines/engine.ts";
import { FileError } from "../io/fault.ts";
import { sameStorage } from "../io/format-data.ts";
import {
  float32,
  resolveFormat,
  type Format,
  type QuantizedFormat,
} from "../formats/format.ts";
import { decodeTensor, encodeTensor, makeCoder } from "../formats/quantize.ts";
import {
  blockSizeOf,
  chooseShape,
  codedValue,
  codesOf,
  floatsOf,
  floatValue,
  formatOfTable,
  plannedFloats,
  plannedTable,
  sizeOf,
  type FitInput,
  type Layout,
  type PlannedTensor,
  type ReadContext,
  type ReadParameter,
  type StateValue,
} from "./layout.ts";
import { optimizerNames } from "./names.ts";
import {
  checkScales,
  readBytes,
  readFloats,
  type Parameter,
} from "./fields.ts";

/** Its kernels are compiled for this one. */
const BLOCK = 256;
/** And were for the other before 0.44. */
const BLOCKS = [BLOCK, 2048];
/** Smaller tensors it keeps in float32. */
const SMALLEST = 4096;

export const bitsandbytes: Layout = {
  name: "bitsandbytes",
  title: "bitsandbytes",
  bits: [8, 32],
  step: "I64",
  read: readParameter,
  fit,
  plan,
};

type Slot = 1 | 2;

function slotsOf(
  optimizer: string,
): readonly [readonly string[], readonly string[]] {
  const slots = optimizerNames[optimizer]?.bnb;
  if (!slots)
    throw new FileError(
      `bitsandbytes has no ${optimizer}; it has ${Object.keys(optimizerNames)
        .filter((name) => optimizerNames[name]!.bnb)
        .join(", ")}`,
    );
  return slots;
}

async function readParameter(
  parameter: Parameter,
  context: ReadContext,
): Promise<ReadParameter> {
  const { source, optimizer } = context;
  const { fields } = parameter;
  const slots = slotsOf(optimizer);
  const first = fields.get("state1");
  if (first === undefined)
    throw new FileError(`'${parameter.key}' has no state1`);
  if (fields.has("state2") !== slots[1].length > 0)
    throw new FileError(
      `'${parameter.key}' has ${fields.has("state2") ? "a" : "no"} state2, and ${optimizer} ${slots[1].length > 0 ? "has two states" : "has one state"}; say which optimizer it is`,
    );
  const whole = source.tensors.get(first)!.shape;
  // AdEMAMix keeps two averages in state1, one after the other.
  const pair = slots[0].length > 1;
  if (pair && whole[0] !== 2)
    throw new FileError(
      `'${first}' holds the two averages of ${optimizer} and must be of shape [2, ...], and is [${whole.join(", ")}]`,
    );
  const shape = chooseShape(
    first,
    pair ? whole.slice(1) : whole,
    context.shape,
  );
  const states: Record<string, StateValue> = {};
  const notes: string[] = [];
  for (const slot of [1, 2] as const)
    for (const [nth, state] of slots[slot - 1]!.entries())
      states[state] = await readSlot(context, fields, slot, {
        nth,
        count: slots[slot - 1]!.length,
        length: sizeOf(shape),
        notes,
      });
  return { shape, states, notes };
}

interface Part {
  /** Which of the `count` averages that share the slot. */
  readonly nth: number;
  readonly count: number;
  /** Elements of the parameter. */
  readonly length: number;
  readonly notes: string[];
}

async function readSlot(
  { source }: ReadContext,
  fields: Parameter["fields"],
  slot: Slot,
  { nth, count, length, notes }: Part,
): Promise<StateValue> {
  const name = fields.get(`state${slot}`)!;
  const { dtype, shape } = source.tensors.get(name)!;
  const total = count * length;
  if (sizeOf(shape) !== total)
    throw new FileError(
      `'${name}' must have ${total} elements, and has ${sizeOf(shape)}`,
    );
  const from = nth * length;
  if (dtype !== "U8") {
    const value = floatValue(source, name, total);
    return {
      ...value,
      length,
      read: async () => ({
        kind: "float",
        values: floatsOf(await value.read()).slice(from, from + length),
      }),
    };
  }
  const scaleName = fields.get(`absmax${slot}`) ?? fields.get(`max${slot}`);
  if (scaleName === undefined)
    throw new FileError(`'${name}' holds codes and has no absmax${slot}`);
  const block = fields.has(`absmax${slot}`);
  const scaleTotal = sizeOf(source.tensors.get(scaleName)!.shape);
  const scales = scaleTotal / count;
  const blockSize = block
    ? blockSizeOf(scaleName, length, scales, BLOCKS)
    : BLOCK;
  const format = await readTable(source, fields, slot, {
    blockSize,
    scale: block ? "block" : "tensor",
    notes,
  });
  // The kernel begins the second average's scales at this block, and not after
  // the first's: with a short last block the two share a scale.
  const firstScale = block ? Math.floor(from / blockSize) : nth;
  return codedValue(
    format,
    length,
    async () => (await readBytes(source, name)).slice(from, from + length),
    async () =>
      checkScales(
        scaleName,
        await readFloats(source, scaleName, scaleTotal),
      ).slice(firstScale, firstScale + scales),
  );
}

async function readTable(
  source: ReadContext["source"],
  fields: Parameter["fields"],
  slot: Slot,
  {
    notes,
    ...options
  }: {
    blockSize: number;
    scale: "block" | "tensor";
    notes: string[];
  },
): Promise<QuantizedFormat> {
  const name = fields.get(`qmap${slot}`);
  if (name === undefined) {
    notes.push(`no qmap${slot}: taken as bitsandbytes' dynamic map`);
    return dynamic(slot === 1, options);
  }
  const values = await readFloats(source, name, 256);
  return formatOfTable(name, values, { bits: 8, ...options });
}

const dynamic = (
  signed: boolean,
  options: { blockSize: number; scale?: "block" | "tensor" },
) =>
  resolveFormat(
    { bits: 8, codebook: "dynamic", signed, ...options },
    signed ? "signed" : "unsigned",
  ) as QuantizedFormat;

function slotOf(optimizer: string, state: string): Slot {
  const [first, second] = slotsOf(optimizer);
  if (first.includes(state)) return 1;
  if (second.includes(state)) return 2;
  throw new FileError(
    `bitsandbytes' ${optimizer} has no room for the state '${state}'`,
  );
}

function fit({ optimizer, state, format, shape, bits }: FitInput): Format {
  const slot = slotOf(optimizer, state);
  const size = sizeOf(shape);
  const own = dynamic(slot === 1, { blockSize: BLOCK });
  if (bits === 32) return float32;
  if (
    format.kind === "quantized" &&
    format.bits === 8 &&
    format.values.length === 256 &&
    sameStorage(format, {
      ...own,
      values: format.values,
      signed: format.signed,
    })
  )
    return format;
  // Values that are not quantized stay so, unless 8 bits were asked for.
  if (size < SMALLEST || (format.kind === "float" && bits === undefined))
    return float32;
  // Its encoder never turns the sign of what is in state1.
  return { ...own, keepSign: slot === 1 };
}

function plan(
  prefix: string,
  optimizer: string,
  shape: readonly number[],
  formats: Readonly<Record<string, Format>>,
): PlannedTensor[] {
  const planned: PlannedTensor[] = [];
  slotsOf(optimizer).forEach((states, i) => {
    if (states.length === 0) return;
    const slot = i + 1;
    const format = formats[states[0]!]!;
    const whole = states.length > 1 ? [states.length, ...shape] : shape;
    const key = (field: string) => `${prefix}${field}${slot}`;
    if (format.kind === "float") {
      planned.push(
        plannedFloats(key("state"), whole, (stored) =>
          join(
            Float32Array,
            states.map((state) => floatsOf(stored[state]!)),
          ),
        ),
      );
      return;
    }
    const length = sizeOf(shape);
    const blocks = Math.ceil(length / BLOCK);
    const merge = (stored: Readonly<Record<string, StoredState>>) =>
      mergePair(
        format,
        length,
        states.map((state) => codesOf(stored[state]!)),
      );
    planned.push(
      {
        key: key("state"),
        dtype: "U8",
        shape: whole,
        data: (stored) => merge(stored).codes,
      },
      plannedFloats(
        key("absmax"),
        states.length > 1 ? [states.length, blocks] : [blocks],
        (stored) => merge(stored).scales,
      ),
      plannedTable(key("qmap"), format),
    );
  });
  return planned;
}

interface Coded {
  readonly codes: Uint8Array<ArrayBuffer>;
  readonly scales: Float32Array<ArrayBuffer>;
}

/**
 * One after the other, as the kernel expects two averages: where the last block
 * of the first is short it shares a scale with the first block of the second,
 * and both are coded anew with the larger of the two.
 */
function mergePair(
  format: QuantizedFormat,
  length: number,
  parts: readonly Coded[],
): Coded {
  const [first, second] = parts;
  if (!second) return first!;
  const blocks = first!.scales.length;
  const begin = Math.floor(length / BLOCK);
  const scales = new Float32Array(2 * blocks);
  scales.set(first!.scales);
  scales.set(second.scales, begin);
  const codes = join(Uint8Array, [first!.codes, second.codes]);
  if (begin < blocks) {
    const shared = Math.max(first!.scales[begin]!, second.scales[0]!);
    scales[begin] = shared;
    const recode = (from: number, to: number, scale: number) =>
      codes.set(rescale(format, codes.slice(from, to), scale, shared), from);
    recode(begin * BLOCK, length, first!.scales[begin]!);
    recode(length, length + Math.min(BLOCK, length), second.scales[0]!);
  }
  return { codes, scales };
}

function rescale(
  format: QuantizedFormat,
  codes: Uint8Array<ArrayBuffer>,
  from: number,
  to: number,
): Uint8Array<ArrayBuffer> {
  if (from === to) return codes;
  const one: QuantizedFormat = { ...format, scale: "tensor" };
  const shape = [codes.length];
  const values = decodeTensor(one, codes, Float32Array.of(from), shape);
  return encodeTensor(makeCoder(one), values, Float32Array.of(to), shape, 0);
}

function join<T extends Float32Array<ArrayBuffer> | Uint8Array<ArrayBuffer>>(
  type: new (length: number) => T,
  parts: readonly T[],
): T {
  if (parts.length === 1) return parts[0]!;
  const whole = new type(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
