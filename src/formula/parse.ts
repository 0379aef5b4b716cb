import { FormulaError } from "./error.ts";

export type UnaryOp = "neg" | "sqrt" | "abs" | "sign" | "exp" | "log";
export type BinaryOp = "add" | "sub" | "mul" | "div" | "min" | "max" | "pow";
export type CompareOp = "lt" | "le" | "gt" | "ge" | "eq" | "ne";

/** Functions of a whole tensor, of its rows, or of its columns. */
export type Reduction =
  | "norm"
  | "sum"
  | "mean"
  | "rms"
  | "max"
  | "rowmean"
  | "colmean"
  | "rowmax"
  | "colmax";

/** An expression of the update language; `at` is its offset in the source text. */
export type Expr =
  | { readonly kind: "number"; readonly value: number; readonly at: number }
  | { readonly kind: "name"; readonly name: string; readonly at: number }
  | {
      readonly kind: "unary";
      readonly op: UnaryOp;
      readonly a: Expr;
      readonly at: number;
    }
  | {
      readonly kind: "binary";
      readonly op: BinaryOp | CompareOp;
      readonly a: Expr;
      readonly b: Expr;
      readonly at: number;
    }
  | {
      readonly kind: "reduce";
      readonly reduction: Reduction;
      readonly a: Expr;
      readonly at: number;
    }
  | {
      readonly kind: "select";
      readonly condition: Expr;
      readonly a: Expr;
      readonly b: Expr;
      readonly at: number;
    };

/** `target = value`, one line of a formula. */
export interface Assignment {
  readonly target: string;
  readonly value: Expr;
  readonly at: number;
}

const compareOps: Readonly<Record<string, CompareOp>> = {
  "<": "lt",
  "<=": "le",
  ">": "gt",
  ">=": "ge",
  "==": "eq",
  "!=": "ne",
};
const sumOps: Readonly<Record<string, BinaryOp>> = { "+": "add", "-": "sub" };
const productOps: Readonly<Record<string, BinaryOp>> = {
  "*": "mul",
  "/": "div",
};
const unaryFunctions = /* @__PURE__ */ new Set([
  "sqrt",
  "abs",
  "sign",
  "exp",
  "log",
]);
const binaryFunctions = /* @__PURE__ */ new Set(["min", "max", "pow"]);
const reductions: readonly string[] = [
  "norm",
  "sum",
  "mean",
  "rms",
  "rowmean",
  "colmean",
  "rowmax",
  "colmax",
];

/** Names a formula may call, with their number of arguments. */
export const functionArity: ReadonlyMap<string, number> =
  /* @__PURE__ */ new Map([
    ...[...unaryFunctions].map((name) => [name, 1] as const),
    ...[...binaryFunctions].map((name) => [name, 2] as const),
    ["select", 3] as const,
    ...reductions.map((name) => [name, 1] as const),
  ]);

type Token = {
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

/**
 * Parses the text of an update: one `name = expression` a line; `#` and `//`
 * begin comments; a line that ends inside parentheses goes on in the next.
 *
 * @throws FormulaError with the line and a caret for anything else.
 */
export function parseFormula(owner: string, source: string): Assignment[] {
  const tokens = tokenize(owner, source);
  let position = 0;
  let depth = 0;

  const skipNewlines = () => {
    while (tokens[position]!.kind === "newline") position++;
  };
  const peek = () => {
    if (depth > 0) skipNewlines();
    return tokens[position]!;
  };
  const next = () => {
    const token = peek();
    position++;
    return token;
  };
  const fail = (token: Token, problem: string): never => {
    throw new FormulaError(owner, source, token.at, problem);
  };
  const shown = (token: Token) =>
    token.kind === "end"
      ? "the end of the formula"
      : token.kind === "newline"
        ? "the end of the line"
        : `'${token.text}'`;
  const expect = (text: string, after: string) => {
    const token = next();
    if (token.text !== text)
      fail(token, `expected '${text}' ${after}, found ${shown(token)}`);
    return token;
  };

  function chain(
    operand: () => Expr,
    operators: Readonly<Record<string, BinaryOp>>,
  ): Expr {
    let left = operand();
    for (;;) {
      const token = peek();
      const op = token.kind === "symbol" ? operators[token.text] : undefined;
      if (!op) return left;
      next();
      left = { kind: "binary", op, a: left, b: operand(), at: token.at };
    }
  }
  const sum = (): Expr => chain(product, sumOps);
  const product = (): Expr => chain(unary, productOps);

  function expression(): Expr {
    const left = sum();
    const token = peek();
    const op = token.kind === "symbol" ? compareOps[token.text] : undefined;
    if (!op) return left;
    next();
    const compared: Expr = {
      kind: "binary",
      op,
      a: left,
      b: sum(),
      at: token.at,
    };
    const another = peek();
    if (compareOps[another.text])
      fail(another, "comparisons do not chain; nest two selects instead");
    return compared;
  }

  function unary(): Expr {
    const token = peek();
    if (token.text === "-") {
      next();
      return { kind: "unary", op: "neg", a: unary(), at: token.at };
    }
    if (token.text === "+") {
      next();
      return unary();
    }
    return primary();
  }

  function call(name: Token): Expr {
    const arity = functionArity.get(name.text);
    if (arity === undefined)
      fail(
        name,
        `unknown function '${name.text}'; there are ${[...functionArity.keys()].join(", ")}`,
      );
    expect("(", `after ${name.text}`);
    depth++;
    const args: Expr[] = [];
    if (peek().text !== ")") {
      args.push(expression());
      while (peek().text === ",") {
        next();
        args.push(expression());
      }
    }
    expect(")", `to close ${name.text}(`);
    depth--;
    // max of one argument is over the tensor, of two over the pair.
    if (name.text === "max" && args.length === 1)
      return { kind: "reduce", reduction: "max", a: args[0]!, at: name.at };
    if (args.length !== arity)
      fail(
        name,
        `${name.text} takes ${arity} ${arity === 1 ? "argument" : "arguments"}, given ${args.length}`,
      );
    const [a, b, c] = args as [Expr, Expr, Expr];
    if (unaryFunctions.has(name.text))
      return { kind: "unary", op: name.text as UnaryOp, a, at: name.at };
    if (binaryFunctions.has(name.text))
      return { kind: "binary", op: name.text as BinaryOp, a, b, at: name.at };
    if (reductions.includes(name.text))
      return {
        kind: "reduce",
        reduction: name.text as Reduction,
        a,
        at: name.at,
      };
    return { kind: "select", condition: a, a: b, b: c, at: name.at };
  }

  function primary(): Expr {
    const token = next();
    if (token.kind === "number")
      return { kind: "number", value: Number(token.text), at: token.at };
    if (token.kind === "name") {
      if (peek().text === "(") return call(token);
      return { kind: "name", name: token.text, at: token.at };
    }
    if (token.text === "(") {
      depth++;
      const inner = expression();
      expect(")", "to close the parenthesis");
      depth--;
      return inner;
    }
    return fail(
      token,
      `expected a number, a name or '(', found ${shown(token)}`,
    );
  }

  const assignments: Assignment[] = [];
  for (;;) {
    skipNewlines();
    const target = next();
    if (target.kind === "end") break;
    if (target.kind !== "name")
      fail(target, `expected 'name = ...', found ${shown(target)}`);
    expect("=", `after '${target.text}'`);
    const value = expression();
    const end = next();
    if (end.kind !== "newline" && end.kind !== "end")
      fail(
        end,
        `expected an operator or the end of the line, found ${shown(end)}`,
      );
    assignments.push({ target: target.text, value, at: target.at });
    if (end.kind === "end") break;
  }
  return assignments;
}
