/**
 * The safetensors file format: the length of a JSON header (8 bytes, little
 * endian), the header, the data. See
 * <https://github.com/huggingface/safetensors#format>.
 */
const arrays = {
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
  BOOL: Uint8Array,
} as const;

export type Dtype = keyof typeof arrays;
export type TensorArray = InstanceType<(typeof arrays)[Dtype]>;

export interface SafeTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** F16 and BF16 as their bits, BOOL as bytes. */
  readonly data: TensorArray;
}

export interface SafeTensors {
  readonly tensors: Readonly<Record<string, SafeTensor>>;
  readonly metadata: Readonly<Record<string, string>>;
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
  const sorted = Object.entries(tensors).sort(
    ([nameA, a], [nameB, b]) =>
      b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT ||
      (nameA < nameB ? -1 : 1),
  );
  const header = new Map<string, unknown>();
  if (Object.keys(metadata).length > 0) header.set("__metadata__", metadata);
  let end = 0;
  for (const [name, { dtype, shape, data }] of sorted) {
    if (!(data instanceof arrays[dtype]) || elements(shape) !== data.length)
      throw new RangeError(
        `writeSafetensors: '${name}' is ${dtype} of shape [${shape.join(", ")}], its data is ${data.constructor.name} of ${data.length}`,
      );
    const start = end;
    end += data.byteLength;
    header.set(name, { dtype, shape, data_offsets: [start, end] });
  }
  // fromEntries, since a tensor may have any name, `__proto__` included.
  const json = JSON.stringify(Object.fromEntries(header));
  const text = new TextEncoder().encode(json);
  const dataStart = 8 + Math.ceil(text.length / 8) * 8;
  const file = new Uint8Array(dataStart + end).fill(0x20, 8, dataStart);
  new DataView(file.buffer).setBigUint64(0, BigInt(dataStart - 8), true);
  file.set(text, 8);
  let offset = dataStart;
  for (const [, { data }] of sorted) {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    file.set(bytes, offset);
    offset += bytes.length;
  }
  return file;
}

/**
 * Reads a file; every tensor is a copy.
 *
 * @throws Error that says what is wrong with the file: cut off, no header,
 * tensors that overlap, leave gaps or do not fit their shapes.
 */
export function readSafetensors(file: Uint8Array): SafeTensors {
  const { header, dataStart } = readHeader(file);
  const { __metadata__: metadata = {}, ...entries } = header;
  if (!isRecord(metadata) || !Object.values(metadata).every(isText))
    throw fault("__metadata__ must have text values only");
  const tensors = Object.entries(entries).map(([name, entry]) => ({
    name,
    ...checkEntry(name, entry),
  }));
  let end = 0;
  for (const { name, start, stop } of tensors.sort(
    (a, b) => a.start - b.start || a.stop - b.stop,
  )) {
    if (start !== end)
      throw fault(`'${name}' begins at ${start}, and ${end} comes next`);
    end = stop;
  }
  if (dataStart + end !== file.length)
    throw fault(
      `the header tells of ${end} bytes of data, the file has ${file.length - dataStart}`,
    );
  return {
    metadata: metadata as Record<string, string>,
    tensors: Object.fromEntries(
      tensors.map(({ name, dtype, shape, start, stop }) => {
        // Not slice(), which in Node's Buffer is no copy.
        const bytes = new Uint8Array(
          file.subarray(dataStart + start, dataStart + stop),
        );
        return [name, { dtype, shape, data: new arrays[dtype](bytes.buffer) }];
      }),
    ),
  };
}

function readHeader(file: Uint8Array) {
  if (file.length < 8) throw fault(`it has only ${file.length} bytes`);
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const length = Number(view.getBigUint64(0, true));
  if (length > MAX_HEADER || 8 + length > file.length)
    throw fault(`a header of ${length} bytes in a file of ${file.length}`);
  let header: unknown;
  try {
    const text = file.subarray(8, 8 + length);
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(text));
  } catch (error) {
    throw fault("the header is not JSON", { cause: error });
  }
  if (!isRecord(header)) throw fault("the header is not a JSON object");
  return { header, dataStart: 8 + length };
}

function checkEntry(name: string, entry: unknown) {
  const { dtype, shape, data_offsets: offsets } = isRecord(entry) ? entry : {};
  if (!isText(dtype) || !Object.hasOwn(arrays, dtype))
    throw fault(`'${name}' has the unknown dtype ${JSON.stringify(dtype)}`);
  if (!isCounts(shape)) throw fault(`'${name}' has no proper shape`);
  if (!isCounts(offsets) || offsets.length !== 2)
    throw fault(`'${name}' has no proper data_offsets`);
  const [start, stop] = offsets as [number, number];
  const bytes = elements(shape) * arrays[dtype as Dtype].BYTES_PER_ELEMENT;
  if (stop - start !== bytes)
    throw fault(
      `'${name}' is ${dtype} of shape [${shape.join(", ")}], ${bytes} bytes, and has ${stop - start}`,
    );
  return { dtype: dtype as Dtype, shape, start, stop };
}

const elements = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const isText = (value: unknown) => typeof value === "string";
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) &&
  value.every((n) => Number.isSafeInteger(n) && (n as number) >= 0);

const fault = (problem: string, options?: ErrorOptions) =>
  new Error(`readSafetensors: ${problem}`, options);
