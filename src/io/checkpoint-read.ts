/** Reads a checkpoint's file and trusts nothing in it. */
import type { StoredState } from "../engines/engine.ts";
import { fromBfloat16 } from "../formats/bfloat16.ts";
import type { Format, QuantizedFormat } from "../formats/format.ts";
import { lastByteMask, storedBits, unpackCodes } from "../formats/pack.ts";
import { smallestScale } from "../formats/quantize.ts";
import type { StateKind } from "../formula/program.ts";
import {
  tensorName,
  valuesOf,
  VERSION,
  type Checkpoint,
  type CheckpointState,
  type CheckpointTensor,
} from "./checkpoint.ts";
import { crc32 } from "./crc32.ts";
import { FileError } from "./fault.ts";
import { formatFromData, storedParts } from "./format-data.ts";
import {
  isCount,
  isCounts,
  isNumber,
  isRecord,
  isText,
  parseJson,
} from "./json.ts";
import {
  readHeader,
  type PlacedEntry,
  type TensorEntry,
} from "./safetensors.ts";
import { readRange, type ByteSource } from "./source.ts";

/** A checkpoint from a file, with the version that the file has. */
export type OpenCheckpoint = Checkpoint & { readonly version: number };

const kinds = ["signed", "unsigned", "row", "column", "one"];

/**
 * Reads a checkpoint: everything but the states, which are read and checked when
 * asked for.
 *
 * @throws FileError that says what is wrong with the file.
 */
export async function openCheckpoint(
  source: ByteSource,
): Promise<OpenCheckpoint> {
  const { metadata, entries, dataStart } = await readHeader(source);
  const version = checkVersion(metadata);
  checkMetadata(metadata);
  const tensors = await Tensors.open(source, entries, dataStart);
  const codebooks = await tensors.codebooks();
  const read = fields(metadata);
  const formats = read("formats", Array.isArray).map((data) =>
    formatFromData(data, codebooks),
  );
  const updates = read("updates", isTexts);
  const accumulation = read("accumulation", isAccumulation);
  const listed = Object.entries(read("tensors", isRecord)).map(([name, data]) =>
    readTensor(name, data, {
      formats,
      updates,
      tensors,
      summed: accumulation.taken > 0,
    }),
  );
  tensors.checkAllUsed();
  return {
    version,
    optimizer: need(metadata.optimizer, isText, "optimizer"),
    recipe: need(metadata.recipe, isText, "recipe"),
    step: read("step", isCount),
    hyper: read("hyper", isNumbers),
    lr: read("lr", isRate),
    lastRate:
      metadata.lastRate === undefined ? undefined : read("lastRate", isNumber),
    seed: read("seed", isCount),
    norms: read("norms", isNorms),
    accumulation,
    tensors: listed,
  };
}

function checkVersion({ format, version }: Readonly<Record<string, string>>) {
  if (format !== "lowbit")
    throw new FileError(
      `no checkpoint of lowbit: its metadata say format ${JSON.stringify(format)}`,
    );
  const number = Number(version);
  if (!Number.isInteger(number) || number < 1)
    throw new FileError(
      `the version of the file is ${JSON.stringify(version)}`,
    );
  if (number > VERSION)
    throw new FileError(
      `the file has version ${number} and this library reads up to ${VERSION}; update lowbit`,
    );
  return number;
}

const metadataKeys = [
  "format",
  "version",
  "optimizer",
  "recipe",
  "step",
  "hyper",
  "lr",
  "lastRate",
  "seed",
  "norms",
  "accumulation",
  "updates",
  "formats",
  "tensors",
];

function checkMetadata(metadata: Readonly<Record<string, string>>): void {
  for (const key of Object.keys(metadata))
    if (!metadataKeys.includes(key))
      throw new FileError(`its metadata have the unknown key '${key}'`);
}

/** The tensors of a file, each checked against its checksum when it is read. */
class Tensors {
  readonly #source: ByteSource;
  readonly #entries: ReadonlyMap<string, PlacedEntry>;
  readonly #checksums: ReadonlyMap<string, number>;
  readonly #used = new Set<string>([tensorName.checksums]);

  private constructor(
    source: ByteSource,
    entries: readonly PlacedEntry[],
    checksums: ReadonlyMap<string, number>,
  ) {
    this.#source = source;
    this.#entries = new Map(entries.map((entry) => [entry.name, entry]));
    this.#checksums = checksums;
  }

  static async open(
    source: ByteSource,
    entries: readonly PlacedEntry[],
    dataStart: number,
  ): Promise<Tensors> {
    const last = entries.at(-1);
    if (
      last?.name !== tensorName.checksums ||
      last.dtype !== "U8" ||
      last.end - last.start !== 4 * entries.length
    )
      throw new FileError("it does not end with its checksums");
    const bytes = await readRange(source, last.start, last.end);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const head = crc32(await readRange(source, 0, dataStart));
    if (head !== view.getUint32(0, true))
      throw new FileError(
        "the header has been changed: it does not match its checksum",
      );
    return new Tensors(
      source,
      entries,
      new Map(
        entries.map(({ name }, i) => [
          name,
          i + 1 < entries.length ? view.getUint32(4 * (i + 1), true) : 0,
        ]),
      ),
    );
  }

  /** Finds a tensor, which must be what is expected. */
  find(name: string, { dtype, shape }: TensorEntry): PlacedEntry {
    const entry = this.#entries.get(name);
    if (!entry) throw new FileError(`'${name}' is missing`);
    if (entry.dtype !== dtype || String(entry.shape) !== String(shape))
      throw new FileError(
        `'${name}' must be ${dtype} of shape [${shape.join(", ")}], and is ${entry.dtype} of shape [${entry.shape.join(", ")}]`,
      );
    this.#used.add(name);
    return entry;
  }

  /** A copy of the bytes. */
  async read({ name, start, end }: PlacedEntry): Promise<ArrayBuffer> {
    const bytes = await readRange(this.#source, start, end);
    if (crc32(bytes) !== this.#checksums.get(name))
      throw new FileError(
        `'${name}' has been changed: it does not match its checksum`,
      );
    // Not slice(), which in Node's Buffer is no copy.
    return new Uint8Array(bytes).buffer;
  }

  async codebooks(): Promise<Float32Array<ArrayBuffer>[]> {
    const found: Float32Array<ArrayBuffer>[] = [];
    for (;;) {
      const name = tensorName.codebook(found.length);
      const entry = this.#entries.get(name);
      if (!entry) return found;
      const { shape } = entry;
      if (!(shape.length === 1 && shape[0]! <= 256))
        throw new FileError(`'${name}' has the shape [${shape.join(", ")}]`);
      this.find(name, { dtype: "F32", shape });
      found.push(new Float32Array(await this.read(entry)));
    }
  }

  checkAllUsed(): void {
    for (const name of this.#entries.keys())
      if (!this.#used.has(name))
        throw new FileError(`'${name}' belongs to nothing in it`);
  }
}

function readTensor(
  name: string,
  data: unknown,
  file: {
    readonly formats: readonly Format[];
    readonly updates: readonly string[];
    readonly tensors: Tensors;
    readonly summed: boolean;
  },
): CheckpointTensor {
  const owner = `the description of '${name}'`;
  if (!isRecord(data)) throw new FileError(`${owner} is not a JSON object`);
  const { shape, update, hyper = {}, lr, states, ...rest } = data;
  const [extra] = Object.keys(rest);
  if (extra !== undefined)
    throw new FileError(`${owner} has the unknown key '${extra}'`);
  const size = need(shape, isCounts, `the shape of '${name}'`);
  const entry = file.summed
    ? file.tensors.find(tensorName.sum(name), { dtype: "F32", shape: size })
    : undefined;
  return {
    name,
    shape: size,
    hyper: need(hyper, isNumbers, `hyper of '${name}'`),
    lr: lr === undefined ? undefined : need(lr, isNumber, `lr of '${name}'`),
    update: need(at(file.updates, update), isText, `update of '${name}'`),
    states: Object.entries(
      need(states, isRecord, `the states of '${name}'`),
    ).map(([state, described]) =>
      readState(name, size, state, described, file),
    ),
    sum:
      entry && (async () => new Float32Array(await file.tensors.read(entry))),
  };
}

function readState(
  parameter: string,
  shape: readonly number[],
  name: string,
  data: unknown,
  file: { readonly formats: readonly Format[]; readonly tensors: Tensors },
): CheckpointState {
  const owner = `${parameter}/${name}`;
  const { kind, format: place } = isRecord(data) ? data : {};
  const format = at(file.formats, place);
  if (!kinds.includes(kind as string) || !format)
    throw new FileError(
      `'${owner}' has the kind ${JSON.stringify(kind)} and the format ${JSON.stringify(place)}, of which one is unknown`,
    );
  if (/[^\w]/.test(name))
    throw new FileError(`'${owner}': a state's name is letters and digits`);
  const length = valuesOf(kind as StateKind, shape);
  const parts = storedParts(format, length, shape).map(
    ({ suffix, ...entry }) => ({
      suffix,
      entry: file.tensors.find(
        tensorName.state(parameter, name, suffix),
        entry,
      ),
    }),
  );
  const bytes = (suffix: string) =>
    file.tensors.read(parts.find((part) => part.suffix === suffix)!.entry);
  return {
    name,
    kind: kind as StateKind,
    format,
    async read(): Promise<StoredState> {
      if (format.kind === "float") {
        const buffer = await bytes("");
        return {
          kind: "float",
          values:
            format.bits === 16
              ? Float32Array.from(new Uint16Array(buffer), fromBfloat16)
              : new Float32Array(buffer),
        };
      }
      const scales = new Float32Array(await bytes(".scales"));
      const codes = new Uint8Array(await bytes(".codes"));
      checkScales(owner, scales);
      checkCodes(owner, format, codes, length);
      return { kind: "quantized", codes, scales };
    },
  };
}

/** What no optimizer stores would decode differently from engine to engine. */
function checkScales(owner: string, scales: Float32Array): void {
  for (const scale of scales)
    if (scale < smallestScale && !Object.is(scale, 0))
      throw new FileError(
        `'${owner}' has a scale of ${scale}; scales are 0 or ${smallestScale} and more`,
      );
}

/** Engines look codes up without asking. */
function checkCodes(
  owner: string,
  { bits, values }: QuantizedFormat,
  codes: Uint8Array,
  length: number,
): void {
  if (codes.length > 0 && codes.at(-1)! & ~lastByteMask(bits, length))
    throw new FileError(`'${owner}' has bits set behind its last code`);
  if (values.length === 2 ** storedBits(bits)) return;
  const all = unpackCodes(codes, bits, length);
  const bad = all.findIndex((code) => code >= values.length);
  if (bad >= 0)
    throw new FileError(
      `'${owner}' has the code ${all[bad]} at ${bad}, and its codebook ${values.length} values`,
    );
}

/** A list's entry, where the index is one; "length" is none. */
const at = <T>(list: readonly T[], index: unknown): T | undefined =>
  isCount(index) ? list[index] : undefined;

/** Reads a metadata field of JSON that has to pass a check. */
function fields(metadata: Readonly<Record<string, string>>) {
  return <T>(key: string, check: (value: unknown) => value is T): T => {
    const text = Object.hasOwn(metadata, key) ? metadata[key] : undefined;
    if (text === undefined)
      throw new FileError(`its metadata have no '${key}'`);
    return need(parseJson(text, `'${key}' in its metadata`), check, key);
  };
}

function need<T>(
  value: unknown,
  check: (value: unknown) => value is T,
  what: string,
): T {
  if (check(value)) return value;
  const given = JSON.stringify(value) ?? "nothing";
  throw new FileError(
    `${what} cannot be ${given.length > 100 ? `${given.slice(0, 100)}...` : given}`,
  );
}

const isTexts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.every(isText);
const isNumbers = (value: unknown): value is Record<string, number> =>
  isRecord(value) && Object.values(value).every(isNumber);
const isNorms = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((norm) => isNumber(norm) && norm >= 0);
const isRate = (value: unknown): value is Checkpoint["lr"] =>
  isRecord(value) &&
  isNumber(value.value) &&
  value.value >= 0 &&
  typeof value.scheduled === "boolean";
const isAccumulation = (value: unknown): value is Checkpoint["accumulation"] =>
  isRecord(value) &&
  isCount(value.every) &&
  isCount(value.taken) &&
  value.taken < value.every;
