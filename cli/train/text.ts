import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { InputError } from "lowbit/trainer";

/** What a run trains on. */
export interface Text {
  readonly bytes: Uint8Array;
  readonly files: number;
  /** For people: `book.txt`, `12 files in src`. */
  readonly description: string;
}

/** Above this, JavaScript's own limits come into sight. */
const MAX_BYTES = 2 ** 31;

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
  const bytes = Buffer.concat(files.map(readFile));
  const description = data
    ? `${data.map((name) => (name === "-" ? "standard input" : name)).join(" ")}`
    : "TypeScript's declaration files";
  if (bytes.length === 0)
    throw new InputError(`the text is empty: ${description} has 0 bytes`);
  return { bytes, files: files.length, description };
}

const sizeOf = (file: string) => (file === "-" ? 0 : fs.statSync(file).size);

function readFile(file: string): Buffer {
  try {
    return fs.readFileSync(file === "-" ? 0 : file); // 0 is standard input
  } catch (error) {
    const name = file === "-" ? "standard input" : `'${file}'`;
    throw new InputError(`cannot read ${name}: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

function findFiles(name: string): string[] {
  if (name === "-") return ["-"];
  const found = fs.statSync(name, { throwIfNoEntry: false });
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
  const matches = fs
    .globSync(name)
    .filter((match) => fs.statSync(match).isFile());
  if (matches.length === 0)
    throw new InputError(`no file matches '${name}' in ${process.cwd()}`);
  return matches.sort();
}

/** All files below, without hidden ones and installed packages. */
function filesIn(folder: string): string[] {
  const files = fs
    .readdirSync(folder, { withFileTypes: true })
    .filter(({ name }) => !name.startsWith(".") && name !== "node_modules")
    .flatMap((entry) => {
      const place = path.join(folder, entry.name);
      if (entry.isDirectory()) return filesIn(place);
      return entry.isFile() ? [place] : [];
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
