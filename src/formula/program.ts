/**
 * From the parsed formula to the program that every back end prints: a list of
 * float32 operations in order, each common subexpression once.
 *
 * Whatever depends on hyperparameters and step scalars alone is taken out of
 * the element loop: it is evaluated once a step, in float64, on the host, and
 * reaches the loop as a float32 uniform. A division by such a value becomes a
 * product with its reciprocal, and factors of this kind are gathered. All
 * engines print the same program, so they round in the same places.
 */
import { FormulaError, nearestName } from "./error.ts";
import {
  functionArity,
  parseFormula,
  type BinaryOp,
  type CompareOp,
  type Expr,
  type Reduction,
  type UnaryOp,
} from "./parse.ts";

export type Node =
  | { readonly op: "const"; readonly value: number }
  | { readonly op: "uniform"; readonly index: number }
  /** The parameter `p`, its gradient `g`, or a state's value before the step. */
  | { readonly op: "input"; readonly name: string }
  | { readonly op: UnaryOp; readonly a: number }
  | {
      readonly op: BinaryOp | CompareOp;
      readonly a: number;
      readonly b: number;
    }
  | {
      readonly op: "select";
      readonly condition: number;
      readonly a: number;
      readonly b: number;
    }
  /** Over the last two axes' rows or columns, or over everything. */
  | {
      readonly op: "reduce";
      readonly how: "sum" | "mean" | "max";
      readonly over: "all" | "row" | "column";
      readonly a: number;
    };

/**
 * How many values a node has: `one`, one a `matrix` (the last two axes), one a
 * `row` or a `column` of it, or one an `element`. Whatever is not per element is
 * called small.
 */
export type Shape = "one" | "matrix" | "row" | "column" | "element";

/** What a state holds: values per element, with both signs or not, or fewer. */
export type StateKind = "signed" | "unsigned" | "row" | "column" | "one";

/** The shape of a state of this kind. */
export const stateShape = (kind: StateKind): Shape =>
  kind === "signed" || kind === "unsigned" ? "element" : kind;

/** Values of hyperparameters and step scalars by name. */
export type Scalars = Readonly<Record<string, number>>;

export interface Program {
  readonly owner: string;
  /** In dependency order: a node refers only to nodes before it. */
  readonly nodes: readonly Node[];
  /** Names of the states, in the order of their declaration. */
  readonly states: readonly string[];
  /** Shape of each state's value. */
  readonly stateShapes: readonly Shape[];
  /** Shape of each node. */
  readonly shapes: readonly Shape[];
  /** Of each node, see {@link isSmall}. */
  readonly small: readonly boolean[];
  /**
   * How many passes over the elements come before a node can be known: 0, or
   * one more than what the reductions it depends on are taken of.
   */
  readonly levels: readonly number[];
  /** Passes over the elements before the update. */
  readonly passes: number;
  /** Whether rows or columns occur, so that a tensor must have two axes. */
  readonly needsMatrix: boolean;
  /** Node that holds the new value of `p` and of each state. */
  readonly outputs: ReadonlyMap<string, number>;
  /** How many float32 uniforms the program takes a step. */
  readonly uniformCount: number;
  /** Evaluates the uniforms in float64 and rounds each to float32 once. */
  uniforms(scalars: Scalars): Float32Array;
}

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

/** A host-side expression in float64. */
type HostValue = (scalars: Scalars) => number;

/** What an expression lowers to: a value per element, or one for the step. */
type Value =
  | { readonly per: "element"; readonly node: number }
  | {
      readonly per: "step";
      readonly key: string;
      readonly host: HostValue;
      readonly literal?: number;
    };

const isCompare = (op: string): op is CompareOp =>
  ["lt", "le", "gt", "ge", "eq", "ne"].includes(op);

/**
 * Checks a formula and lowers it.
 *
 * @throws FormulaError for unknown names, a local read before it is assigned,
 * a state (or p) never assigned, an assignment to g or to a hyperparameter, a
 * comparison used as a number, with the line and a caret.
 */
export function compileFormula(source: ProgramSource): Program {
  const { name: owner, update } = source;
  const states = Object.keys(source.states);
  for (const reserved of ["p", "g", ...functionArity.keys()]) {
    for (const given of [...states, ...source.scalars])
      if (given === reserved)
        throw new TypeError(
          `${owner}: '${reserved}' is a word of the formula language and cannot name a state, hyperparameter or scalar`,
        );
  }
  const scalarNames = new Set(source.scalars);
  for (const state of states)
    if (scalarNames.has(state))
      throw new TypeError(
        `${owner}: '${state}' is both a state and a hyperparameter or scalar`,
      );

  const assignments = parseFormula(owner, update);
  const targets = new Set(assignments.map(({ target }) => target));
  const builder = new Builder();
  const bound = new Map<string, Value>();
  for (const input of ["p", "g"])
    bound.set(input, builder.element({ op: "input", name: input }, "element"));
  for (const [input, kind] of Object.entries(source.states))
    bound.set(
      input,
      builder.element({ op: "input", name: input }, stateShape(kind)),
    );
  for (const scalar of scalarNames)
    bound.set(scalar, {
      per: "step",
      key: scalar,
      host: (scalars) => scalars[scalar]!,
    });

  const { limit } = source;
  if (limit !== undefined) {
    const most: Value = { per: "step", key: limit, host: (s) => s[limit]! };
    bound.set(
      "g",
      builder.binary(
        "min",
        builder.binary("max", bound.get("g")!, builder.unary("neg", most)),
        most,
      ),
    );
  }

  const fail = (at: number, problem: string): never => {
    throw new FormulaError(owner, update, at, problem);
  };

  function number(expr: Expr): Value {
    if (expr.kind === "binary" && isCompare(expr.op))
      return fail(
        expr.at,
        "a comparison is not a number; use it as the first argument of select(condition, then, else)",
      );
    return lower(expr);
  }

  function condition(expr: Expr): Value {
    if (expr.kind !== "binary" || !isCompare(expr.op))
      return fail(
        expr.at,
        "the first argument of select must be a comparison, such as v > 0",
      );
    return lower(expr);
  }

  function lower(expr: Expr): Value {
    switch (expr.kind) {
      case "number":
        return literal(expr.value);
      case "name": {
        const value = bound.get(expr.name);
        if (value) return value;
        if (targets.has(expr.name))
          return fail(
            expr.at,
            `'${expr.name}' is read before it is assigned; move its line up`,
          );
        const known = [...bound.keys()];
        const guess = nearestName(expr.name, known);
        return fail(
          expr.at,
          `unknown name '${expr.name}'; ${guess ? `did you mean '${guess}'?` : `known are ${known.join(", ")}`}`,
        );
      }
      case "unary":
        return builder.unary(expr.op, number(expr.a));
      case "binary":
        return builder.binary(expr.op, number(expr.a), number(expr.b));
      case "reduce":
        return reduce(expr.reduction, number(expr.a), expr.at);
      case "select":
        return builder.select(
          condition(expr.condition),
          number(expr.a),
          number(expr.b),
        );
      default:
        return expr satisfies never;
    }
  }

  function reduce(reduction: Reduction, a: Value, at: number): Value {
    const shape = a.per === "step" ? "one" : builder.shape(a);
    const over = /^row/.test(reduction)
      ? "row"
      : /^col/.test(reduction)
        ? "column"
        : "all";
    if (
      over === "all"
        ? shape === "one" || shape === "matrix"
        : shape !== "element"
    )
      return fail(
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

  const assigned = new Map<string, Value>();
  for (const { target, value, at } of assignments) {
    if (target === "g")
      fail(at, "'g' is the gradient and cannot be assigned; use a new name");
    if (scalarNames.has(target))
      fail(
        at,
        `'${target}' is a hyperparameter or scalar and cannot be assigned; use a new name`,
      );
    if (functionArity.has(target))
      fail(at, `'${target}' is a function and cannot be assigned`);
    const result = number(value);
    const kind = source.states[target];
    if (kind !== undefined) {
      const wanted = stateShape(kind);
      const shape = result.per === "step" ? "one" : builder.shape(result);
      if (widest(shape, wanted) !== wanted)
        fail(
          at,
          `the state '${target}' holds ${shapeWords[wanted]}, and this is ${shapeWords[shape]}; reduce it first, as with rowmean or colmean`,
        );
    }
    bound.set(target, result);
    assigned.set(target, result);
  }

  const end = update.trimEnd().length;
  const outputs = new Map<string, number>();
  for (const output of ["p", ...states]) {
    const value =
      assigned.get(output) ??
      fail(
        end,
        output === "p"
          ? "the parameter 'p' is never assigned; the last line usually is p = ..."
          : `the state '${output}' is never assigned; add a line ${output} = ...`,
      );
    outputs.set(output, builder.node(value));
  }
  return builder.finish(owner, source.states, outputs);
}

const shapeWords: Readonly<Record<Shape, string>> = {
  one: "one number",
  matrix: "one number a matrix",
  row: "one value a row",
  column: "one value a column",
  element: "one value an element",
};

/** The shape of an operation on values of two shapes. */
export function widest(a: Shape, b: Shape): Shape {
  if (a === b) return a;
  const order: readonly Shape[] = ["one", "matrix", "row", "column", "element"];
  const [low, high] = [a, b].sort(
    (x, y) => order.indexOf(x) - order.indexOf(y),
  ) as [Shape, Shape];
  return low === "row" && high === "column" ? "element" : high;
}

function literal(value: number): Value {
  return { per: "step", key: String(value), host: () => value, literal: value };
}

const hostUnary: Readonly<Record<UnaryOp, (a: number) => number>> = {
  neg: (a) => -a,
  sqrt: (a) => Math.sqrt(a),
  abs: (a) => Math.abs(a),
  sign: (a) => Math.sign(a),
  exp: (a) => Math.exp(a),
  log: (a) => Math.log(a),
};
const hostBinary: Readonly<
  Record<BinaryOp | CompareOp, (a: number, b: number) => number>
> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  min: (a, b) => Math.min(a, b),
  max: (a, b) => Math.max(a, b),
  pow: (a, b) => Math.pow(a, b),
  lt: (a, b) => Number(a < b),
  le: (a, b) => Number(a <= b),
  gt: (a, b) => Number(a > b),
  ge: (a, b) => Number(a >= b),
  eq: (a, b) => Number(a === b),
  ne: (a, b) => Number(a !== b),
};

/** Hash-consing builder: equal operations on equal operands share one node. */
class Builder {
  #nodes: Node[] = [];
  #shapes: Shape[] = [];
  #byKey = new Map<string, number>();
  #uniforms = new Map<string, { index: number; host: HostValue }>();

  /** A node, made or found; its shape is that of its operands unless given. */
  element(
    node: Node,
    shape: Shape = operands(node)
      .map((operand) => this.#shapes[operand]!)
      .reduce(widest, "one"),
  ): Value & { per: "element" } {
    const key = JSON.stringify(node);
    let index = this.#byKey.get(key);
    if (index === undefined) {
      index = this.#nodes.push(node) - 1;
      this.#shapes.push(shape);
      this.#byKey.set(key, index);
    }
    return { per: "element", node: index };
  }

  shape(value: Value & { per: "element" }): Shape {
    return this.#shapes[value.node]!;
  }

  reduce(
    how: "sum" | "mean" | "max",
    over: "all" | "row" | "column",
    value: Value,
  ): Value {
    const a = this.node(value);
    const shape =
      over !== "all" ? over : this.#shapes[a] === "element" ? "one" : "matrix";
    return this.element({ op: "reduce", how, over, a }, shape);
  }

  /** The node of a value; a step value becomes a constant or a uniform. */
  node(value: Value): number {
    if (value.per === "element") return value.node;
    if (value.literal !== undefined)
      return this.element({
        op: "const",
        value: Math.fround(value.literal),
      }).node;
    let uniform = this.#uniforms.get(value.key);
    if (!uniform) {
      uniform = { index: this.#uniforms.size, host: value.host };
      this.#uniforms.set(value.key, uniform);
    }
    return this.element({ op: "uniform", index: uniform.index }).node;
  }

  unary(op: UnaryOp, a: Value): Value {
    if (a.per === "step") return stepValue(op, hostUnary[op], a);
    return this.element({ op, a: a.node });
  }

  binary(op: BinaryOp | CompareOp, a: Value, b: Value): Value {
    if (a.per === "step" && b.per === "step")
      return stepValue(op, hostBinary[op], a, b);
    if (op === "div" && b.per === "step")
      return this.binary("mul", a, reciprocal(b));
    if (op === "mul" && b.per === "step") return this.binary("mul", b, a);
    if (op === "mul" && a.per === "step" && b.per === "element") {
      // u1 * (u2 * x) is (u1 * u2) * x: one product an element less.
      const inner = this.#scaled(b.node);
      if (inner)
        return this.binary(
          "mul",
          stepValue("mul", hostBinary.mul, a, inner.factor),
          inner.value,
        );
    }
    return this.element({ op, a: this.node(a), b: this.node(b) });
  }

  select(condition: Value, a: Value, b: Value): Value {
    if (condition.per === "step" && a.per === "step" && b.per === "step")
      return stepValue(
        "select",
        (c, x, y) => (c !== 0 ? x! : y!),
        condition,
        a,
        b,
      );
    if (condition.per === "step") {
      // A choice of the step, not of the element: compare its uniform with 0.
      return this.select(
        this.element({
          op: "ne",
          a: this.node(condition),
          b: this.node(literal(0)),
        }),
        a,
        b,
      );
    }
    return this.element({
      op: "select",
      condition: condition.node,
      a: this.node(a),
      b: this.node(b),
    });
  }

  /** Splits a node of the form uniform * x. */
  #scaled(
    index: number,
  ): { factor: Value & { per: "step" }; value: Value } | undefined {
    const node = this.#nodes[index]!;
    if (node.op !== "mul") return undefined;
    const left = this.#nodes[(node as { a: number }).a]!;
    const value: Value = { per: "element", node: (node as { b: number }).b };
    if (left.op === "const") {
      return { factor: literal(left.value) as Value & { per: "step" }, value };
    }
    if (left.op !== "uniform") return undefined;
    for (const [key, { index: at, host }] of this.#uniforms)
      if (at === left.index)
        return { factor: { per: "step", key, host }, value };
    return undefined;
  }

  /** Drops what no output needs and numbers the rest anew. */
  finish(
    owner: string,
    states: Readonly<Record<string, StateKind>>,
    outputs: ReadonlyMap<string, number>,
  ): Program {
    const used = new Set<number>();
    const visit = (index: number) => {
      if (used.has(index)) return;
      used.add(index);
      for (const operand of operands(this.#nodes[index]!)) visit(operand);
    };
    for (const index of outputs.values()) visit(index);

    const renumbered = new Map<number, number>();
    const hosts: HostValue[] = [];
    const all = [...this.#uniforms.values()];
    const nodes: Node[] = [];
    const shapes: Shape[] = [];
    const levels: number[] = [];
    const small: boolean[] = [];
    this.#nodes.forEach((node, index) => {
      if (!used.has(index)) return;
      if (node.op === "uniform") {
        hosts.push(all[node.index]!.host);
        node = { op: "uniform", index: hosts.length - 1 };
      } else {
        node = mapOperands(node, (operand) => renumbered.get(operand)!);
      }
      renumbered.set(index, nodes.push(node) - 1);
      shapes.push(this.#shapes[index]!);
      const before = Math.max(0, ...operands(node).map((a) => levels[a]!));
      small.push(
        shapes.at(-1) !== "element" &&
          (node.op === "reduce" ||
            node.op === "input" ||
            operands(node).some((operand) => small[operand]!)),
      );
      const takesPass = node.op === "reduce" && shapes[node.a] === "element";
      levels.push(takesPass ? before + 1 : before);
    });
    return {
      owner,
      nodes,
      shapes,
      small,
      levels,
      passes: Math.max(0, ...levels),
      needsMatrix: shapes.some((shape) =>
        ["matrix", "row", "column"].includes(shape),
      ),
      states: Object.keys(states),
      stateShapes: Object.values(states).map(stateShape),
      outputs: new Map(
        [...outputs].map(([name, index]) => [name, renumbered.get(index)!]),
      ),
      uniformCount: hosts.length,
      uniforms: (scalars) => Float32Array.from(hosts, (host) => host(scalars)),
    };
  }
}

function stepValue(
  op: string,
  apply: (...values: number[]) => number,
  ...operands: (Value & { per: "step" })[]
): Value & { per: "step" } {
  const host: HostValue = (scalars) =>
    apply(...operands.map((operand) => operand.host(scalars)));
  const key = `${op}(${operands.map((operand) => operand.key).join(",")})`;
  return operands.every((operand) => operand.literal !== undefined)
    ? { per: "step", key, host, literal: host({}) }
    : { per: "step", key, host };
}

const reciprocal = (value: Value & { per: "step" }) =>
  stepValue("div", hostBinary.div, literal(1) as typeof value, value);

/** Indices of the nodes that a node reads. */
export function operands(node: Node): number[] {
  switch (node.op) {
    case "const":
    case "uniform":
    case "input":
      return [];
    case "select":
      return [node.condition, node.a, node.b];
    case "reduce":
      return [node.a];
    default:
      return "b" in node ? [node.a, node.b] : [node.a];
  }
}

function mapOperands(node: Node, map: (index: number) => number): Node {
  switch (node.op) {
    case "const":
    case "uniform":
    case "input":
      return node;
    case "select":
      return {
        op: "select",
        condition: map(node.condition),
        a: map(node.a),
        b: map(node.b),
      };
    case "reduce":
      return { ...node, a: map(node.a) };
    default:
      return "b" in node
        ? { op: node.op, a: map(node.a), b: map(node.b) }
        : { op: node.op, a: map(node.a) };
  }
}

/**
 * A back end: how to write each kind of node down. `T` is whatever stands for
 * a value there: a row of float32 numbers, a WGSL expression, a Wasm local.
 */
export interface Backend<T> {
  constant(value: number): T;
  uniform(index: number): T;
  input(name: string): T;
  unary(op: UnaryOp, a: T): T;
  binary(op: BinaryOp, a: T, b: T): T;
  compare(op: CompareOp, a: T, b: T): T;
  select(condition: T, a: T, b: T): T;
  /**
   * The value for an element of a node that is not per element; needed for
   * programs with reductions or with states that are not per element.
   */
  small?(index: number, shape: Shape): T;
}

/**
 * Whether a node has fewer values than there are elements and is no matter of
 * the step alone: code per element reads it instead of computing it.
 */
export function isSmall(program: Program, index: number): boolean {
  return program.small[index]!;
}

/**
 * Prints the nodes that `wanted` needs, each once and in order.
 *
 * @param given values already at hand, by node; they are not computed again
 * (a second phase that reads a new state back instead of recomputing it).
 * @returns the values of the wanted nodes.
 */
export function print<T>(
  program: Program,
  wanted: readonly number[],
  backend: Backend<T>,
  given: ReadonlyMap<number, T> = new Map(),
): T[] {
  const values = new Map<number, T>(given);
  const needed = neededNodes(program, wanted, new Set(given.keys()));
  program.nodes.forEach((node, index) => {
    if (!needed.has(index) || values.has(index)) return;
    const at = (operand: number) => values.get(operand)!;
    let value: T;
    if (isSmall(program, index)) {
      values.set(index, backend.small!(index, program.shapes[index]!));
      return;
    }
    switch (node.op) {
      case "reduce":
        throw new Error(`${program.owner}: a reduction is not per element`);
      case "const":
        value = backend.constant(node.value);
        break;
      case "uniform":
        value = backend.uniform(node.index);
        break;
      case "input":
        value = backend.input(node.name);
        break;
      case "select":
        // A small comparison was stored as 1 or 0: make it a condition again.
        value = backend.select(
          isSmall(program, node.condition)
            ? backend.compare("ne", at(node.condition), backend.constant(0))
            : at(node.condition),
          at(node.a),
          at(node.b),
        );
        break;
      default:
        if (!("b" in node)) value = backend.unary(node.op, at(node.a));
        else if (isCompare(node.op))
          value = backend.compare(node.op, at(node.a), at(node.b));
        else value = backend.binary(node.op, at(node.a), at(node.b));
    }
    values.set(index, value);
  });
  return wanted.map((index) => values.get(index)!);
}

/** The nodes reachable from `wanted` without going past `given`. */
export function neededNodes(
  program: Program,
  wanted: readonly number[],
  given: ReadonlySet<number> = new Set(),
): Set<number> {
  const needed = new Set<number>();
  const visit = (index: number) => {
    if (needed.has(index)) return;
    needed.add(index);
    if (given.has(index) || isSmall(program, index)) return;
    for (const operand of operands(program.nodes[index]!)) visit(operand);
  };
  for (const index of wanted) visit(index);
  return needed;
}

/** Names of the inputs (`p`, `g`, old states) that the wanted nodes read. */
export function inputsOf(
  program: Program,
  wanted: readonly number[],
  given: ReadonlySet<number> = new Set(),
): Set<string> {
  const names = new Set<string>();
  for (const index of neededNodes(program, wanted, given)) {
    const node = program.nodes[index]!;
    if (node.op === "input" && !given.has(index) && !isSmall(program, index))
      names.add(node.name);
  }
  return names;
}

/** The small nodes that code for the wanted nodes reads. */
export function smallNodesOf(
  program: Program,
  wanted: readonly number[],
  given: ReadonlySet<number> = new Set(),
): number[] {
  return [...neededNodes(program, wanted, given)]
    .filter((index) => isSmall(program, index) && !given.has(index))
    .sort((a, b) => a - b);
}

/** The reductions over elements that a pass (from 0) takes. */
export function reductionsOf(program: Program, pass: number): number[] {
  return program.nodes.flatMap((node, index) =>
    node.op === "reduce" &&
    program.shapes[node.a] === "element" &&
    program.levels[node.a] === pass
      ? [index]
      : [],
  );
}

/**
 * What must be finite for an element to take part, beside its gradient and new
 * states: what reductions take of the gradient alone, such as its square.
 */
export function watchedNodes(program: Program): number[] {
  const operands = program.nodes.flatMap((node) =>
    node.op === "reduce" && program.shapes[node.a] === "element"
      ? [node.a]
      : [],
  );
  return [...new Set(operands)].filter((index) => {
    const inputs = inputsOf(program, [index]);
    return (
      program.levels[index] === 0 &&
      inputs.size === 1 &&
      inputs.has("g") &&
      program.nodes[index]!.op !== "input"
    );
  });
}

/** What a reduction is taken of. */
export function reducedNode(program: Program, reduction: number): number {
  return (program.nodes[reduction] as Node & { op: "reduce" }).a;
}
