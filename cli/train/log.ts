import fs from "node:fs";
import { isSystemError } from "../system.ts";

/**
 * A file of lines that grows. What a full disk does not take waits for the next
 * line, so that none is lost or cut when there is room again.
 */
export class Log {
  readonly #handle: number;
  #waiting: Uint8Array = new Uint8Array();

  /** @param flag `w` for a new file, `a` to go on */
  constructor(file: string, flag: "w" | "a") {
    this.#handle = fs.openSync(file, flag);
  }

  /** Adds a line. @returns why the disk did not take it yet */
  add(line: Readonly<Record<string, unknown>>): Error | undefined {
    const bytes = Buffer.from(`${JSON.stringify(line)}\n`);
    this.#waiting = Buffer.concat([this.#waiting, bytes]);
    try {
      this.#write();
    } catch (error) {
      if (isSystemError(error)) return error;
      throw error;
    }
    return undefined;
  }

  /** Waits until all lines are on the disk. */
  flush(): void {
    this.#write();
    fs.fsyncSync(this.#handle);
  }

  /** Closes the file, with what the disk took of it. */
  close(): void {
    fs.closeSync(this.#handle);
  }

  #write(): void {
    while (this.#waiting.length > 0) {
      // A write may take only a part.
      const taken = fs.writeSync(this.#handle, this.#waiting);
      this.#waiting = this.#waiting.subarray(taken);
    }
  }
}
