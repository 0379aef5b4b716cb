/** The words of a formula's text, and a place in them. */
import { FormulaError } from "./error.ts";

export type Token = {
  readonly kind: "number" | "name" | "symbol" | "newline" | "end";
  readonly text: string;
  readonly at: number;
};

// A number may not run into a name: "2x" is an error, not 2 times x.
const tokenPattern =
  /(?<space>[ \t\r]+|(?:#|\/\/)[^\n]*)|(?<newline>\n|;)|(?<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![A-Za-z0-9_.]))|(?<name>[A-Za-z_][A-Za-z0-9_]*)|(?<symbol><=|>=|==|!=|[-+*/()=<>,])/y;

function tokenize(owner: string, source: string): Token[] {
  const tokens: Token[] = [];
  let at = 0;
  while (at < source.length) {
    tokenPattern.lastIndex = at;
    const match = tokenPattern.exec(source);
    if (!match) {
      const bad = /^[0-9.]+[A-Za-z0-9_.]*|^./s.exec(source.slice(at))![0];
      throw new FormulaError(
        owner,
        source,
        at,
        /^[0-9.]/.test(bad)
          ? `'${bad}' is not a number; write a product as 2 * x`
          : `unexpected character '${bad}'`,
      );
    }
    const text = match[0];
    const { newline, number, name, symbol } = match.groups!;
    if (newline !== undefined) tokens.push({ kind: "newline", text, at });
    else if (number !== undefined) tokens.push({ kind: "number", text, at });
    else if (name !== undefined) tokens.push({ kind: "name", text, at });
    else if (symbol !== undefined) tokens.push({ kind: "symbol", text, at });
    at += text.length;
  }
  tokens.push({ kind: "end", text: "", at: source.length });
  return tokens;
}

const inWords = (token: Token) =>
  token.kind === "end"
    ? "the end of the formula"
    : token.kind === "newline"
      ? "the end of the line"
      : `'${token.text}'`;

/** Reads one token after the other. */
export class Tokens {
  readonly #owner: string;
  readonly #source: string;
  readonly #tokens: readonly Token[];
  #position = 0;
  /** Parentheses that are open: a line goes on inside them. */
  #depth = 0;

  /** @throws FormulaError for a character or a number that is none. */
  constructor(owner: string, source: string) {
    this.#owner = owner;
    this.#source = source;
    this.#tokens = tokenize(owner, source);
  }

  skipNewlines(): void {
    while (this.#tokens[this.#position]!.kind === "newline") this.#position++;
  }

  peek(): Token {
    if (this.#depth > 0) this.skipNewlines();
    return this.#tokens[this.#position]!;
  }

  next(): Token {
    const token = this.peek();
    this.#position++;
    return token;
  }

  /** Whether the next token is this one, which is then taken. */
  take(text: string): boolean {
    if (this.peek().text !== text) return false;
    this.next();
    return true;
  }

  /** @param after where it stands, for the message: `after sqrt`. */
  expect(text: string, after: string): void {
    const token = this.next();
    if (token.text !== text)
      this.failFound(token, `expected '${text}' ${after}`);
  }

  /** What `read` reads in parentheses, of which the first has been taken. */
  inside<T>(read: () => T, after: string): T {
    this.#depth++;
    const result = read();
    this.expect(")", after);
    this.#depth--;
    return result;
  }

  fail(token: Token, problem: string): never {
    throw new FormulaError(this.#owner, this.#source, token.at, problem);
  }

  failFound(token: Token, expected: string): never {
    return this.fail(token, `${expected}, found ${inWords(token)}`);
  }
}
