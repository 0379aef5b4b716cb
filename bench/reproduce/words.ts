/** A text as numbers of words, and batches of words with those before them. */
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { InputError } from "lowbit/trainer";

/** Words that the model sees before the one it predicts. */
export const context = 4;

export interface Words {
  readonly description: string;
  /** Word by rank; the last stands for all that are rarer. */
  readonly training: Int32Array;
  readonly validation: Int32Array;
  readonly vocabulary: number;
}

/** Words, numbers and single signs, in lower case. */
const word = /[\p{L}_$][\p{L}\p{N}_$']*|\p{N}+|[^\s\p{L}\p{N}]/gu;

/**
 * The words of a text by their rank in it; its last tenth is for validation.
 *
 * @param data files; undefined takes TypeScript's declaration files, as `lowbit
 * train` does.
 * @param vocabulary most different words.
 * @throws InputError for a file that cannot be read, or too few words.
 */
export function readWords(
  data: readonly string[] | undefined,
  vocabulary: number,
): Words {
  const files = data ?? declarations();
  const description = data?.join(" ") ?? "TypeScript's declaration files";
  const text = files.map(readFile).join("\n");
  const all = text.toLowerCase().match(word) ?? [];
  const counts = new Map<string, number>();
  for (const one of all) counts.set(one, (counts.get(one) ?? 0) + 1);
  const kept = [...counts]
    .sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))
    .slice(0, vocabulary - 1);
  const ranks = new Map(kept.map(([one], rank) => [one, rank]));
  const size = kept.length + 1;
  const tokens = Int32Array.from(all, (one) => ranks.get(one) ?? size - 1);
  const split = Math.floor(0.9 * tokens.length);
  if (split < 10 * context || tokens.length - split < 10 * context)
    throw new InputError(
      `${description} has ${tokens.length} words, too few to train on`,
    );
  return {
    description,
    training: tokens.subarray(0, split),
    validation: tokens.subarray(split),
    vocabulary: size,
  };
}

function readFile(name: string): string {
  try {
    return fs.readFileSync(name, "utf8");
  } catch (cause) {
    throw new InputError(
      `--data takes files of text: ${(cause as Error).message}`,
      { cause },
    );
  }
}

function declarations(): string[] {
  const manifest = createRequire(import.meta.url).resolve(
    "typescript/package.json",
  );
  const folder = path.join(path.dirname(manifest), "lib");
  return fs
    .readdirSync(folder)
    .filter((name) => /^lib.*\.d\.ts$/.test(name))
    .sort()
    .map((name) => path.join(folder, name));
}

export interface Batch {
  /** [batch, context]. */
  readonly before: Int32Array<ArrayBuffer>;
  /** [batch]. */
  readonly next: Int32Array<ArrayBuffer>;
}

/** A batch of places in a text, each below `tokens.length - context`. */
export function batchAt(tokens: Int32Array, places: readonly number[]): Batch {
  const before = new Int32Array(places.length * context);
  places.forEach((place, i) =>
    before.set(tokens.subarray(place, place + context), i * context),
  );
  return {
    before,
    next: Int32Array.from(places, (place) => tokens[place + context]!),
  };
}
