import { parseArgs } from "node:util";
import { InputError, nearestName } from "lowbit/trainer";

/** What a flag takes: a value, nothing, or values up to the next flag. */
export type FlagKind = "text" | "switch" | "list";

/** What a command line says. */
export interface GivenFlags<Name extends string = string> {
  readonly texts: { readonly [K in Name]?: string };
  readonly switches: ReadonlySet<Name>;
  readonly lists: { readonly [K in Name]?: readonly string[] };
  /** What stands before the first flag, or after `--`. */
  readonly positionals: readonly string[];
}

/**
 * Reads flags; the last of several wins.
 *
 * @param stray what a stray argument should have been, for the message;
 * undefined allows them
 * @throws InputError for an unknown flag, a missing value, a stray argument.
 */
export function readFlags<Name extends string>(
  args: readonly string[],
  kinds: Readonly<Record<Name, FlagKind>>,
  { command, stray }: { readonly command: string; readonly stray?: string },
): GivenFlags<Name> {
  const names = Object.keys(kinds) as Name[];
  const { tokens } = parseArgs({
    args: [...args],
    strict: false, // our own messages are better
    tokens: true,
    options: Object.fromEntries(
      names.map((name) => [
        name,
        { type: kinds[name] === "switch" ? "boolean" : "string" } as const,
      ]),
    ),
  });
  const texts: { [K in Name]?: string } = {};
  const switches = new Set<Name>();
  const lists: { [K in Name]?: string[] } = {};
  const positionals: string[] = [];
  let list: string[] | undefined; // `--data a b c`: goes on to the next flag
  for (const token of tokens) {
    if (token.kind === "option-terminator") continue;
    if (token.kind === "positional") {
      if (list) list.push(token.value);
      else if (stray === undefined) positionals.push(token.value);
      else throw new InputError(`unexpected '${token.value}'; ${stray}`);
      continue;
    }
    const { value } = token;
    const name = knownFlag(token.rawName, token.name, names, command);
    list = undefined;
    if (kinds[name] === "switch") {
      if (value !== undefined)
        throw new InputError(`--${name} takes no value, given '${value}'`);
      switches.add(name);
      continue;
    }
    if (value === undefined || (!token.inlineValue && value.startsWith("--")))
      throw new InputError(`--${name} needs a value`);
    if (kinds[name] === "text") texts[name] = value;
    else (list = lists[name] ??= []).push(value);
  }
  return { texts, switches, lists, positionals };
}

function knownFlag<Name extends string>(
  raw: string,
  given: string,
  names: readonly Name[],
  command: string,
): Name {
  const name = names.find((one) => one === given);
  if (raw.startsWith("--") && name) return name;
  const guess = nearestName(given, names);
  throw new InputError(
    `unknown option '${raw}'; ${guess ? `did you mean '--${guess}'?` : `lowbit ${command} --help lists them all`}`,
  );
}

/** `a,b , c` -> a, b, c. */
export const splitList = (text: string): string[] =>
  text
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "");
