import fs from "node:fs";
import path from "node:path";
import { InputError } from "lowbit/trainer";

const names = [
  "config.json",
  "log.jsonl",
  "samples.txt",
  "summary.json",
  "model.safetensors",
] as const;

export type OutputName = (typeof names)[number];

/**
 * The folder of a run. A file appears under its name when it is whole: it is
 * written under a temporary name, and renamed. The log grows as `log.jsonl.part`
 * until the run ends.
 */
export class Outputs {
  readonly folder: string;
  readonly #overwrite: boolean;
  /** The topmost folder that we made, to be removed when nothing came of it. */
  #made: string | undefined;
  #log: number | undefined;

  /** @throws InputError when something is in the way. Nothing is written yet. */
  constructor(folder: string, overwrite: boolean) {
    this.folder = path.resolve(folder);
    this.#overwrite = overwrite;
    const found = fs.statSync(this.folder, { throwIfNoEntry: false });
    if (found && !found.isDirectory())
      throw new InputError(`--out '${folder}' is a file; give a folder`);
    if (found && !overwrite && fs.readdirSync(this.folder).length > 0)
      throw new InputError(
        `--out '${folder}' is not empty; give another folder, or --overwrite`,
      );
  }

  /** Makes the folder and clears an earlier run's outputs away. */
  open(): void {
    try {
      this.#made = fs.mkdirSync(this.folder, { recursive: true });
      if (this.#overwrite)
        for (const name of names) fs.rmSync(this.#path(name), { force: true });
      this.#log = fs.openSync(this.#part("log.jsonl"), "w");
    } catch (error) {
      throw new InputError(
        `cannot write to '${this.folder}': ${(error as Error).message}`,
        { cause: error },
      );
    }
  }

  /** Writes a whole file. */
  write(name: OutputName, content: string | Uint8Array): void {
    fs.writeFileSync(this.#part(name), content, { flush: true });
    fs.renameSync(this.#part(name), this.#path(name));
  }

  /** Adds a line to the log. */
  log(line: Readonly<Record<string, unknown>>): void {
    if (this.#log !== undefined)
      fs.writeSync(this.#log, `${JSON.stringify(line)}\n`);
  }

  closeLog(): void {
    if (this.#log === undefined) return;
    fs.closeSync(this.#log);
    this.#log = undefined;
    fs.renameSync(this.#part("log.jsonl"), this.#path("log.jsonl"));
  }

  /** After a failure before the first result: as if nothing had happened. */
  discard(): void {
    if (this.#log === undefined) return;
    fs.closeSync(this.#log);
    this.#log = undefined;
    for (const name of names) {
      fs.rmSync(this.#part(name), { force: true });
      fs.rmSync(this.#path(name), { force: true });
    }
    if (this.#made) removeEmpty(this.folder, this.#made);
  }

  #path(name: OutputName): string {
    return path.join(this.folder, name);
  }

  #part(name: OutputName): string {
    return path.join(this.folder, `${name}.part`);
  }
}

/** Removes folders upwards from `folder` to `top`, as far as they are empty. */
function removeEmpty(folder: string, top: string): void {
  for (let at = folder; ; at = path.dirname(at)) {
    if (fs.readdirSync(at).length > 0) return;
    fs.rmdirSync(at);
    if (at === path.resolve(top)) return;
  }
}

/** runs/2026-01-31T12-00-00-adamw8bit; colons are no file names on Windows. */
export function defaultFolder(optimizer: string, now = new Date()): string {
  const time = now.toISOString().slice(0, 19).replaceAll(":", "-");
  const name = path.join("runs", `${time}-${optimizer.replace(/[^\w-]/g, "")}`);
  for (let i = 1; ; i++) {
    const folder = i === 1 ? name : `${name}-${i}`;
    if (!fs.existsSync(folder)) return folder;
  }
}
