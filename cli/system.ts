/** Files and folders of the machine, which may be full, locked, or not what they seem. */
import fs from "node:fs";
import path from "node:path";
import { InputError } from "lowbit/trainer";
import { flushFolder } from "./train/durable.ts";

/** Whether the system refused something, such as a disk that is full: no mistake of ours. */
export const isSystemError = (error: unknown): error is NodeJS.ErrnoException =>
  error instanceof Error && "code" in error && "syscall" in error;

/** What a name stands for; undefined for nothing. @throws InputError when that cannot be known. */
export function look(name: string): fs.Stats | undefined {
  try {
    return fs.statSync(name, { throwIfNoEntry: false });
  } catch (error) {
    throw new InputError(
      `cannot read '${name.length > 100 ? `${name.slice(0, 100)}...` : name}': ${(error as Error).message.split(", ")[0]}`,
      { cause: error },
    );
  }
}

/**
 * As `mkdir -p`. Node's own never returns where a file system knows no new
 * folders and says ENOENT, as /proc does.
 *
 * @returns the topmost folder that was made
 */
export function makeFolder(folder: string): string | undefined {
  const missing: string[] = [];
  for (let at = path.resolve(folder); !fs.existsSync(at); at = path.dirname(at))
    missing.unshift(at);
  for (const one of missing) {
    try {
      fs.mkdirSync(one);
    } catch (error) {
      // Another run may make the same `runs` at the same time.
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    // A power cut must not take a run with its folder.
    flushFolder(fs, path.dirname(one));
  }
  return missing[0];
}

/** Removes folders upwards from `folder` to `top`, as far as they are empty. */
export function removeEmpty(folder: string, top: string): void {
  for (let at = folder; ; at = path.dirname(at)) {
    if (fs.existsSync(at)) {
      if (fs.readdirSync(at).length > 0) return;
      fs.rmdirSync(at);
    }
    if (at === path.resolve(top)) return;
  }
}

/** An error of the system about a place to write to, as one sentence. */
export const cannotWrite = (place: string, error: unknown) =>
  new InputError(`cannot write to '${place}': ${(error as Error).message}`, {
    cause: error,
  });
