import fs from "node:fs";
import path from "node:path";
import { InputError } from "lowbit/trainer";

/**
 * The full name of a folder that outputs may go to.
 *
 * @param mayHold whether it may have something in it already
 * @throws InputError when something is in the way
 */
export function checkFolder(folder: string, mayHold: boolean): string {
  const full = path.resolve(folder);
  const found = fs.statSync(full, { throwIfNoEntry: false });
  if (found && !found.isDirectory())
    throw new InputError(`--out '${folder}' is a file; give a folder`);
  if (found && !mayHold && fs.readdirSync(full).length > 0)
    throw new InputError(
      `--out '${folder}' is not empty; give another folder, or --overwrite`,
    );
  return full;
}

/**
 * A folder for outputs. A file appears under its name when it is whole: it is
 * written under a temporary name, and renamed.
 */
export class Folder {
  readonly path: string;
  readonly #overwrite: boolean;
  readonly #names: readonly string[];

  /**
   * @param names of the files that may be written; with `overwrite` those of an
   * earlier run are replaced
   * @throws InputError when something is in the way. Nothing is written yet.
   */
  constructor(folder: string, overwrite: boolean, names: readonly string[]) {
    this.path = checkFolder(folder, overwrite);
    this.#overwrite = overwrite;
    this.#names = names;
  }

  /** Makes the folder and clears an earlier run's files away. */
  open(): void {
    try {
      fs.mkdirSync(this.path, { recursive: true });
      if (this.#overwrite)
        for (const name of this.#names)
          fs.rmSync(path.join(this.path, name), { force: true });
    } catch (error) {
      throw new InputError(
        `cannot write to '${this.path}': ${(error as Error).message}`,
        { cause: error },
      );
    }
  }

  write(name: string, content: string): void {
    const part = path.join(this.path, `${name}.part`);
    fs.writeFileSync(part, content, { flush: true });
    fs.renameSync(part, path.join(this.path, name));
  }
}
