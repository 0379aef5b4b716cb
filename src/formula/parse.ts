import { Tokens, type Token } from "./tokens.ts";

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
/** Whether an operation gives a condition, not a number. */
export const isCompare = (op: string): op is CompareOp =>
  Object.values<string>(compareOps).includes(op);

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

/**
 * Parses the text of an update: one `name = expression` a line; `#` and `//`
 * begin comments; a line that ends inside parentheses goes on in the next.
 *
 * @throws FormulaError with the line and a caret for anything else.
 */
export function parseFormula(owner: string, source: string): Assignment[] {
  const tokens = new Tokens(owner, source);
  const assignments: Assignment[] = [];
  for (;;) {
    tokens.skipNewlines();
    const target = tokens.next();
    if (target.kind === "end") return assignments;
    if (target.kind !== "name")
      tokens.failFound(target, "expected 'name = ...'");
    tokens.expect("=", `after '${target.text}'`);
    const value = expression(tokens);
    const end = tokens.next();
    if (end.kind !== "newline" && end.kind !== "end")
      tokens.failFound(end, "expected an operator or the end of the line");
    assignments.push({ target: target.text, value, at: target.at });
    if (end.kind === "end") return assignments;
  }
}

function expression(tokens: Tokens): Expr {
  const left = sum(tokens);
  const token = tokens.peek();
  const op = operator(token, compareOps);
  if (!op) return left;
  tokens.next();
  const right = sum(tokens);
  const another = tokens.peek();
  if (operator(another, compareOps))
    tokens.fail(another, "comparisons do not chain; nest two selects instead");
  return { kind: "binary", op, a: left, b: right, at: token.at };
}

const operator = <Op>(
  token: Token,
  operators: Readonly<Record<string, Op>>,
): Op | undefined =>
  token.kind === "symbol" ? operators[token.text] : undefined;

const sum = (tokens: Tokens) => chain(tokens, product, sumOps);
const product = (tokens: Tokens) => chain(tokens, unary, productOps);

/** Operands with operators of one rank between them, from the left. */
function chain(
  tokens: Tokens,
  operand: (tokens: Tokens) => Expr,
  operators: Readonly<Record<string, BinaryOp>>,
): Expr {
  let left = operand(tokens);
  for (;;) {
    const token = tokens.peek();
    const op = operator(token, operators);
    if (!op) return left;
    tokens.next();
    left = { kind: "binary", op, a: left, b: operand(tokens), at: token.at };
  }
}

function unary(tokens: Tokens): Expr {
  const { at } = tokens.peek();
  if (tokens.take("-"))
    return { kind: "unary", op: "neg", a: unary(tokens), at };
  return tokens.take("+") ? unary(tokens) : primary(tokens);
}

function primary(tokens: Tokens): Expr {
  const token = tokens.next();
  const { text, at } = token;
  if (token.kind === "number")
    return { kind: "number", value: Number(text), at };
  if (token.kind === "name")
    return tokens.peek().text === "("
      ? call(tokens, token)
      : { kind: "name", name: text, at };
  if (text === "(")
    return tokens.inside(() => expression(tokens), "to close the parenthesis");
  return tokens.failFound(token, "expected a number, a name or '('");
}

function call(tokens: Tokens, token: Token): Expr {
  const { text: name, at } = token;
  const arity = functionArity.get(name);
  if (arity === undefined)
    tokens.fail(
      token,
      `unknown function '${name}'; there are ${[...functionArity.keys()].join(", ")}`,
    );
  tokens.expect("(", `after ${name}`);
  const args = tokens.inside(() => listOf(tokens), `to close ${name}(`);
  const [a, b, c] = args as [Expr, Expr, Expr];
  // max of one argument is over the tensor, of two over the pair.
  if (name === "max" && args.length === 1)
    return { kind: "reduce", reduction: "max", a, at };
  if (args.length !== arity)
    tokens.fail(
      token,
      `${name} takes ${arity} ${arity === 1 ? "argument" : "arguments"}, given ${args.length}`,
    );
  if (unaryFunctions.has(name))
    return { kind: "unary", op: name as UnaryOp, a, at };
  if (binaryFunctions.has(name))
    return { kind: "binary", op: name as BinaryOp, a, b, at };
  if (reductions.includes(name))
    return { kind: "reduce", reduction: name as Reduction, a, at };
  return { kind: "select", condition: a, a: b, b: c, at };
}

/** Expressions up to the closing parenthesis. */
function listOf(tokens: Tokens): Expr[] {
  if (tokens.peek().text === ")") return [];
  const list = [expression(tokens)];
  while (tokens.take(",")) list.push(expression(tokens));
  return list;
}
