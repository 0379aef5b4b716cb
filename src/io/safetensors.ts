/**
 * The safetensors file format: the length of a JSON header (8 bytes, little
 * endian), the header, the data. See
 * <https://github.com/huggingface/safetensors#format>.
 */
import { FileError, ownedError } from "./fault.ts";
import { isCounts, isRecord, isText, parseJson } from "./json.ts";
import { readRange, type ByteSource } from "./source.ts";

export const arrays = {
  F64: Float64Array,
  F32: Float32Array,
  /** As bits; JavaScript has no array of them everywhere. */
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U64: BigUint64Array,
  U32: Uint32Array,
  U16: Uint16Array,
  U8: Uint8Array,
  /** As bits. */
  F8_E4M3: Uint8Array,
  F8_E5M2: Uint8Array,
  BOOL: Uint8Array,
} as const;

/** Types of numbers that are known, by their names in the format. */
export type Dtype = keyof typeof arrays;
/** The array that holds a tensor's data. */
export type TensorArray = InstanceType<(typeof arrays)[Dtype]>;

/** A tensor with its data. */
export interface SafeTensor {
  /** Type of its numbers. */
  readonly dtype: Dtype;
  /** Sizes of its axes; `[]` is one number. */
  readonly shape: readonly number[];
  /** F16 and BF16 as their bits, BOOL as bytes. */
  readonly data: TensorArray;
}

/** A whole file. */
export interface SafeTensors {
  /** By their keys. */
  readonly tensors: Readonly<Record<string, SafeTensor>>;
  /** All text. */
  readonly metadata: Readonly<Record<string, string>>;
}

/** A tensor without its data. */
export interface TensorEntry {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
}

/** Where a tensor lies: from `start` to before `end`, bytes counted from the file's beginning. */
export interface PlacedEntry extends TensorEntry {
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

/** What a file's header says. */
export interface Header {
  readonly metadata: Readonly<Record<string, string>>;
  /** In the order of the data. */
  readonly entries: readonly PlacedEntry[];
  /** Length of the header's text and the 8 bytes before it. */
  readonly dataStart: number;
}

/** What readers of the format refuse beyond. */
const MAX_HEADER = 100_000_000;

/**
 * A file with these tensors. The same tensors give the same bytes: they are
 * sorted by the size of an element, so that each is aligned, and by name.
 *
 * @throws RangeError when a shape does not fit its data.
 */
export function writeSafetensors(
  tensors: SafeTensors["tensors"],
  metadata: SafeTensors["metadata"] = {},
): Uint8Array<ArrayBuffer> {
  const chunks = [...safetensorsChunks(tensors, metadata)];
  const file = new Uint8Array(chunks.reduce((sum, one) => sum + one.length, 0));
  let offset = 0;
  for (const chunk of chunks) {
    file.set(chunk, offset);
    offset += chunk.length;
  }
  return file;
}

/** The same file piece by piece, none of which is a copy but the header. */
export function* safetensorsChunks(
  tensors: SafeTensors["tensors"],
  metadata: SafeTensors["metadata"] = {},
): Generator<Uint8Array, void, undefined> {
  const sorted = Object.entries(tensors).sort(
    ([nameA, a], [nameB, b]) =>
      b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT ||
      (nameA < nameB ? -1 : 1),
  );
  for (const [name, { dtype, shape, data }] of sorted)
    if (!(data instanceof arrays[dtype]) || elements(shape) !== data.length)
      throw new RangeError(
        `writeSafetensors: '${name}' is ${dtype} of shape [${shape.join(", ")}], its data is ${data.constructor.name} of ${data.length}`,
      );
  yield makeHeader(sorted, metadata);
  for (const [, { data }] of sorted)
    yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/**
 * All that comes before the data of these tensors, in this order. Its length is
 * a multiple of 8; a tensor is aligned when those before it take a multiple of
 * its elements' size.
 */
export function makeHeader(
  tensors: readonly (readonly [string, TensorEntry])[],
  metadata: SafeTensors["metadata"],
): Uint8Array<ArrayBuffer> {
  const header = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) header.set("__metadata__", metadata);
  let end = 0;
  for (const [name, { dtype, shape }] of tensors) {
    const start = end;
    end += entryBytes({ dtype, shape });
    header.set(name, { dtype, shape, data_offsets: [start, end] });
  }
  // fromEntries, since a tensor may have any name, `__proto__` included.
  const json = JSON.stringify(Object.fromEntries(header));
  const text = new TextEncoder().encode(json);
  const length = 8 + Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(length).fill(0x20, 8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length - 8), true);
  bytes.set(text, 8);
  return bytes;
}

/**
 * Reads a file; every tensor is a copy.
 *
 * @throws FileError that says what is wrong with the file: cut off, no header,
 * a name twice, tensors that overlap, leave gaps or do not fit their shapes.
 */
export function readSafetensors(file: Uint8Array): SafeTensors {
  try {
    const length = headerLength(file.subarray(0, 8), file.length);
    const { metadata, entries } = parseHeader(
      file.subarray(8, 8 + length),
      file.length,
    );
    return {
      metadata,
      tensors: Object.fromEntries(
        entries.map(({ name, dtype, shape, start, end }) => {
          // Not slice(), which in Node's Buffer is no copy.
          const bytes = new Uint8Array(file.subarray(start, end));
          const data = new arrays[dtype](bytes.buffer);
          return [name, { dtype, shape, data }];
        }),
      ),
    };
  } catch (error) {
    throw ownedError("readSafetensors", error);
  }
}

/** Reads and checks the header alone. @throws FileError as {@link readSafetensors}. */
export async function readHeader(source: ByteSource): Promise<Header> {
  const { size } = source;
  const first = await readRange(source, 0, Math.min(8, size));
  const length = headerLength(first, size);
  return parseHeader(await readRange(source, 8, 8 + length), size);
}

function headerLength(first: Uint8Array, fileSize: number): number {
  if (first.length < 8)
    throw new FileError(`it has only ${first.length} bytes`);
  const view = new DataView(first.buffer, first.byteOffset, 8);
  const length = Number(view.getBigUint64(0, true));
  if (length > MAX_HEADER || 8 + length > fileSize)
    throw new FileError(
      `a header of ${length} bytes in a file of ${fileSize}: it is cut off, or no safetensors file`,
    );
  return length;
}

function parseHeader(bytes: Uint8Array, fileSize: number): Header {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    throw new FileError("the header is not JSON", { cause: error });
  }
  const header = parseJson(text, "the header");
  if (!isRecord(header)) throw new FileError("the header is not a JSON object");
  const { __metadata__: metadata = {}, ...rest } = header;
  if (!isRecord(metadata) || !Object.values(metadata).every(isText))
    throw new FileError("__metadata__ must have text values only");
  const dataStart = 8 + bytes.length;
  const entries = Object.entries(rest)
    .map(([name, entry]) => checkEntry(name, entry, dataStart))
    .sort((a, b) => a.start - b.start || a.end - b.end);
  let end = dataStart;
  for (const entry of entries) {
    if (entry.start !== end)
      throw new FileError(
        `'${entry.name}' begins at ${entry.start - dataStart}, and ${end - dataStart} comes next`,
      );
    end = entry.end;
  }
  if (end !== fileSize)
    throw new FileError(
      `the header tells of ${end - dataStart} bytes of data, the file has ${fileSize - dataStart}`,
    );
  return { metadata: metadata as Record<string, string>, entries, dataStart };
}

function checkEntry(
  name: string,
  entry: unknown,
  dataStart: number,
): PlacedEntry {
  const { dtype, shape, data_offsets: offsets } = isRecord(entry) ? entry : {};
  if (!isText(dtype) || !Object.hasOwn(arrays, dtype))
    throw new FileError(
      `'${name}' has the unknown dtype ${JSON.stringify(dtype)}`,
    );
  if (!isCounts(shape)) throw new FileError(`'${name}' has no proper shape`);
  if (!isCounts(offsets) || offsets.length !== 2)
    throw new FileError(`'${name}' has no proper data_offsets`);
  const [start, end] = offsets as [number, number];
  const bytes = entryBytes({ dtype: dtype as Dtype, shape });
  if (end - start !== bytes)
    throw new FileError(
      `'${name}' is ${dtype} of shape [${shape.join(", ")}], ${bytes} bytes, and has ${end - start}`,
    );
  return {
    name,
    dtype: dtype as Dtype,
    shape,
    start: dataStart + start,
    end: dataStart + end,
  };
}

export const entryBytes = ({ dtype, shape }: TensorEntry): number =>
  elements(shape) * arrays[dtype].BYTES_PER_ELEMENT;

const elements = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
