/**
 * The nodes of a program as they come into being: each operation on the same
 * operands once, what is the step's alone on the host, factors gathered.
 */
import type { BinaryOp, CompareOp, UnaryOp } from "./parse.ts";
import {
  operands,
  stateShape,
  widest,
  type Node,
  type Program,
  type Shape,
  type StateKind,
} from "./program.ts";
import {
  literal,
  reciprocal,
  stepBinary,
  stepUnary,
  stepValue,
  type ElementValue,
  type HostValue,
  type StepValue,
  type Value,
} from "./values.ts";

/** Hash-consing builder: equal operations on equal operands share one node. */
export class Builder {
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
  ): ElementValue {
    const key = JSON.stringify(node);
    let index = this.#byKey.get(key);
    if (index === undefined) {
      index = this.#nodes.push(node) - 1;
      this.#shapes.push(shape);
      this.#byKey.set(key, index);
    }
    return { per: "element", node: index };
  }

  /** A value of the step is one number. */
  shape(value: Value): Shape {
    return value.per === "step" ? "one" : this.#shapes[value.node]!;
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
    if (a.per === "step") return stepValue(op, stepUnary[op], a);
    return this.element({ op, a: a.node });
  }

  binary(op: BinaryOp | CompareOp, a: Value, b: Value): Value {
    if (a.per === "step" && b.per === "step")
      return stepValue(op, stepBinary[op], a, b);
    if (op === "div" && b.per === "step")
      return this.binary("mul", a, reciprocal(b));
    if (op === "mul" && b.per === "step") return this.binary("mul", b, a);
    if (op === "mul" && a.per === "step" && b.per === "element") {
      // u1 * (u2 * x) is (u1 * u2) * x: one product an element less.
      const inner = this.#scaled(b.node);
      if (inner)
        return this.binary(
          "mul",
          stepValue("mul", stepBinary.mul, a, inner.factor),
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
  #scaled(index: number): { factor: StepValue; value: Value } | undefined {
    const node = this.#nodes[index]!;
    if (node.op !== "mul") return undefined;
    const left = this.#nodes[(node as { a: number }).a]!;
    const value: Value = { per: "element", node: (node as { b: number }).b };
    if (left.op === "const") {
      return { factor: literal(left.value), value };
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
    const used = this.#reachable(outputs.values());
    const renumbered = new Map<number, number>();
    const hosts: HostValue[] = [];
    const all = [...this.#uniforms.values()];
    const nodes: Node[] = [];
    const shapes: Shape[] = [];
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
    });
    const levels = levelsOf(nodes, shapes);
    return {
      owner,
      nodes,
      shapes,
      small: smallnessOf(nodes, shapes),
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

  #reachable(outputs: Iterable<number>): Set<number> {
    const used = new Set<number>();
    const visit = (index: number) => {
      if (used.has(index)) return;
      used.add(index);
      for (const operand of operands(this.#nodes[index]!)) visit(operand);
    };
    for (const index of outputs) visit(index);
    return used;
  }
}

/** See {@link Program.small}. */
function smallnessOf(
  nodes: readonly Node[],
  shapes: readonly Shape[],
): boolean[] {
  const small: boolean[] = [];
  nodes.forEach((node, index) =>
    small.push(
      shapes[index] !== "element" &&
        (node.op === "reduce" ||
          node.op === "input" ||
          operands(node).some((operand) => small[operand]!)),
    ),
  );
  return small;
}

/** See {@link Program.levels}. */
function levelsOf(nodes: readonly Node[], shapes: readonly Shape[]): number[] {
  const levels: number[] = [];
  for (const node of nodes) {
    const before = Math.max(0, ...operands(node).map((a) => levels[a]!));
    const takesPass = node.op === "reduce" && shapes[node.a] === "element";
    levels.push(takesPass ? before + 1 : before);
  }
  return levels;
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
