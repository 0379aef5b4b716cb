import { wrap } from "./terminal.ts";

/** A flag and what it means, as the help texts print it. */
export function helpRow(flag: string, text: string): string {
  const indent = 2 + 24;
  const [first, ...rest] = wrap(text, 84 - indent);
  return [
    `  ${flag.padEnd(24)}${first}`.trimEnd(),
    ...rest.map((line) => " ".repeat(indent) + line),
  ].join("\n");
}
