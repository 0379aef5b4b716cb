import fs from "node:fs";
import path from "node:path";
import { setImmediate } from "node:timers/promises";
import { FileError, type ByteSource } from "lowbit/io";
import { InputError } from "lowbit/trainer";
import { cannotWrite, isSystemError, look } from "./system.ts";
import { catchInterrupts } from "./train/interrupt.ts";

/** A file on disk that is read where it is asked for. */
export interface InputFile extends ByteSource {
  readonly name: string;
  close(): void;
}

/** @throws InputError when there is no such file, or it is none of ours to read. */
export function openInput(name: string): InputFile {
  let file: number | undefined;
  try {
    // Before it is opened: to open a pipe is to wait for who writes to it.
    const found = look(name);
    if (found) checkFile(name, found);
    file = fs.openSync(name, "r");
    const { size } = fs.fstatSync(file);
    checkMagic(name, readAt(file, 0, Math.min(4, size)));
    const opened = file;
    return {
      name,
      size,
      read: (start, end) => readAt(opened, start, end),
      close: () => fs.closeSync(opened),
    };
  } catch (error) {
    if (file !== undefined) fs.closeSync(file);
    if (error instanceof InputError) throw error;
    throw new InputError(`cannot read '${name}': ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function checkFile(name: string, stat: fs.Stats): void {
  if (stat.isDirectory()) {
    const inside = checkpointIn(name);
    throw new InputError(
      `'${name}' is a folder; give a safetensors file${inside ? `, such as ${inside}` : ""}`,
    );
  }
  if (!stat.isFile())
    throw new InputError(
      `'${name}' is no plain file; a checkpoint is read at any place, so save it first`,
    );
}

/** The newest state of an optimizer in a run's folder, or any file that could be meant. */
function checkpointIn(folder: string): string | undefined {
  const files = fs
    .readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".safetensors"))
    .map((file) => path.join(folder, file));
  const states = files.filter(
    (file) => path.basename(file) === "optimizer.safetensors",
  );
  const age = (file: string) => fs.statSync(file).mtimeMs;
  return (states.length > 0 ? states : files)
    .sort((a, b) => age(b) - age(a))
    .at(0);
}

/** What people take for a checkpoint: PyTorch's zip of pickles, and its older form. */
function checkMagic(name: string, start: Uint8Array): void {
  const [a, b, c, d] = start;
  const zip = a === 0x50 && b === 0x4b && c === 3 && d === 4;
  if (zip || (a === 0x80 && b !== undefined && b <= 5 && c === 0x8a))
    throw new InputError(
      `'${name}' is a file of torch.save, which only Python can read safely; save the state as safetensors, as docs/interchange.md shows`,
    );
}

function readAt(file: number, start: number, end: number): Uint8Array {
  const bytes = new Uint8Array(end - start);
  let done = 0;
  while (done < bytes.length) {
    // One call moves at most 2 GiB.
    const length = Math.min(bytes.length - done, 2 ** 30);
    const count = fs.readSync(file, bytes, done, length, start + done);
    if (count === 0) return bytes.subarray(0, done);
    done += count;
  }
  return bytes;
}

/** Errors about a file's content as what the user got wrong, with the file's name. */
export async function aboutFile<T>(
  name: string,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    const message = error.message.replace(/^\w+: /, "");
    throw new InputError(`${name}: ${message}`, { cause: error });
  }
}

/** @throws InputError when the file is there already and may not be replaced. */
export function checkOutput(name: string, overwrite: boolean): void {
  if (name === "-")
    throw new InputError("the result goes to a file; '-' is none");
  const found = look(name);
  if (found?.isDirectory())
    throw new InputError(`'${name}' is a folder; give the file to write`);
  if (found && !overwrite)
    throw new InputError(
      `'${name}' is there already; give another name, or --overwrite`,
    );
}

/**
 * Writes a file under a temporary name and renames it when it is whole: what was
 * there before stays until then.
 *
 * @param progress told the bytes written so far
 * @returns 0, or the exit code when Ctrl-C or the like came between: nothing was written
 * @throws InputError when the place takes no file, or not all of it
 */
export async function writeOutput(
  name: string,
  chunks: AsyncIterable<Uint8Array>,
  progress: (bytes: number) => void = () => {},
): Promise<number> {
  const part = `${name}.${process.pid}.part`;
  const interrupt = catchInterrupts(() => {});
  const remove = () => fs.rmSync(part, { force: true });
  process.once("exit", remove); // when Ctrl-C comes twice
  let file: number | undefined;
  try {
    file = openPart(name, part);
    let written = 0;
    for await (const chunk of chunks) {
      writeAll(file, chunk);
      progress((written += chunk.length));
      await setImmediate(); // signals wait for their turn
      if (interrupt.signal.aborted) return interrupt.code();
    }
    fs.fsyncSync(file);
    fs.closeSync(file);
    file = undefined;
    fs.renameSync(part, name);
    return 0;
  } catch (error) {
    throw isSystemError(error) ? cannotWrite(name, error) : error;
  } finally {
    if (file !== undefined) fs.closeSync(file);
    remove();
    process.off("exit", remove);
    interrupt.release();
  }
}

function openPart(name: string, part: string): number {
  try {
    return fs.openSync(part, "wx");
  } catch (error) {
    throw cannotWrite(path.dirname(path.resolve(name)), error);
  }
}

function writeAll(file: number, bytes: Uint8Array): void {
  let done = 0;
  while (done < bytes.length) {
    const length = Math.min(bytes.length - done, 2 ** 30);
    done += fs.writeSync(file, bytes, done, length);
  }
}
