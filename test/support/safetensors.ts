/** Reads safetensors files, for recordings. */

export interface RecordedTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface Recorded {
  /** `__metadata__` of the file. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, RecordedTensor>;
}

interface Header {
  readonly [name: string]: {
    readonly dtype: string;
    readonly shape: readonly number[];
    readonly data_offsets: readonly [number, number];
  };
}

export function readSafetensors(file: Uint8Array): Recorded {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const headerLength = Number(view.getBigUint64(0, true));
  const text = new TextDecoder().decode(file.subarray(8, 8 + headerLength));
  const { __metadata__: metadata = {}, ...entries } = JSON.parse(
    text,
  ) as Header & { __metadata__?: Record<string, string> };
  const data = file.subarray(8 + headerLength);
  return {
    metadata: metadata as Record<string, string>,
    tensors: new Map(
      Object.entries(entries as Header).map(
        ([name, { dtype, shape, data_offsets }]) => [
          name,
          // slice() copies, so that the bytes start at an aligned offset.
          { dtype, shape, bytes: data.slice(...data_offsets) },
        ],
      ),
    ),
  };
}
