import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { InputError } from "lowbit/trainer";
import { look } from "../system.ts";

/** What a run trains on. */
export interface Text {
  readonly bytes: Uint8Array;
  readonly files: number;
  /** For people: `book.txt`, `12 files in src`. */
  readonly description: string;
}

/** What one array and one checksum of Node take. */
const MAX_BYTES = 2 ** 31 - 1;

/**
 * Reads the text: files one after another, those of a folder or a glob in the
 * order of their names, so that the same files are the same text everywhere.
 *
 * @param data files, folders, globs or `-`; undefined takes TypeScript's
 * declaration files
 * @throws InputError when there is nothing to read
 */
export function readText(data: readonly string[] | undefined): Text {
  const files = data ? data.flatMap(findFiles) : typescriptFiles();
  const size = files.reduce((sum, file) => sum + sizeOf(file), 0);
  if (size > MAX_BYTES)
    throw new InputError(
      `the text has ${(size / 2 ** 30).toFixed(1)} GiB, and 2 GiB is the most`,
    );
  const pieces: Buffer[] = [];
  let room = MAX_BYTES;
  for (const file of files)
    for (const piece of readPieces(file, room)) {
      pieces.push(piece);
      room -= piece.length;
    }
  const bytes = Buffer.concat(pieces);
  const description = data
    ? `${data.map((name) => (name === "-" ? "standard input" : name)).join(" ")}`
    : "TypeScript's declaration files";
  if (bytes.length === 0)
    throw new InputError(`the text is empty: ${description} has 0 bytes`);
  return { bytes, files: files.length, description };
}

/** 0 for what has no size before its end: standard input, pipes, devices. */
const sizeOf = (file: string) => (file === "-" ? 0 : (look(file)?.size ?? 0));

/** A file's bytes, at most `room` of them: a pipe or a device may have no end. */
export function* readPieces(file: string, room: number): Generator<Buffer> {
  const name = file === "-" ? "standard input" : `'${file}'`;
  let handle = 0; // standard input
  try {
    if (file !== "-") handle = fs.openSync(file, "r");
    const piece = Buffer.allocUnsafe(2 ** 20);
    for (let left = room; ;) {
      const count = readSome(handle, piece);
      if (count === 0) return;
      if (count > left)
        throw new InputError(
          `${name} goes on for more than 2 GiB, which is the most`,
        );
      left -= count;
      yield Buffer.from(piece.subarray(0, count)); // a pipe gives little at a time
    }
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(`cannot read ${name}: ${(error as Error).message}`, {
      cause: error,
    });
  } finally {
    if (handle !== 0) fs.closeSync(handle);
  }
}

function readSome(handle: number, piece: Buffer): number {
  for (;;)
    try {
      return fs.readSync(handle, piece);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "EOF") return 0; // how Windows ends a pipe
      if (code !== "EAGAIN") throw error;
      // Standard input that somebody set not to block: nothing is there yet.
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
    }
}

function findFiles(name: string): string[] {
  if (name === "-") return ["-"];
  const found = look(name);
  if (found?.isDirectory()) return filesIn(name);
  if (found) return [name];
  if (!/[*?[{]/.test(name))
    throw new InputError(
      `there is no file '${name}' in ${process.cwd()}; --data takes files, folders, globs or -`,
    );
  // Came with Node 22, which training needs too.
  if (!("globSync" in fs))
    throw new InputError(
      `globs need Node 22 or newer, and this is ${process.version}`,
    );
  const matches = fs.globSync(name).filter((match) => look(match)?.isFile());
  if (matches.length === 0)
    throw new InputError(`no file matches '${name}' in ${process.cwd()}`);
  return matches.sort();
}

/** All files below, linked ones too, without hidden ones and installed packages. */
function filesIn(folder: string): string[] {
  const files = fs
    .readdirSync(folder, { withFileTypes: true })
    .filter(({ name }) => !name.startsWith(".") && name !== "node_modules")
    .flatMap((entry) => {
      const place = path.join(folder, entry.name);
      if (entry.isDirectory()) return filesIn(place);
      // No linked folders, as they may lead round in circles.
      const linked = entry.isSymbolicLink() && look(place)?.isFile();
      return entry.isFile() || linked ? [place] : [];
    });
  return files.sort();
}

/** Declaration files of the TypeScript beside the command line or the user. */
function typescriptFiles(): string[] {
  const places = [import.meta.url, path.join(process.cwd(), "any.js")];
  for (const place of places) {
    const folder = typescriptFolder(place);
    if (!folder) continue;
    const names = fs
      .readdirSync(folder)
      .filter((name) => /^lib.*\.d\.ts$/.test(name))
      .sort();
    if (names.length > 0) return names.map((name) => path.join(folder, name));
  }
  throw new InputError(
    "there is no text to train on: pass --data FILE, or install typescript, whose declaration files are the default",
  );
}

function typescriptFolder(place: string): string | undefined {
  try {
    const manifest = createRequire(place).resolve("typescript/package.json");
    const folder = path.join(path.dirname(manifest), "lib");
    return fs.existsSync(folder) ? folder : undefined;
  } catch {
    return undefined; // not installed here
  }
}
