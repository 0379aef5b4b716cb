/**
 * Whether a step must see the parameters. An update is p's new value less the
 * old: where the formula only adds to p, the sum is known without it.
 */
import type { Node, Program } from "../../formula/program.ts";

/** How a value depends on p: not at all, as p plus what does not, or otherwise. */
type Dependence = "free" | "plus" | "mixed";

interface Known {
  readonly depends: Dependence;
  /** Where the value is a number, the same in every step. */
  readonly number?: number;
}

/** @param samples uniforms of several steps and rates; what is equal in all counts as known. */
export function readsParameter(
  program: Program,
  samples: readonly Float32Array[],
): boolean {
  const values: Known[] = [];
  program.nodes.forEach((node) => values.push(follow(node, values, samples)));
  for (const [name, index] of program.outputs) {
    const { depends } = values[index]!;
    if (name === "p" ? depends !== "plus" : depends !== "free") return true;
  }
  return false;
}

const free: Known = { depends: "free" };
const mixed: Known = { depends: "mixed" };

function follow(
  node: Node,
  values: readonly Known[],
  samples: readonly Float32Array[],
): Known {
  switch (node.op) {
    case "const":
      return { depends: "free", number: node.value };
    case "uniform": {
      const [first, ...rest] = samples.map((one) => one[node.index]!);
      return rest.every((value) => value === first)
        ? { depends: "free", number: first! }
        : free;
    }
    case "input":
      return node.name === "p" ? { depends: "plus" } : free;
    case "reduce":
      return values[node.a]!.depends === "free" ? free : mixed;
    case "select": {
      const [condition, a, b] = [node.condition, node.a, node.b].map(
        (i) => values[i]!,
      ) as [Known, Known, Known];
      if (condition.depends !== "free") return mixed;
      return a.depends === b.depends ? { depends: a.depends } : mixed;
    }
    default: {
      const a = values[node.a]!;
      if (!("b" in node)) return a.depends === "free" ? free : mixed;
      return combine(node.op, a, values[node.b]!);
    }
  }
}

function combine(op: string, a: Known, b: Known): Known {
  if (op === "mul") {
    if (a.number === 0 || b.number === 0) return { depends: "free", number: 0 };
    if (a.number === 1) return b;
    if (b.number === 1) return a;
  }
  if (a.depends === "free" && b.depends === "free") return free;
  if (op === "add" && (a.depends === "free" || b.depends === "free"))
    return a.depends === "free"
      ? { depends: b.depends }
      : { depends: a.depends };
  if (op === "sub" && b.depends === "free") return { depends: a.depends };
  // x / 1, as of a decay that divides.
  if (op === "div" && b.number === 1) return a;
  return mixed;
}
