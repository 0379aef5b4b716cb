import fs from "node:fs";
import path from "node:path";
import { checkFolder } from "../folder.ts";
import { cannotWrite, makeFolder, removeEmpty } from "../system.ts";
import { Checkpoints } from "./checkpoints.ts";
import { flushFolder, writeFlushed, type Chunks } from "./durable.ts";
import { Log } from "./log.ts";

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
  readonly #use: "fresh" | "overwrite" | "resume";
  /** The topmost folder that we made, to be removed when nothing came of it. */
  #made: string | undefined;
  #log: Log | undefined;

  /**
   * @param use what to do with a folder that has something in it: to refuse it,
   * to replace an earlier run's outputs, or to go on with them
   * @throws InputError when something is in the way. Nothing is written yet.
   */
  constructor(folder: string, use: "fresh" | "overwrite" | "resume") {
    this.folder = checkFolder(folder, use !== "fresh");
    this.#use = use;
  }

  /**
   * Makes the folder and clears an earlier run's outputs away.
   *
   * @param keep of the log of a run that goes on, which lines stay
   */
  open(keep: (line: Readonly<Record<string, number>>) => boolean): void {
    try {
      this.#made = makeFolder(this.folder);
      if (this.#use === "overwrite") {
        new Checkpoints(this.folder).clear();
        for (const name of names) fs.rmSync(this.#path(name), { force: true });
      }
      if (this.#use === "resume") this.#restoreLog(keep);
      const mode = this.#use === "resume" ? "a" : "w";
      this.#log = new Log(this.#part("log.jsonl"), mode);
    } catch (error) {
      throw cannotWrite(this.folder, error);
    }
  }

  /** A crash may have cut the log's last line off, or left lines of steps that were not saved. */
  #restoreLog(keep: Parameters<Outputs["open"]>[0]): void {
    const part = this.#part("log.jsonl");
    const file = fs.existsSync(part) ? part : this.#path("log.jsonl");
    const text = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "";
    const kept = text.split("\n").filter((line) => {
      try {
        return keep(JSON.parse(line) as Record<string, number>);
      } catch {
        return false;
      }
    });
    const lines = kept.map((line) => `${line}\n`).join("");
    fs.writeFileSync(`${part}.part`, lines, { flush: true });
    fs.renameSync(`${part}.part`, part);
    // What they say is no longer so.
    fs.rmSync(this.#path("summary.json"), { force: true });
    fs.rmSync(this.#path("log.jsonl"), { force: true });
  }

  /** Writes a whole file; what fails leaves the one that was there. */
  async write(name: OutputName, content: string | Chunks): Promise<void> {
    const chunks =
      typeof content === "string"
        ? [new TextEncoder().encode(content)]
        : content;
    try {
      await writeFlushed(fs, this.#part(name), chunks);
      fs.renameSync(this.#part(name), this.#path(name));
    } catch (error) {
      fs.rmSync(this.#part(name), { force: true });
      throw error;
    }
    flushFolder(fs, this.folder);
  }

  /** Adds a line to the log. @returns why the disk did not take it yet; it waits */
  log(line: Readonly<Record<string, unknown>>): Error | undefined {
    return this.#log?.add(line);
  }

  /** Waits until the log is on the disk. */
  flushLog(): void {
    this.#log?.flush();
  }

  /** The log under its name, when all of it is on the disk. */
  closeLog(): void {
    this.flushLog();
    this.#log?.close();
    this.#log = undefined;
    fs.renameSync(this.#part("log.jsonl"), this.#path("log.jsonl"));
  }

  /** After a failure before the first result: as if nothing had happened. */
  discard(): void {
    if (this.#log === undefined) return;
    this.#log.close();
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

/** runs/2026-01-31T12-00-00-adamw8bit; colons are no file names on Windows. */
export function defaultFolder(optimizer: string, now = new Date()): string {
  const time = now.toISOString().slice(0, 19).replaceAll(":", "-");
  const name = path.join("runs", `${time}-${optimizer.replace(/[^\w-]/g, "")}`);
  for (let i = 1; ; i++) {
    const folder = i === 1 ? name : `${name}-${i}`;
    if (!fs.existsSync(folder)) return folder;
  }
}
