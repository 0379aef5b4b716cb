import { createHash } from "node:crypto";
import fs from "node:fs";

/** What is asked of a file system. Tests pass one that fails. */
export type Disk = Pick<
  typeof fs,
  | "closeSync"
  | "fsyncSync"
  | "mkdirSync"
  | "openSync"
  | "readdirSync"
  | "renameSync"
  | "rmSync"
  | "writeSync"
>;

export type Chunks = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** By which a file is known again. */
export interface Fingerprint {
  readonly bytes: number;
  readonly sha256: string;
}

/** Writes a file and waits until it is on the disk. */
export async function writeFlushed(
  disk: Disk,
  file: string,
  chunks: Chunks,
): Promise<Fingerprint> {
  const hash = createHash("sha256");
  let bytes = 0;
  const handle = disk.openSync(file, "w");
  try {
    for await (const chunk of chunks) {
      // A write may take only a part.
      for (let done = 0; done < chunk.length;)
        done += disk.writeSync(handle, chunk, done);
      hash.update(chunk);
      bytes += chunk.length;
    }
    disk.fsyncSync(handle);
  } finally {
    disk.closeSync(handle);
  }
  return { bytes, sha256: hash.digest("hex") };
}

/** What file systems answer that flush no folders, as some over a network. */
const NO_FOLDERS = ["EINVAL", "ENOTSUP", "ENOSYS"];

/** Waits until the names in a folder are on the disk: a rename is safe only then. */
export function flushFolder(
  disk: Pick<Disk, "openSync" | "fsyncSync" | "closeSync">,
  folder: string,
): void {
  if (process.platform === "win32") return; // folders cannot be opened there
  const handle = disk.openSync(folder, "r");
  try {
    disk.fsyncSync(handle);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (!NO_FOLDERS.includes(code!)) throw error;
  } finally {
    disk.closeSync(handle);
  }
}

/** Of a file in pieces, so that it is never in memory whole. */
export function fingerprint(file: string): Fingerprint {
  const hash = createHash("sha256");
  const piece = new Uint8Array(2 ** 20);
  let bytes = 0;
  const handle = fs.openSync(file, "r");
  try {
    for (;;) {
      const count = fs.readSync(handle, piece);
      if (count === 0) break;
      hash.update(piece.subarray(0, count));
      bytes += count;
    }
  } finally {
    fs.closeSync(handle);
  }
  return { bytes, sha256: hash.digest("hex") };
}

export const sha256 = (data: string | Uint8Array): string =>
  createHash("sha256").update(data).digest("hex");
