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

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const SPACE = 0x20;

/** @param text valid JSON */
function checkKeys(text: string, what: string): void {
  // Of each open object the keys so far; of an array nothing.
  const open: (Set<string> | undefined)[] = [];
  for (let i = 0; i < text.length; i++) {
    const letter = text.charCodeAt(i);
    if (letter !== QUOTE) {
      // [ and {, ] and } differ in one bit.
      if ((letter | 0x20) === 0x7b)
        open.push(letter === 0x7b ? new Set() : undefined);
      else if ((letter | 0x20) === 0x7d) open.pop();
      continue;
    }
    const end = stringEnd(text, i);
    if (isKey(text, end)) {
      const key = JSON.parse(text.slice(i, end)) as string;
      const keys = open.at(-1)!;
      if (keys.has(key))
        throw new FileError(`${what} has the key ${JSON.stringify(key)} twice`);
      keys.add(key);
    }
    i = end - 1;
  }
}

/** The place after a string that begins at `start`. */
function stringEnd(text: string, start: number): number {
  let i = start + 1;
  for (;;) {
    const letter = text.charCodeAt(i);
    if (letter === QUOTE) return i + 1;
    i += letter === BACKSLASH ? 2 : 1;
  }
}

function isKey(text: string, after: number): boolean {
  let i = after;
  // Of JSON, only white space is as low.
  while (text.charCodeAt(i) <= SPACE) i++;
  return text.charCodeAt(i) === COLON;
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
