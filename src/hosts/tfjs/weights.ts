/**
 * States as TensorFlow.js saves them: tensors by name. It has no bytes, so codes
 * go four into an int32; such tensors are never uploaded, and so stay exact where
 * a GPU would keep integers as floats. One tensor of JSON says how everything is
 * stored.
 */
import { tensor } from "@tensorflow/tfjs-core";
import type { ReadState } from "../../core/states.ts";
import type { StoredState } from "../../engines/engine.ts";
import { float32, type Format } from "../../formats/format.ts";
import { codeBytes } from "../../formats/pack.ts";
import {
  formatData,
  formatFromData,
  sameStorage,
} from "../../io/format-data.ts";
import { decodeStored, encodeStored } from "../../io/requantize.ts";
import type { Recipe } from "../../optimizers/define.ts";
import type { NamedTensor } from "./access.ts";
import type { Batch } from "./batch.ts";
import { pairUp } from "./pairs.ts";

/** Name of the tensor that describes the others. */
const DESCRIPTION = "lowbit";
const VERSION = 1;

/** The states of one variable. */
export interface SavedTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly states: Readonly<Record<string, ReadState>>;
}

interface Description {
  readonly format: string;
  readonly version: number;
  readonly optimizer: string;
  readonly codebooks: readonly (readonly number[])[];
  readonly tensors: readonly {
    readonly name: string;
    readonly shape: readonly number[];
    readonly states: Readonly<Record<string, unknown>>;
  }[];
}

/** The states of all variables that there are, and of those that have not come yet. */
export async function writeWeights(
  { optimizer }: Recipe,
  batches: readonly Batch[],
  saved: SavedStates | undefined,
): Promise<NamedTensor[]> {
  // All are asked for before the first wait: a step in between changes nothing.
  const live = batches.flatMap(({ variables, handle }) =>
    variables
      .filter(({ isDisposed }) => !isDisposed)
      .map(async ({ name, shape }) => ({
        name,
        shape,
        states: await handle.state(name),
      })),
  );
  const all: SavedTensor[] = [
    ...(saved?.left ?? []),
    ...(await Promise.all(live)),
  ];
  const codebooks: Float32Array<ArrayBuffer>[] = [];
  const tensors = all.map(({ name, shape, states }) => ({
    name,
    shape,
    states: Object.fromEntries(
      Object.entries(states).map(([state, { format }]) => [
        state,
        formatData(format, codebooks),
      ]),
    ),
  }));
  const description: Description = {
    format: "lowbit",
    version: VERSION,
    optimizer: optimizer.name,
    codebooks: codebooks.map((values) => Array.from(values)),
    tensors,
  };
  const text = new TextEncoder().encode(JSON.stringify(description));
  return [
    // White space after JSON means nothing.
    { name: DESCRIPTION, tensor: bytesTensor(text, " ".charCodeAt(0)) },
    ...all.flatMap(({ name, shape, states }) =>
      Object.entries(states).flatMap(([state, stored]) =>
        stateTensors(`${name}/${state}`, shape, stored),
      ),
    ),
  ];
}

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

function stateTensors(
  name: string,
  shape: readonly number[],
  stored: StoredState,
): NamedTensor[] {
  if (stored.kind === "quantized")
    return [
      { name: `${name}/codes`, tensor: bytesTensor(stored.codes, 0) },
      { name: `${name}/scales`, tensor: tensor(stored.scales) },
    ];
  const { values } = stored;
  const whole = values.length === sizeOf(shape);
  return [
    { name, tensor: tensor(values, whole ? [...shape] : [values.length]) },
  ];
}

function bytesTensor(bytes: Uint8Array, fill: number) {
  const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4).fill(fill);
  padded.set(bytes);
  return tensor(new Int32Array(padded.buffer), [padded.length / 4], "int32");
}

/** The description in four bytes a number; undefined when it is none. */
function parsed({ buffer }: Int32Array): Description | undefined {
  try {
    const text = new TextDecoder().decode(new Uint8Array(buffer));
    return (JSON.parse(text) as Description | null) ?? undefined;
  } catch {
    return undefined;
  }
}

/** States that were read and wait for their variables. */
export class SavedStates {
  #left: readonly SavedTensor[];

  constructor(tensors: readonly SavedTensor[]) {
    this.#left = tensors;
  }

  get left(): readonly SavedTensor[] {
    return this.#left;
  }

  /**
   * @throws TypeError for weights of another optimizer, or a version to come,
   * or with a tensor missing.
   */
  static async read(
    { name: owner, optimizer }: Recipe,
    weights: readonly NamedTensor[],
  ): Promise<SavedStates> {
    const fail = (what: string) =>
      new TypeError(`${owner}: setWeights: ${what}`);
    const [first, ...rest] = weights;
    if (first?.name !== "iter")
      throw fail("these are no optimizer's weights: 'iter' must come first");
    // Copies: the loader disposes the tensors, and some backends give what they hold.
    const data = new Map(
      await Promise.all(
        rest.map(
          async ({ name, tensor: { shape }, tensor: given }) =>
            [name, { shape, values: (await given.data()).slice() }] as const,
        ),
      ),
    );
    const text = data.get(DESCRIPTION)?.values;
    if (!text) return new SavedStates(plainStates(owner, data));
    const described = parsed(text as Int32Array);
    if (!described)
      throw fail(`'${DESCRIPTION}' is damaged: it should hold JSON`);
    const { format, version } = described;
    if (format !== "lowbit" || version !== VERSION)
      throw fail(
        `version ${version} of the weights; this release reads ${VERSION}, so update lowbit`,
      );
    if (described.optimizer !== optimizer.name)
      throw fail(
        `the states are those of ${described.optimizer}; load them into one of its recipes`,
      );
    const codebooks = described.codebooks.map((one) => Float32Array.from(one));
    const part = <T>(name: string) => {
      const found = data.get(name)?.values as T | undefined;
      if (!found) throw fail(`'${name}' is missing`);
      return found;
    };
    const read = (
      name: string,
      how: Format,
      shape: readonly number[],
    ): ReadState => {
      if (how.kind === "float")
        return {
          kind: "float",
          values: part<Float32Array<ArrayBuffer>>(name),
          format: how,
        };
      const { buffer } = part<Int32Array<ArrayBuffer>>(`${name}/codes`);
      return {
        kind: "quantized",
        codes: new Uint8Array(buffer).slice(
          0,
          codeBytes(how.bits, sizeOf(shape)),
        ),
        scales: part<Float32Array<ArrayBuffer>>(`${name}/scales`),
        format: how,
      };
    };
    return new SavedStates(
      described.tensors.map(({ name, shape, states }) => ({
        name,
        shape,
        states: Object.fromEntries(
          Object.entries(states).map(([state, how]) => [
            state,
            read(`${name}/${state}`, formatFromData(how, codebooks), shape),
          ]),
        ),
      })),
    );
  }

  /** Variables of a new batch take over what is theirs. */
  giveTo({ variables, handle }: Batch): void {
    const pairs = pairUp(variables, this.#left);
    let requantized = 0;
    for (const [variable, saved] of pairs) {
      const formats = handle.formats(variable.name);
      checkStates(handle.recipe.name, saved, Object.keys(formats));
      const states = Object.entries(formats).map(([state, format]) => {
        const stored = saved.states[state]!;
        const same = sameStorage(stored.format, format);
        if (!same) requantized++;
        return [
          state,
          same ? stored : converted(stored, format, saved.shape),
        ] as const;
      });
      handle.setStateSync(variable.name, Object.fromEntries(states));
    }
    const taken = new Set(pairs.values());
    const missing = variables.filter((variable) => !pairs.has(variable));
    if (missing.length > 0 && this.#left.length > 0)
      console.warn(
        `${handle.recipe.name}: no saved state fits ${missing.map(({ name }) => name).join(", ")}; they begin without`,
      );
    if (requantized > 0)
      console.warn(
        `${handle.recipe.name}: ${requantized} states were saved in other formats and were requantized`,
      );
    this.#left = this.#left.filter((one) => !taken.has(one));
  }
}

/**
 * States without a description: `w/m`, `w/v`, as TensorFlow.js's own Adam has
 * them. So a run that began with it goes on here.
 */
function plainStates(
  owner: string,
  data: ReadonlyMap<
    string,
    { readonly shape: readonly number[]; readonly values: unknown }
  >,
): SavedTensor[] {
  const states = new Map<string, Record<string, ReadState>>();
  const shapes = new Map<string, readonly number[]>();
  for (const [path, { shape, values }] of data) {
    const cut = path.lastIndexOf("/");
    if (cut < 0 || !(values instanceof Float32Array))
      throw new TypeError(
        `${owner}: setWeights: '${path}' is no state of a variable`,
      );
    const name = path.slice(0, cut);
    const known = states.get(name) ?? {};
    known[path.slice(cut + 1)] = {
      kind: "float",
      values: values as Float32Array<ArrayBuffer>,
      format: float32,
    };
    states.set(name, known);
    shapes.set(name, shape);
  }
  return [...states].map(([name, known]) => ({
    name,
    shape: shapes.get(name)!,
    states: known,
  }));
}

function checkStates(
  owner: string,
  { name, states }: SavedTensor,
  wanted: readonly string[],
): void {
  const given = Object.keys(states);
  if (String([...given].sort()) !== String([...wanted].sort()))
    throw new TypeError(
      `${owner}: the saved states of '${name}' are ${given.join(", ") || "none"}, and this optimizer has ${wanted.join(", ") || "none"}`,
    );
}

const converted = (
  stored: ReadState,
  format: Format,
  shape: readonly number[],
): StoredState =>
  encodeStored(
    decodeStored(stored, stored.format, sizeOf(shape), shape),
    format,
    shape,
    0,
  );
