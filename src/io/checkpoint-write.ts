import type { StoredState } from "../engines/engine.ts";
import {
  tensorName,
  valuesOf,
  VERSION,
  type Checkpoint,
  type CheckpointState,
} from "./checkpoint.ts";
import { crc32 } from "./crc32.ts";
import { formatData, storedParts } from "./format-data.ts";
import {
  arrays,
  entryBytes,
  makeHeader,
  type TensorEntry,
} from "./safetensors.ts";

/** A tensor of the file and where its bytes come from. */
interface Part extends TensorEntry {
  readonly name: string;
  read(): Promise<Uint8Array<ArrayBuffer>>;
}

export interface CheckpointFile {
  /** In bytes. */
  readonly size: number;
  /** The file piece by piece; of the states, one is in memory at a time. */
  chunks(): AsyncGenerator<Uint8Array<ArrayBuffer>, void, undefined>;
}

/** A checkpoint as a file. The same checkpoint gives the same bytes. */
export function checkpointFile(checkpoint: Checkpoint): CheckpointFile {
  const codebooks: Float32Array<ArrayBuffer>[] = [];
  const metadata = describe(checkpoint, codebooks);
  const parts = arrange([
    ...codebooks.map((values, i): Part => ({
      name: tensorName.codebook(i),
      dtype: "F32",
      shape: [values.length],
      read: async () => bytesOf(values),
    })),
    ...checkpoint.tensors.flatMap(({ name, shape, states, sum }): Part[] => [
      ...states.flatMap((state) => stateParts(name, shape, state)),
      ...(sum
        ? [
            {
              name: tensorName.sum(name),
              dtype: "F32" as const,
              shape,
              read: async () => bytesOf(await sum()),
            },
          ]
        : []),
    ]),
  ]);
  // Last, so that they are known when they are written. Bytes, which lie anywhere.
  const checksums: TensorEntry = { dtype: "U8", shape: [parts.length + 1, 4] };
  const head = makeHeader(
    [
      ...parts.map((part) => [part.name, part] as const),
      [tensorName.checksums, checksums],
    ],
    metadata,
  );
  return {
    size: parts.reduce(
      (sum, part) => sum + entryBytes(part),
      head.length + entryBytes(checksums),
    ),
    async *chunks() {
      const sums = new DataView(new ArrayBuffer(entryBytes(checksums)));
      sums.setUint32(0, crc32(head), true);
      yield head;
      for (const [i, part] of parts.entries()) {
        const bytes = await part.read();
        if (bytes.length !== entryBytes(part))
          throw new RangeError(
            `save: '${part.name}' has ${bytes.length} bytes and should have ${entryBytes(part)}`,
          );
        sums.setUint32(4 * (i + 1), crc32(bytes), true);
        yield bytes;
      }
      yield new Uint8Array(sums.buffer);
    },
  };
}

/** Everything but the tensors, as safetensors' texts. */
function describe(
  checkpoint: Checkpoint,
  codebooks: Float32Array<ArrayBuffer>[],
): Record<string, string> {
  const formats = new Map<string, number>();
  const updates = new Map<string, number>();
  const place = (list: Map<string, number>, item: string) => {
    if (!list.has(item)) list.set(item, list.size);
    return list.get(item)!;
  };
  const tensors = checkpoint.tensors.map(
    ({ name, shape, hyper, lr, update, states }) => [
      name,
      {
        shape,
        update: place(updates, update),
        ...(Object.keys(hyper).length > 0 ? { hyper } : {}),
        ...(lr === undefined ? {} : { lr }),
        states: Object.fromEntries(
          states.map(({ name: state, kind, format }) => [
            state,
            {
              kind,
              format: place(
                formats,
                JSON.stringify(formatData(format, codebooks)),
              ),
            },
          ]),
        ),
      },
    ],
  );
  const { optimizer, recipe, hyper, lr, lastRate, step, seed } = checkpoint;
  const { norms, accumulation } = checkpoint;
  const json = {
    hyper,
    lr,
    ...(lastRate === undefined ? {} : { lastRate }),
    seed,
    norms,
    accumulation,
    updates: [...updates.keys()],
    formats: [...formats.keys()].map((text) => JSON.parse(text) as unknown),
    tensors: Object.fromEntries(tensors),
  };
  return {
    format: "lowbit",
    version: String(VERSION),
    optimizer,
    recipe,
    step: String(step),
    ...Object.fromEntries(
      Object.entries(json).map(([key, value]) => [key, JSON.stringify(value)]),
    ),
  };
}

/** The tensors of a state. It is read for each, which only odd sizes put apart. */
function stateParts(
  parameter: string,
  shape: readonly number[],
  state: CheckpointState,
): Part[] {
  const { format, kind } = state;
  let kept: Promise<StoredState> | undefined;
  const parts = storedParts(format, valuesOf(kind, shape), shape);
  return parts.map(({ suffix, ...entry }, i) => ({
    ...entry,
    name: tensorName.state(parameter, state.name, suffix),
    async read() {
      // From the first part to the last, unless others come between.
      const stored = await (kept ?? state.read());
      const near = i + 1 < parts.length && !isRagged(parts[i + 1]!);
      kept = near ? Promise.resolve(stored) : undefined;
      if (stored.kind === "quantized")
        return bytesOf(suffix === ".codes" ? stored.codes : stored.scales);
      return entry.dtype === "BF16"
        ? bytesOf(upperHalves(stored.values))
        : bytesOf(stored.values);
    },
  }));
}

/** Whether what follows it would not begin at a multiple of 4 bytes. */
const isRagged = (part: TensorEntry) => entryBytes(part) % 4 !== 0;

/**
 * In the order given, but those of odd sizes last and the largest elements of
 * them first: so everything is aligned, as readers in other languages want it.
 */
export function arrange<T extends TensorEntry>(parts: readonly T[]): T[] {
  const width = ({ dtype }: T) => arrays[dtype].BYTES_PER_ELEMENT;
  return [
    ...parts.filter((part) => !isRagged(part)),
    ...parts.filter(isRagged).sort((a, b) => width(b) - width(a)),
  ];
}

/** Of bfloat16 values in float32: the bits that are theirs. */
const upperHalves = (values: Float32Array<ArrayBuffer>) =>
  Uint16Array.from(
    new Uint32Array(values.buffer, values.byteOffset, values.length),
    (bits) => bits >>> 16,
  );

export const bytesOf = (array: {
  readonly buffer: ArrayBuffer;
  readonly byteOffset: number;
  readonly byteLength: number;
}) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
