/** What the terminal at the other end can show. */
export interface Terminal {
  /** Whether lines can be written over. */
  readonly live: boolean;
  /** Columns; asked anew each time, as windows change. */
  width(): number;
  bold(text: string): string;
  dim(text: string): string;
}

/** Follows NO_COLOR and FORCE_COLOR, see https://no-color.org. */
export function openTerminal(stream: NodeJS.WriteStream): Terminal {
  const { NO_COLOR, FORCE_COLOR, TERM } = process.env;
  const live = stream.isTTY === true && TERM !== "dumb";
  const color = !NO_COLOR && (live || !!FORCE_COLOR);
  const style = (code: number) => (text: string) =>
    color ? `\x1b[${code}m${text}\x1b[0m` : text;
  return {
    live,
    width: () => stream.columns || 80, // 0: it does not know
    bold: style(1),
    dim: style(2),
  };
}

/** Text from a model or a file: what could steer a terminal becomes a dot. */
export const harmless = (text: string) =>
  text.replace(/\r\n?/g, "\n").replace(/(?![\n\t])[\p{Cc}\p{Cf}]/gu, "·");

/** Breaks text at spaces into lines of at most `width` characters. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line ? `${line} ${word}` : word;
  }
  return [...lines, line];
}
