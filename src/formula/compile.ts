/**
 * From the parsed formula to its program: checks what the text says, and gives
 * every name the value that it stands for on its line.
 *
 * Whatever depends on hyperparameters and step scalars alone is taken out of
 * the element loop: it is evaluated once a step, in float64, on the host, and
 * reaches the loop as a float32 uniform. A division by such a value becomes a
 * product with its reciprocal, and factors of this kind are gathered. All
 * engines print the same program, so they round in the same places.
 */
import { Builder } from "./builder.ts";
import { FormulaError, nearestName } from "./error.ts";
import {
  functionArity,
  isCompare,
  parseFormula,
  type Assignment,
  type Expr,
  type Reduction,
} from "./parse.ts";
import {
  stateShape,
  widest,
  type Program,
  type Shape,
  type StateKind,
} from "./program.ts";
import { literal, scalar, type Value } from "./values.ts";

export interface ProgramSource {
  /** Name of the optimizer, for error messages. */
  readonly name: string;
  readonly update: string;
  readonly states: Readonly<Record<string, StateKind>>;
  /** Names of hyperparameters and step scalars. */
  readonly scalars: readonly string[];
  /** A scalar that no element of the gradient may exceed in magnitude. */
  readonly limit?: string;
}

/** What holds at one place of the text. */
interface Scope {
  readonly source: ProgramSource;
  readonly builder: Builder;
  /** What each name stands for so far. */
  readonly bound: Map<string, Value>;
  /** Names that some line assigns. */
  readonly targets: ReadonlySet<string>;
}

/**
 * Checks a formula and lowers it.
 *
 * @throws FormulaError for unknown names, a local read before it is assigned,
 * a state (or p) never assigned, an assignment to g or to a hyperparameter, a
 * comparison used as a number, with the line and a caret.
 */
export function compileFormula(source: ProgramSource): Program {
  const { name: owner, update, states } = source;
  checkNames(source);
  const assignments = parseFormula(owner, update);
  const builder = new Builder();
  const scope: Scope = {
    source,
    builder,
    bound: givenValues(source, builder),
    targets: new Set(assignments.map(({ target }) => target)),
  };
  for (const assignment of assignments)
    scope.bound.set(assignment.target, assign(scope, assignment));
  return builder.finish(owner, states, outputsOf(scope));
}

function checkNames({ name: owner, states, scalars }: ProgramSource): void {
  const stateNames = Object.keys(states);
  for (const reserved of ["p", "g", ...functionArity.keys()])
    if (stateNames.includes(reserved) || scalars.includes(reserved))
      throw new TypeError(
        `${owner}: '${reserved}' is a word of the formula language and cannot name a state, hyperparameter or scalar`,
      );
  for (const state of stateNames)
    if (scalars.includes(state))
      throw new TypeError(
        `${owner}: '${state}' is both a state and a hyperparameter or scalar`,
      );
}

/** What names stand for before the first line. */
function givenValues(
  { states, scalars, limit }: ProgramSource,
  builder: Builder,
): Map<string, Value> {
  const input = (name: string, shape: Shape): [string, Value] => [
    name,
    builder.element({ op: "input", name }, shape),
  ];
  const given = new Map<string, Value>([
    input("p", "element"),
    input("g", "element"),
    ...Object.entries(states).map(([name, kind]) =>
      input(name, stateShape(kind)),
    ),
    ...scalars.map((name): [string, Value] => [name, scalar(name)]),
  ]);
  if (limit !== undefined) {
    const most = scalar(limit);
    const least = builder.unary("neg", most);
    const above = builder.binary("max", given.get("g")!, least);
    given.set("g", builder.binary("min", above, most));
  }
  return given;
}

/** The value of a line, checked to be one that its target can take. */
function assign(scope: Scope, { target, value, at }: Assignment): Value {
  const { source, builder } = scope;
  if (target === "g")
    fail(
      scope,
      at,
      "'g' is the gradient and cannot be assigned; use a new name",
    );
  if (source.scalars.includes(target))
    fail(
      scope,
      at,
      `'${target}' is a hyperparameter or scalar and cannot be assigned; use a new name`,
    );
  if (functionArity.has(target))
    fail(scope, at, `'${target}' is a function and cannot be assigned`);
  const result = number(scope, value);
  const kind = source.states[target];
  if (kind !== undefined) {
    const wanted = stateShape(kind);
    const shape = builder.shape(result);
    if (widest(shape, wanted) !== wanted)
      fail(
        scope,
        at,
        `the state '${target}' holds ${shapeWords[wanted]}, and this is ${shapeWords[shape]}; reduce it first, as with rowmean or colmean`,
      );
  }
  return result;
}

/** Nodes of the new values of `p` and the states, all of which must be assigned. */
function outputsOf({
  source,
  builder,
  bound,
  targets,
}: Scope): Map<string, number> {
  return new Map(
    ["p", ...Object.keys(source.states)].map((name) => {
      if (!targets.has(name))
        throw new FormulaError(
          source.name,
          source.update,
          source.update.trimEnd().length,
          name === "p"
            ? "the parameter 'p' is never assigned; the last line usually is p = ..."
            : `the state '${name}' is never assigned; add a line ${name} = ...`,
        );
      return [name, builder.node(bound.get(name)!)];
    }),
  );
}

function fail({ source }: Scope, at: number, problem: string): never {
  throw new FormulaError(source.name, source.update, at, problem);
}

function number(scope: Scope, expr: Expr): Value {
  if (expr.kind === "binary" && isCompare(expr.op))
    fail(
      scope,
      expr.at,
      "a comparison is not a number; use it as the first argument of select(condition, then, else)",
    );
  return lower(scope, expr);
}

function condition(scope: Scope, expr: Expr): Value {
  if (expr.kind !== "binary" || !isCompare(expr.op))
    fail(
      scope,
      expr.at,
      "the first argument of select must be a comparison, such as v > 0",
    );
  return lower(scope, expr);
}

function lower(scope: Scope, expr: Expr): Value {
  const { builder } = scope;
  switch (expr.kind) {
    case "number":
      return literal(expr.value);
    case "name":
      return read(scope, expr.name, expr.at);
    case "unary":
      return builder.unary(expr.op, number(scope, expr.a));
    case "binary":
      return builder.binary(
        expr.op,
        number(scope, expr.a),
        number(scope, expr.b),
      );
    case "reduce":
      return reduce(scope, expr.reduction, number(scope, expr.a), expr.at);
    case "select":
      return builder.select(
        condition(scope, expr.condition),
        number(scope, expr.a),
        number(scope, expr.b),
      );
    default:
      return expr satisfies never;
  }
}

function read(scope: Scope, name: string, at: number): Value {
  const { bound, targets } = scope;
  const value = bound.get(name);
  if (value) return value;
  if (targets.has(name))
    fail(
      scope,
      at,
      `'${name}' is read before it is assigned; move its line up`,
    );
  const known = [...bound.keys()];
  const guess = nearestName(name, known);
  return fail(
    scope,
    at,
    `unknown name '${name}'; ${guess ? `did you mean '${guess}'?` : `known are ${known.join(", ")}`}`,
  );
}

function reduce(
  scope: Scope,
  reduction: Reduction,
  a: Value,
  at: number,
): Value {
  const { builder } = scope;
  const shape = builder.shape(a);
  const over = /^row/.test(reduction)
    ? "row"
    : /^col/.test(reduction)
      ? "column"
      : "all";
  if (
    over === "all" ? shape === "one" || shape === "matrix" : shape !== "element"
  )
    fail(
      scope,
      at,
      `${reduction} is taken of ${over === "all" ? "several values" : "values per element"}, and this is ${shapeWords[shape]}`,
    );
  const of = (how: "sum" | "mean" | "max", value: Value) =>
    builder.reduce(how, over, value);
  const square = () => builder.binary("mul", a, a);
  switch (reduction) {
    case "norm":
      return builder.unary("sqrt", of("sum", square()));
    case "rms":
      return builder.unary("sqrt", of("mean", square()));
    case "sum":
      return of("sum", a);
    case "mean":
    case "rowmean":
    case "colmean":
      return of("mean", a);
    case "max":
    case "rowmax":
    case "colmax":
      return of("max", a);
    default:
      return reduction satisfies never;
  }
}

const shapeWords: Readonly<Record<Shape, string>> = {
  one: "one number",
  matrix: "one number a matrix",
  row: "one value a row",
  column: "one value a column",
  element: "one value an element",
};
