/**
 * torchao's low-bit Adam and AdamW: `exp_avg` and `exp_avg_sq` (with AMSGrad
 * `max_exp_avg_sq`) are tensor subclasses, whose parts a file has as `.codes`,
 * `.scale` and `.qmap` (FP8 has no table). 4-bit codes lie flat, two a byte, the
 * first element in the high nibble. Keys and shapes as
 * torchao/optim/subclass_{4bit,8bit,fp8}.py have them.
 */
import {
  float32,
  resolveFormat,
  type Format,
  type QuantizedFormat,
} from "../formats/format.ts";
import { FileError } from "../io/fault.ts";
import { codesOfFp8, fp8Format, fp8OfCodes, isFp8 } from "./fp8.ts";
import {
  chooseShape,
  codedValue,
  codesOf,
  floatsOf,
  floatValue,
  formatOfTable,
  plannedFloats,
  plannedTable,
  sizeOf,
  swapNibbles,
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
} from "./fields.ts";

const SMALLEST = 4096;

export const torchao: Layout = {
  name: "torchao",
  title: "torchao",
  bits: [4, 8, "fp8", 32],
  step: "F32",
  read: readParameter,
  fit,
  plan,
};

function keysOf(optimizer: string): Readonly<Record<string, string>> {
  if (optimizer !== "adam" && optimizer !== "adamw")
    throw new FileError(
      `torchao has low-bit adam and adamw, and no ${optimizer}`,
    );
  return optimizerNames[optimizer]!.torch;
}

async function readParameter(
  { key, fields }: Parameter,
  context: ReadContext,
): Promise<ReadParameter> {
  const states: Record<string, StateValue> = {};
  const notes: string[] = [];
  let shape: readonly number[] | undefined;
  for (const [state, theirs] of Object.entries(keysOf(context.optimizer))) {
    const found = await readOne(fields, theirs, context);
    if (!found) continue;
    states[state] = found.value;
    if (shape && sizeOf(shape) !== sizeOf(found.shape))
      throw new FileError(
        `the states of '${key}' have ${sizeOf(shape)} and ${sizeOf(found.shape)} elements`,
      );
    // Flat codes say least of the shape.
    if (!shape || (found.shape.length > shape.length && !context.shape))
      shape = found.shape;
    if (found.flat && !context.shape && notes.length === 0)
      notes.push(
        "4-bit codes lie flat: without 'shapes' in the metadata their parameters count as having one axis",
      );
  }
  if (!shape)
    throw new FileError(`'${key}' has neither exp_avg nor exp_avg_sq`);
  return { shape, states, notes };
}

async function readOne(
  fields: Parameter["fields"],
  theirs: string,
  { source, shape: known }: ReadContext,
): Promise<
  { value: StateValue; shape: readonly number[]; flat?: boolean } | undefined
> {
  const plain = fields.get(theirs);
  if (plain !== undefined) {
    const shape = chooseShape(plain, source.tensors.get(plain)!.shape, known);
    return { value: floatValue(source, plain, sizeOf(shape)), shape };
  }
  const codes = fields.get(`${theirs}.codes`);
  if (codes === undefined) return undefined;
  const scale = fields.get(`${theirs}.scale`);
  if (scale === undefined)
    throw new FileError(`'${codes}' has no scale beside it`);
  const info = source.tensors.get(codes)!;
  const table = fields.get(`${theirs}.qmap`);
  const entries = table && sizeOf(source.tensors.get(table)!.shape);
  if (entries !== undefined && entries !== 16 && entries !== 256)
    throw new FileError(
      `'${table}' must have 16 or 256 values, and has ${entries}`,
    );
  const flat = entries === 16;
  const shape = chooseShape(
    codes,
    flat ? [2 * sizeOf(info.shape)] : info.shape,
    known,
  );
  const length = sizeOf(shape);
  const scales = sizeOf(source.tensors.get(scale)!.shape);
  const blockSize = length / scales;
  if (!Number.isInteger(blockSize))
    throw new FileError(
      `'${scale}' has ${scales} scales, which do not divide ${length} elements`,
    );
  if (table === undefined) {
    const format = fp8Format(scale, blockSize);
    const value = codedValue(
      format,
      length,
      async () => codesOfFp8(codes, await readBytes(source, codes)),
      async () =>
        checkScales(scale, await readFloats(source, scale, scales)).map(
          (one) => one * 448,
        ),
    );
    return { value, shape };
  }
  const format = formatOfTable(
    table,
    await readFloats(source, table, entries!),
    { bits: flat ? 4 : 8, blockSize },
  );
  const value = codedValue(
    format,
    length,
    async () => {
      const bytes = await readBytes(source, codes);
      return flat ? swapNibbles(bytes) : bytes;
    },
    async () => checkScales(scale, await readFloats(source, scale, scales)),
  );
  return { value, shape, flat };
}

function fit({ optimizer, state, format, shape, bits }: FitInput): Format {
  if (!Object.hasOwn(keysOf(optimizer), state))
    throw new FileError(
      `torchao's ${optimizer} has no room for the state '${state}'`,
    );
  if (bits === 32) return float32;
  const size = sizeOf(shape);
  if (format.kind === "quantized" && holds(format, size)) {
    const own = isFp8(format) ? "fp8" : format.bits;
    if (bits === undefined || bits === own) return format;
  }
  if (format.kind === "float" && bits === undefined) return float32;
  const width = bits ?? (format.bits <= 4 ? 4 : 8);
  const wanted =
    width === "fp8"
      ? fp8Format(state, 256)
      : (resolveFormat(
          { bits: width },
          stateKind(optimizer, state) === "signed" ? "signed" : "unsigned",
        ) as QuantizedFormat);
  // Its own rule for which tensors it quantizes.
  return size >= SMALLEST && size % wanted.blockSize === 0 ? wanted : float32;
}

/** Whether its classes can hold this as it is. */
function holds(format: QuantizedFormat, size: number): boolean {
  const { bits, scale, blockSize, values } = format;
  return (
    scale === "block" &&
    size > 0 &&
    size % blockSize === 0 &&
    (isFp8(format) ||
      (bits === 8 && values.length === 256) ||
      (bits === 4 && values.length === 16))
  );
}

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
      return [plannedFloats(key, shape, (stored) => floatsOf(stored[state]!))];
    const fp8 = isFp8(format);
    const length = sizeOf(shape);
    return [
      {
        key: `${key}.codes`,
        dtype: fp8 ? "F8_E4M3" : "U8",
        shape: format.bits === 4 ? [length / 2] : shape,
        data: (stored) => {
          const { codes } = codesOf(stored[state]!);
          if (fp8) return fp8OfCodes(codes);
          return format.bits === 4 ? swapNibbles(codes) : codes;
        },
      },
      plannedFloats(`${key}.scale`, [length / format.blockSize], (stored) => {
        const { scales } = codesOf(stored[state]!);
        return fp8 ? scales.map((one) => one / 448) : scales;
      }),
      ...(fp8 ? [] : [plannedTable(`${key}.qmap`, format)]),
    ];
  });
}
