/**
 * Checkpoints of a run: folders `checkpoints/step-00000120` beside its outputs,
 * each with the model, the optimizer, and `run.json` with all the rest.
 *
 * A folder is made as `step-00000120.part`. Its files are flushed, then the
 * folder; it is renamed, and the folder above flushed. Only then may an older
 * one go, under a `.part` name first. So a folder with a step's name is whole,
 * wherever a process or the power ends.
 */
import fs from "node:fs";
import path from "node:path";
import {
  InputError,
  readSafetensors,
  type ByteSource,
  type Position,
  type Saved,
  type TrainConfig,
} from "lowbit/trainer";
import {
  fingerprint,
  flushFolder,
  sha256,
  writeFlushed,
  type Chunks,
  type Disk,
  type Fingerprint,
} from "./durable.ts";
import type { Progress } from "./summary.ts";

const FOLDER = "checkpoints";
const FILES = ["model.safetensors", "optimizer.safetensors"] as const;
const KEPT = 2;
/** What a crash or a damaged checkpoint leaves. */
const LEFT = /^step-\d{8,}(\.old)?\.(part|bad)$/;

/** What `run.json` holds of a run. */
export interface RunState {
  readonly position: Position;
  readonly config: TrainConfig;
  /** Files of the text; undefined for the default text. */
  readonly data: readonly string[] | undefined;
  readonly text: Fingerprint;
  readonly progress: Progress;
  readonly samples: readonly string[];
}

/** What is saved. */
export interface Contents {
  readonly run: RunState;
  readonly model: Chunks;
  readonly optimizer: Chunks;
}

/** The checkpoints of one run. */
export class Checkpoints {
  readonly folder: string;
  readonly #disk: Disk;

  /** @param run folder of the run; it is there when the first one is saved. */
  constructor(run: string, disk: Disk = fs) {
    this.folder = path.join(run, FOLDER);
    this.#disk = disk;
  }

  /** Saves one and removes all but the last two. What fails leaves the others as they are. */
  async save({ run, model, optimizer }: Contents): Promise<void> {
    const name = folderName(run.position.step);
    const part = this.#path(`${name}.part`);
    const disk = this.#disk;
    disk.mkdirSync(this.folder, { recursive: true });
    try {
      disk.rmSync(part, { recursive: true, force: true });
      disk.mkdirSync(part);
      const files: Record<string, Fingerprint> = {};
      for (const [file, chunks] of [
        [FILES[0], model],
        [FILES[1], optimizer],
      ] as const)
        files[file] = await writeFlushed(disk, path.join(part, file), chunks);
      await writeFlushed(disk, path.join(part, "run.json"), [
        new TextEncoder().encode(describe({ ...run, files })),
      ]);
      flushFolder(disk, part);
      // One of this step that cannot be used may be there.
      this.#remove(name);
      disk.renameSync(part, this.#path(name));
      flushFolder(disk, this.folder);
      flushFolder(disk, path.dirname(this.folder));
    } catch (error) {
      this.#discard(part);
      throw error;
    }
    for (const old of this.names().slice(KEPT)) this.#remove(old);
  }

  /** Names of what is there, newest first. */
  names(): string[] {
    return this.#all()
      .filter((name) => /^step-\d{8,}$/.test(name))
      .sort()
      .reverse();
  }

  #all(): string[] {
    try {
      return this.#disk.readdirSync(this.folder);
    } catch {
      return []; // no folder yet
    }
  }

  /** Reads `run.json`. @throws InputError that says why the checkpoint cannot be used. */
  readRun(name: string): RunState {
    const { files, ...run } = parseRun(this.#read(name, "run.json"));
    for (const file of FILES) {
      const wanted = files[file];
      const found = this.#fingerprint(name, file);
      if (wanted?.bytes !== found.bytes || wanted.sha256 !== found.sha256)
        throw new InputError(
          `${file} has ${found.bytes} bytes, and other ones than were saved`,
        );
    }
    return run;
  }

  /** Opens the model and the optimizer for `Trainer.restore`. */
  open(name: string, { position }: RunState): Saved & { close(): void } {
    const file = this.#path(name, FILES[1]);
    const handle = fs.openSync(file, "r");
    const optimizer: ByteSource = {
      size: fs.fstatSync(handle).size,
      read(start, end) {
        const bytes = new Uint8Array(end - start);
        const count = fs.readSync(handle, bytes, 0, bytes.length, start);
        return bytes.subarray(0, count);
      },
    };
    return {
      position,
      model: readSafetensors(this.#read(name, FILES[0])),
      optimizer,
      close: () => fs.closeSync(handle),
    };
  }

  /** Puts the newest aside, so many, which cannot be used and must not count as kept. */
  putAside(count: number): void {
    for (const name of this.names().slice(0, count)) {
      const aside = this.#path(`${name}.bad`);
      this.#disk.rmSync(aside, { recursive: true, force: true });
      this.#disk.renameSync(this.#path(name), aside);
    }
  }

  /** Removes all of them, and what is left of some; other files stay. */
  clear(): void {
    // The newest last: what a crash leaves is a run as it was.
    for (const name of this.names().reverse()) this.#remove(name);
    for (const name of this.#all().filter((one) => LEFT.test(one)))
      this.#disk.rmSync(this.#path(name), { recursive: true, force: true });
    if (this.#all().length === 0)
      this.#disk.rmSync(this.folder, { recursive: true, force: true });
  }

  #remove(name: string): void {
    if (!this.names().includes(name)) return;
    const old = this.#path(`${name}.old.part`);
    this.#disk.rmSync(old, { recursive: true, force: true });
    this.#disk.renameSync(this.#path(name), old);
    this.#disk.rmSync(old, { recursive: true, force: true });
  }

  /** Frees what a failed save took, as the disk may be full. */
  #discard(part: string): void {
    try {
      this.#disk.rmSync(part, { recursive: true, force: true });
    } catch {
      // The first error says what is wrong.
    }
  }

  #read(name: string, file: string): Uint8Array {
    try {
      return fs.readFileSync(this.#path(name, file));
    } catch (error) {
      throw unreadable(file, error);
    }
  }

  #fingerprint(name: string, file: string): Fingerprint {
    try {
      return fingerprint(this.#path(name, file));
    } catch (error) {
      throw unreadable(file, error);
    }
  }

  #path(...names: string[]): string {
    return path.join(this.folder, ...names);
  }
}

const unreadable = (file: string, error: unknown) =>
  new InputError(`${file} cannot be read: ${(error as Error).message}`, {
    cause: error,
  });

const folderName = (step: number) => `step-${String(step).padStart(8, "0")}`;

type Described = RunState & {
  readonly files: Readonly<Record<string, Fingerprint>>;
};

/** With a checksum of its own, as a changed digit is JSON, too. */
const describe = (run: Described) =>
  `${JSON.stringify({ version: 1, sha256: sha256(JSON.stringify(run)), run }, null, 2)}\n`;

function parseRun(bytes: Uint8Array): Described {
  let parsed: { version?: unknown; sha256?: unknown; run?: unknown };
  try {
    parsed = JSON.parse(new TextDecoder().decode(bytes)) as typeof parsed;
  } catch (error) {
    throw new InputError("run.json is not JSON", { cause: error });
  }
  if (parsed?.version !== 1)
    throw new InputError(
      `run.json has version ${JSON.stringify(parsed?.version)}, and this lowbit reads 1`,
    );
  if (
    parsed.run === undefined ||
    parsed.sha256 !== sha256(JSON.stringify(parsed.run))
  )
    throw new InputError("run.json has been changed since it was saved");
  return parsed.run as Described;
}
