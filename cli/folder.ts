import fs from "node:fs";
import path from "node:path";
import { InputError } from "lowbit/trainer";
import { cannotWrite, look, makeFolder, removeEmpty } from "./system.ts";

/**
 * The full name of a folder that outputs may go to.
 *
 * @param mayHold whether it may have something in it already
 * @throws InputError when something is in the way
 */
export function checkFolder(folder: string, mayHold: boolean): string {
  if (folder.trim() === "")
    throw new InputError("--out has no name; give a folder");
  const full = path.resolve(folder);
  const found = look(full);
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
  /** The topmost folder that we made. */
  #made: string | undefined;
  #used = false;

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

  /**
   * Makes the folder and tries whether files can be written to it, so that this
   * is known before hours of work.
   *
   * @throws InputError when they cannot
   */
  prepare(): void {
    const trial = path.join(this.path, `.${process.pid}.part`);
    try {
      this.#made = makeFolder(this.path);
      fs.writeFileSync(trial, "");
      fs.rmSync(trial);
    } catch (error) {
      this.abandon();
      throw cannotWrite(this.path, error);
    }
  }

  /** Clears an earlier run's files away, as now there is something in their place. */
  open(): void {
    this.#used = true;
    try {
      if (this.#overwrite)
        for (const name of this.#names)
          fs.rmSync(path.join(this.path, name), { force: true });
    } catch (error) {
      throw cannotWrite(this.path, error);
    }
  }

  /** When nothing came of it: as if nothing had happened. */
  abandon(): void {
    if (this.#made && !this.#used) removeEmpty(this.path, this.#made);
  }

  /** Writes a whole file; what fails leaves the one that was there. */
  write(name: string, content: string): void {
    const part = path.join(this.path, `${name}.part`);
    try {
      fs.writeFileSync(part, content, { flush: true });
      fs.renameSync(part, path.join(this.path, name));
    } catch (error) {
      fs.rmSync(part, { force: true });
      throw error;
    }
  }
}
