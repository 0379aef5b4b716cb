/**
 * lpmm (thu-ml/low-bit-optimizers): `exp_avg`, `exp_avg_sq` or `momentum_buffer`
 * hold packed 4-bit codes, low nibble first, flat, padded to a multiple of 2048
 * elements and a byte more (its fused kernel does not pad); `<state>_qstate` has
 * the table and, under `overhead`, `max1` (a scale a block) or `max_dims`
 * (rank-1 scales, one tensor an axis). Keys and shapes as lpmm/optim/adamw.py and
 * lpmm/functional.py have them.
 */
import {
  float32,
  formatFor,
  resolveFormat,
  zeroCode,
  type Format,
  type QuantizedFormat,
} from "../formats/format.ts";
import { FileError } from "../io/fault.ts";
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
  smallShape,
  type FitInput,
  type Layout,
  type PlannedTensor,
  type ReadContext,
  type ReadParameter,
  type StateValue,
} from "./layout.ts";
import { optimizerNames, stateKind } from "./names.ts";
import {
  checkScales,
  readBytes,
  readFloats,
  type Parameter,
  type TensorSource,
} from "./fields.ts";

const BLOCK = 128;
/** What its configuration may ask for besides. */
const BLOCKS = [BLOCK, 64, 32, 256, 512, 1024, 2048, 4096];
/** It pads to a multiple of this many elements. */
const PADDING = 2048;
/** It keeps float32 for as many elements, and for fewer. */
const LARGEST_PLAIN = 4096;

const known = ["adamw", "factor", "sgd"];

export const lpmm: Layout = {
  name: "lpmm",
  title: "lpmm (thu-ml/low-bit-optimizers)",
  bits: [4, 32],
  step: "F32",
  read: readParameter,
  fit,
  plan,
};

function keysOf(optimizer: string): Readonly<Record<string, string>> {
  if (!known.includes(optimizer))
    throw new FileError(`lpmm has ${known.join(", ")}, and no ${optimizer}`);
  return optimizerNames[optimizer]!.torch;
}

/** Where the parts of a coded state are: as in a state dict, or in short. */
function partsOf(fields: Parameter["fields"], theirs: string) {
  const part = (name: string) =>
    fields.get(`${theirs}_qstate.${name}`) ??
    fields.get(`${theirs}.${name.replace("overhead.", "")}`);
  const axes: string[] = [];
  for (let axis = 0; ; axis++) {
    const name =
      part(`overhead.max_dims.${axis}`) ?? part(`overhead.max_dims${axis}`);
    if (name === undefined) break;
    axes.push(name);
  }
  return { table: part("qmap"), blocks: part("overhead.max1"), axes };
}

async function readParameter(
  { key, fields }: Parameter,
  context: ReadContext,
): Promise<ReadParameter> {
  const { source, optimizer } = context;
  const keys = Object.entries(keysOf(optimizer)).filter(([, theirs]) =>
    fields.has(theirs),
  );
  if (keys.length === 0)
    throw new FileError(
      `'${key}' has none of ${Object.values(keysOf(optimizer)).join(", ")}`,
    );
  const shape = findShape(key, fields, context);
  const states: Record<string, StateValue> = {};
  for (const [state, theirs] of keys) {
    const name = fields.get(theirs)!;
    const { dtype, shape: own } = source.tensors.get(name)!;
    if (state === "row" || state === "col" || !["I8", "U8"].includes(dtype)) {
      const wanted = smallShape(state, shape);
      if (sizeOf(own) !== sizeOf(wanted))
        throw new FileError(
          `'${name}' must have ${sizeOf(wanted)} values, and has ${sizeOf(own)}`,
        );
      states[state] = floatValue(source, name, sizeOf(wanted));
    } else states[state] = await readCoded(name, theirs, fields, shape, source);
  }
  return { shape, states };
}

/** Padded codes do not tell how many elements there are; other tensors may. */
function findShape(
  key: string,
  fields: Parameter["fields"],
  { source, shape: given }: ReadContext,
): readonly number[] {
  const shapeOf = (name: string) => source.tensors.get(name)!.shape;
  for (const theirs of ["exp_avg", "exp_avg_sq", "momentum_buffer"]) {
    const name = fields.get(theirs);
    if (name === undefined) continue;
    if (!["I8", "U8"].includes(source.tensors.get(name)!.dtype))
      return chooseShape(name, shapeOf(name), given);
    const { axes } = partsOf(fields, theirs);
    if (axes.length > 0)
      return chooseShape(
        axes[0]!,
        axes.map((axis) => sizeOf(shapeOf(axis))),
        given,
      );
  }
  const row = fields.get("exp_avg_sq_row");
  const col = fields.get("exp_avg_sq_col");
  if (row !== undefined && col !== undefined)
    return chooseShape(row, [...shapeOf(row), shapeOf(col).at(-1) ?? 1], given);
  if (given) return given;
  throw new FileError(
    `the codes of '${key}' are padded, so that its shape must be known: write 'shapes' into the metadata, or give a model file that has it`,
  );
}

async function readCoded(
  name: string,
  theirs: string,
  fields: Parameter["fields"],
  shape: readonly number[],
  source: TensorSource,
): Promise<StateValue> {
  const length = sizeOf(shape);
  const { table, blocks, axes } = partsOf(fields, theirs);
  const packed = Math.ceil(length / 2);
  const bytes = sizeOf(source.tensors.get(name)!.shape);
  if (bytes !== packed && bytes !== paddedBytes(length))
    throw new FileError(
      `'${name}' must have ${paddedBytes(length)} bytes of codes (${packed} from the fused kernel) for ${length} elements, and has ${bytes}`,
    );
  const scaleNames = axes.length > 0 ? axes : blocks ? [blocks] : [];
  if (scaleNames.length === 0 || table === undefined)
    throw new FileError(
      `'${name}' holds codes and has no ${table === undefined ? "qmap" : "max1 or max_dims"}`,
    );
  const counts = scaleNames.map((one) =>
    sizeOf(source.tensors.get(one)!.shape),
  );
  const format = formatOfTable(table, await readFloats(source, table, 16), {
    bits: 4,
    scale: axes.length > 0 ? "rank1" : "block",
    blockSize:
      axes.length > 0 ? BLOCK : blockSizeOf(name, length, counts[0]!, BLOCKS),
  });
  if (axes.length > 0 && counts.some((count, axis) => count !== shape[axis]))
    throw new FileError(
      `the rank-1 scales of '${name}' are for shape [${counts.join(", ")}], and it has [${shape.join(", ")}]`,
    );
  return codedValue(
    format,
    length,
    async () => {
      const codes = (await readBytes(source, name)).slice(0, packed);
      // What is coded behind the last element is padding.
      if (length % 2 === 1) codes[packed - 1]! &= 0x0f;
      return codes;
    },
    async () => {
      const all = new Float32Array(counts.reduce((sum, n) => sum + n, 0));
      let at = 0;
      for (const [i, one] of scaleNames.entries()) {
        all.set(
          checkScales(one, await readFloats(source, one, counts[i]!)),
          at,
        );
        at += counts[i]!;
      }
      return all;
    },
  );
}

const paddedBytes = (length: number) =>
  (Math.ceil(length / PADDING) * PADDING) / 2 + 1;

function fit({ optimizer, state, format, shape, bits }: FitInput): Format {
  if (!Object.hasOwn(keysOf(optimizer), state))
    throw new FileError(
      `lpmm's ${optimizer} has no room for the state '${state}'`,
    );
  const kind = stateKind(optimizer, state);
  if (bits === 32 || kind === "row" || kind === "column") return float32;
  if (format.kind === "quantized" && holds(format)) return format;
  if (format.kind === "float" && bits === undefined) return float32;
  if (sizeOf(shape) <= LARGEST_PLAIN) return float32;
  const sign = kind === "signed" ? "signed" : "unsigned";
  const scale =
    format.kind === "quantized" && format.scale === "rank1" ? "rank1" : "block";
  return formatFor(
    resolveFormat({ bits: 4, blockSize: BLOCK, scale }, sign),
    shape,
  );
}

const holds = ({ bits, values, scale, blockSize }: QuantizedFormat) =>
  bits === 4 &&
  values.length === 16 &&
  (scale === "rank1" || (scale === "block" && blockSize === BLOCK));

function plan(
  prefix: string,
  optimizer: string,
  shape: readonly number[],
  formats: Readonly<Record<string, Format>>,
): PlannedTensor[] {
  const keys = keysOf(optimizer);
  return Object.entries(formats).flatMap(([state, format]): PlannedTensor[] => {
    const key = `${prefix}${keys[state]}`;
    if (format.kind === "float")
      return [
        plannedFloats(key, smallShape(state, shape), (stored) =>
          floatsOf(stored[state]!),
        ),
      ];
    const length = sizeOf(shape);
    return [
      {
        key,
        dtype: "I8",
        shape: [paddedBytes(length)],
        data: (stored) => pad(format, codesOf(stored[state]!).codes, length),
      },
      ...plannedScales(`${key}_qstate.overhead.`, state, format, shape),
      plannedTable(`${key}_qstate.qmap`, format),
    ];
  });
}

function plannedScales(
  prefix: string,
  state: string,
  format: QuantizedFormat,
  shape: readonly number[],
): PlannedTensor[] {
  const scales = (stored: Parameters<PlannedTensor["data"]>[0]) =>
    codesOf(stored[state]!).scales;
  if (format.scale !== "rank1")
    return [
      plannedFloats(
        `${prefix}max1`,
        [Math.ceil(sizeOf(shape) / BLOCK), 1],
        scales,
      ),
    ];
  return shape.map((count, axis) => {
    const from = shape.slice(0, axis).reduce((sum, n) => sum + n, 0);
    return plannedFloats(
      `${prefix}max_dims.${axis}`,
      shape.map((n, i) => (i === axis ? n : 1)),
      (stored) => scales(stored).slice(from, from + count),
    );
  });
}

/** Codes of 0 up to the padding; what its last byte holds is left to chance there, 0 here. */
function pad(
  format: QuantizedFormat,
  codes: Uint8Array,
  length: number,
): Int8Array<ArrayBuffer> {
  const zero = zeroCode(format);
  const padded = new Int8Array(paddedBytes(length)).fill((zero << 4) | zero);
  padded[padded.length - 1] = 0;
  padded.set(codes);
  if (length % 2 === 1)
    padded[codes.length - 1] = codes[codes.length - 1]! | (zero << 4);
  return padded;
}
