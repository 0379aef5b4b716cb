/** An error in the text of a formula, with the line and a caret under the spot, like a compiler's. */
export class FormulaError extends Error {
  override readonly name = "FormulaError";
  /** 1-based line of the formula text, not counting leading blank lines away. */
  readonly line: number;
  /** 1-based column. */
  readonly column: number;

  constructor(owner: string, source: string, offset: number, problem: string) {
    const before = source.slice(0, offset);
    const line = before.split("\n").length;
    const column = offset - (before.lastIndexOf("\n") + 1) + 1;
    const text = source.split("\n")[line - 1] ?? "";
    const indent = text.length - text.trimStart().length;
    const caret = " ".repeat(Math.max(0, column - 1 - indent)) + "^";
    super(
      `${owner}, line ${line}: ${problem}\n    ${text.trim()}\n    ${caret}`,
    );
    this.line = line;
    this.column = column;
  }
}

/** The candidate closest to `word` by edit distance, when it is close enough to be a likely slip. */
export function nearestName(
  word: string,
  candidates: Iterable<string>,
): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      best = candidate;
      bestDistance = distance;
    }
  }
  return best;
}

/**
 * @param what begins the message, as `adamw: unknown option`
 * @throws TypeError for a name that is not known, with the nearest that is.
 */
export function checkNames(
  what: string,
  given: readonly string[],
  known: readonly string[],
): void {
  for (const name of given) {
    if (known.includes(name)) continue;
    const guess = nearestName(name, known);
    throw new TypeError(
      `${what} '${name}'; ${guess ? `did you mean '${guess}'? There` : "there"} are ${known.join(", ")}`,
    );
  }
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(
        row[j]! + 1,
        next[j - 1]! + 1,
        row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1),
      );
    }
    row = next;
  }
  return row[b.length]!;
}
