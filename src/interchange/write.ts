/** Writes the state of an optimizer in any layout, one parameter in memory at a time. */
import { resolveTensors } from "../core/options.ts";
import { checkSettings } from "../core/settings.ts";
import type { StoredState } from "../engines/engine.ts";
import { formatFor, resolveFormat, type Format } from "../formats/format.ts";
import { fromBfloat16, toBfloat16 } from "../formats/bfloat16.ts";
import { storedScale } from "../formats/quantize.ts";
import { randomKey } from "../formats/random.ts";
import { optimizerByName } from "../optimizers/registry.ts";
import { arrange, bytesOf, checkpointFile } from "../io/checkpoint-write.ts";
import {
  valuesOf,
  type Checkpoint,
  type CheckpointTensor,
} from "../io/checkpoint.ts";
import { FileError } from "../io/fault.ts";
import { sameStorage } from "../io/format-data.ts";
import { decodeStored, encodeStored } from "../io/requantize.ts";
import {
  entryBytes,
  makeHeader,
  type TensorArray,
  type TensorEntry,
} from "../io/safetensors.ts";
import {
  describeFormat,
  sizeOf,
  type Layout,
  type LayoutName,
  type PlannedTensor,
  type TargetBits,
} from "./layout.ts";
import { groupOfHyper } from "./names.ts";
import { layouts, recipeName } from "./read.ts";

/** How a state is to be written. */
export interface WriteStateOptions {
  /** Whose layout to write. */
  readonly to: LayoutName;
  /**
   * Bits of the states of tensors that are large enough to be quantized; `fp8`
   * in torchao's layout. Default: what they have, where the layout can hold it.
   */
  readonly bits?: TargetBits;
  /** For `to: "lowbit"`: the recipe by whose rules states are stored, such as adamw4bit. */
  readonly recipe?: string;
}

/** What became of one state. */
export interface StateChange {
  /** Name of the parameter. */
  readonly parameter: string;
  /** Name of the state: `m`. */
  readonly state: string;
  /** Formats in words. */
  readonly from: string;
  /** As `from`. */
  readonly to: string;
  /** `kept`: codes or values as they were; `decoded`: codes to floats, exact; `requantized`: with an error. */
  readonly change: "kept" | "decoded" | "requantized";
  /** Known once the file has been written, and only for what was requantized. */
  readonly error?: QuantizationError;
}

/** How far values moved. */
export interface QuantizationError {
  /** Root mean square of the differences, in units of the values' own. */
  readonly relative: number;
  /** Largest difference, in units of the largest magnitude. */
  readonly largest: number;
}

/** A file that is made while it is written. */
export interface StateFile {
  /** In bytes. */
  readonly size: number;
  /** The file piece by piece. */
  chunks(): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>;
  /** One for each state; errors are in it once the chunks have been read. */
  changes(): readonly StateChange[];
}

/**
 * The state as a file of another layout. What the layout can hold stays as it
 * is, code for code; the rest is decoded, or quantized anew.
 *
 * @throws FileError when the layout has no room for this optimizer or a state.
 */
export function writeState(
  checkpoint: Checkpoint,
  options: WriteStateOptions,
): StateFile {
  const { to, bits, recipe } = options;
  const layout = to === "lowbit" ? undefined : layouts[to];
  if (layout && recipe !== undefined)
    throw new TypeError(
      `writeState: a recipe is lowbit's; leave it out with to: '${to}'`,
    );
  if (layout && bits !== undefined && !layout.bits.includes(bits))
    throw new FileError(
      `${layout.title} has ${layout.bits.join(", ")} bits, and not ${bits}`,
    );
  const changes = new Map<string, StateChange>();
  const formats = layout
    ? foreignFormats(checkpoint, layout, bits)
    : ownFormats(checkpoint, bits, recipe);
  const converted = checkpoint.tensors.map((tensor, i) =>
    convertTensor(tensor, formats[i]!, changes),
  );
  const file = layout
    ? foreignFile(checkpoint, converted, layout)
    : checkpointFile({
        ...checkpoint,
        recipe: recipe ?? recipeName(checkpoint.optimizer, converted),
        tensors: converted,
      });
  return {
    size: file.size,
    chunks: () => file.chunks(),
    changes: () => [...changes.values()],
  };
}

function foreignFormats(
  { optimizer, tensors }: Checkpoint,
  layout: Layout,
  bits: TargetBits | undefined,
): Format[][] {
  return tensors.map(({ shape, states }) =>
    states.map(({ name: state, format }) =>
      layout.fit({ optimizer, state, format, shape, bits }),
    ),
  );
}

/** By the rules of createOptimizer, or only other bits. */
function ownFormats(
  { optimizer, hyper, tensors }: Checkpoint,
  bits: TargetBits | undefined,
  recipe: string | undefined,
): Format[][] {
  if (recipe !== undefined) {
    if (bits !== undefined)
      throw new TypeError("writeState: give bits or a recipe, not both");
    const made = optimizerByName(recipe)();
    if (made.optimizer.name !== optimizer)
      throw new FileError(
        `the state is of ${optimizer}, and ${recipe} is a recipe of ${made.optimizer.name}`,
      );
    const infos = tensors.map(({ name, shape }) => ({
      name,
      shape,
      size: sizeOf(shape),
    }));
    return resolveTensors({ ...made, hyper }, infos, checkSettings({})).map(
      (resolved) => [...resolved.formats],
    );
  }
  if (bits === undefined)
    return tensors.map(({ states }) => states.map(({ format }) => format));
  if (bits === "fp8")
    throw new FileError(
      "fp8 is torchao's; lowbit's own bits are 2 to 8, 16 and 32",
    );
  return tensors.map(({ shape, states }) =>
    states.map(({ kind, format }) => {
      if (kind !== "signed" && kind !== "unsigned") return format;
      const wanted = formatFor(resolveFormat({ bits }, kind), shape);
      const small = sizeOf(shape) < checkSettings({}).minQuantizedSize;
      if (wanted.bits === format.bits) return format;
      return small && wanted.kind === "quantized"
        ? resolveFormat({ bits: 32 })
        : wanted;
    }),
  );
}

/** A parameter with its states in other formats. */
function convertTensor(
  tensor: CheckpointTensor,
  formats: readonly Format[],
  changes: Map<string, StateChange>,
): CheckpointTensor {
  const { name, shape } = tensor;
  return {
    ...tensor,
    states: tensor.states.map((state, s) => {
      const format = formats[s]!;
      const key = `${name}/${state.name}`;
      const kept = sameStorage(state.format, format);
      const change: StateChange = {
        parameter: name,
        state: state.name,
        from: describeFormat(state.format),
        to: describeFormat(format),
        change: kept
          ? "kept"
          : format.kind === "float" && format.bits === 32
            ? "decoded"
            : "requantized",
      };
      changes.set(key, change);
      return {
        ...state,
        format,
        async read() {
          const stored = await state.read();
          if (kept) return tidy(stored);
          const values = decodeStored(
            stored,
            state.format,
            valuesOf(state.kind, shape),
            shape,
          );
          const result = store(values, format, shape);
          if (change.change === "requantized")
            changes.set(key, {
              ...change,
              error: errorOf(
                values,
                decodeStored(result, format, values.length, shape),
              ),
            });
          return result;
        },
      };
    }),
  };
}

/** Scales below the smallest normal float32 count as 0 here, and are written so. */
const tidy = (stored: StoredState): StoredState =>
  stored.kind === "float"
    ? stored
    : { ...stored, scales: stored.scales.map(storedScale) };

function store(
  values: Float32Array<ArrayBuffer>,
  format: Format,
  shape: readonly number[],
): StoredState {
  if (format.kind === "float")
    return {
      kind: "float",
      values:
        format.bits === 32
          ? values
          : values.map((value) => fromBfloat16(toBfloat16(value))),
    };
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0)
    throw new FileError(
      `a state has ${values[bad]} at element ${bad}, and only finite values can be quantized`,
    );
  // Another key for each state would only matter if the same values came twice.
  return encodeStored(values, format, shape, randomKey(0));
}

/** How far `actual` is from `expected`. */
function errorOf(
  expected: Float32Array,
  actual: Float32Array,
): QuantizationError {
  let squares = 0;
  let wrong = 0;
  let furthest = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const value = expected[i]!;
    const difference = Math.abs(value - actual[i]!);
    squares += value * value;
    wrong += difference * difference;
    if (difference > furthest) furthest = difference;
    if (Math.abs(value) > largest) largest = Math.abs(value);
  }
  return {
    relative: squares > 0 ? Math.sqrt(wrong / squares) : 0,
    largest: largest > 0 ? furthest / largest : 0,
  };
}

interface Part extends TensorEntry {
  readonly name: string;
  read(): Promise<TensorArray>;
}

function foreignFile(
  checkpoint: Checkpoint,
  tensors: readonly CheckpointTensor[],
  layout: Layout,
) {
  const { optimizer, step } = checkpoint;
  const counted = BigInt(step);
  const steps = tensors.map(({ name }): Part => ({
    name: `state.${name}.step`,
    dtype: layout.step,
    shape: [],
    read: async () =>
      layout.step === "I64" ? BigInt64Array.of(counted) : Float32Array.of(step),
  }));
  // What stands for one parameter follows itself, so one is enough.
  let kept: { of: CheckpointTensor; states: ReturnType<typeof readAll> };
  const parts = tensors.flatMap((tensor) => {
    const { name, shape, states } = tensor;
    const formats = Object.fromEntries(
      states.map((state) => [state.name, state.format]),
    );
    return layout
      .plan(`state.${name}.`, optimizer, shape, formats)
      .map(({ key, data, ...entry }: PlannedTensor): Part => ({
        ...entry,
        name: key,
        async read() {
          if (kept?.of !== tensor)
            kept = { of: tensor, states: readAll(tensor) };
          return data(await kept.states);
        },
      }));
  });
  const all = [...steps, ...arrange(parts)];
  const head = makeHeader(
    all.map((part) => [part.name, part] as const),
    describe(checkpoint, layout),
  );
  return {
    size: all.reduce((sum, part) => sum + entryBytes(part), head.length),
    async *chunks() {
      yield head;
      for (const part of all) {
        const bytes = bytesOf((await part.read()) as Uint8Array<ArrayBuffer>);
        if (bytes.length !== entryBytes(part))
          throw new RangeError(
            `writeState: '${part.name}' has ${bytes.length} bytes and should have ${entryBytes(part)}`,
          );
        yield bytes;
      }
    },
  };
}

async function readAll({
  states,
}: CheckpointTensor): Promise<Record<string, StoredState>> {
  const stored: Record<string, StoredState> = {};
  for (const state of states) stored[state.name] = await state.read();
  return stored;
}

/** What docs/interchange.md's code in Python reads back. */
function describe(
  { optimizer, hyper, lr, step, tensors }: Checkpoint,
  layout: Layout,
): Record<string, string> {
  const names = tensors.map(({ name }) => name);
  const group = {
    ...groupOfHyper({ ...hyper, lr: lr.value }),
    params: names.map((_, i) => i),
  };
  return {
    layout: layout.name,
    optimizer,
    step: String(step),
    names: JSON.stringify(names),
    shapes: JSON.stringify(
      Object.fromEntries(tensors.map(({ name, shape }) => [name, shape])),
    ),
    param_groups: JSON.stringify([group]),
  };
}
