import { FileError } from "./fault.ts";

/** A file that can be read from any place, so that it need not be in memory whole. */
export interface ByteSource {
  /** In bytes. */
  readonly size: number;
  /** The bytes from `start` to before `end`. */
  read(start: number, end: number): Promise<Uint8Array> | Uint8Array;
}

/** What a file may be read from: bytes, a Blob (or File), or a {@link ByteSource}. */
export type FileData = Uint8Array | ArrayBuffer | Blob | ByteSource;

/** @throws TypeError for anything else. */
export function toSource(file: FileData): ByteSource {
  if (file instanceof Uint8Array) return fromBytes(file);
  if (file instanceof ArrayBuffer) return fromBytes(new Uint8Array(file));
  if (typeof Blob !== "undefined" && file instanceof Blob)
    return {
      size: file.size,
      read: async (start, end) =>
        new Uint8Array(await file.slice(start, end).arrayBuffer()),
    };
  if (
    typeof file === "object" &&
    file !== null &&
    "size" in file &&
    Number.isSafeInteger(file.size) &&
    "read" in file &&
    typeof file.read === "function"
  )
    return file as ByteSource;
  throw new TypeError(
    `a file must be a Uint8Array, an ArrayBuffer, a Blob or { size, read(start, end) }, given ${Object.prototype.toString.call(file).slice(8, -1)}`,
  );
}

const fromBytes = (bytes: Uint8Array): ByteSource => ({
  size: bytes.length,
  read: (start, end) => bytes.subarray(start, end),
});

/** Reads a range that must be there. @throws FileError when it comes short. */
export async function readRange(
  source: ByteSource,
  start: number,
  end: number,
): Promise<Uint8Array> {
  const bytes = await source.read(start, end);
  if (!(bytes instanceof Uint8Array) || bytes.length !== end - start)
    throw new FileError(
      `reading bytes ${start} to ${end} of ${source.size} gave ${bytes instanceof Uint8Array ? `${bytes.length} bytes` : typeof bytes}`,
    );
  return bytes;
}
