/** JSON from files that nobody vouches for. */
import { FileError } from "./fault.ts";

/**
 * Parses JSON and refuses an object that has a key twice, of which JSON.parse
 * would take the last and others the first.
 *
 * @throws FileError that calls the text `what`.
 */
export function parseJson(text: string, what: string): unknown {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new FileError(`${what} is not JSON`, { cause: error });
  }
  checkKeys(text, what);
  return value;
}

/** @param text valid JSON */
function checkKeys(text: string, what: string): void {
  // Of each open object the keys so far; of an array nothing.
  const open: (Set<string> | undefined)[] = [];
  for (let i = 0; i < text.length; i++) {
    const letter = text[i];
    if (letter === "{") open.push(new Set());
    else if (letter === "[") open.push(undefined);
    else if (letter === "}" || letter === "]") open.pop();
    else if (letter === '"') {
      const end = stringEnd(text, i);
      if (isKey(text, end)) {
        const key = JSON.parse(text.slice(i, end)) as string;
        const keys = open.at(-1)!;
        if (keys.has(key))
          throw new FileError(
            `${what} has the key ${JSON.stringify(key)} twice`,
          );
        keys.add(key);
      }
      i = end - 1;
    }
  }
}

/** The place after a string that begins at `start`. */
function stringEnd(text: string, start: number): number {
  let i = start + 1;
  while (text[i] !== '"') i += text[i] === "\\" ? 2 : 1;
  return i + 1;
}

function isKey(text: string, after: number): boolean {
  let i = after;
  while (/\s/.test(text[i] ?? "")) i++;
  return text[i] === ":";
}

export const isText = (value: unknown): value is string =>
  typeof value === "string";
export const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
export const isCount = (value: unknown): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0;
export const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every(isCount);
export const isNumber = (value: unknown): value is number =>
  typeof value === "number" && Number.isFinite(value);
