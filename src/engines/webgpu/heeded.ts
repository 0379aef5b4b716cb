/** Which nodes of a program a kernel computes, and by which of them elements are left out. */
import {
  reducedNode,
  watchedNodes,
  type Program,
} from "../../formula/program.ts";
import type { Take } from "./small.ts";

/** Nodes that an update computes: new states per element, and what is watched. */
export function stateNodes(program: Program): number[] {
  return [
    ...program.states
      .filter((_, s) => program.stateShapes[s] === "element")
      .map((name) => program.outputs.get(name)!),
    ...watchedNodes(program),
  ];
}

/** Nodes that a pass computes for each element. */
export function wantedNodes(
  program: Program,
  takes: readonly Take[],
): number[] {
  const wanted = takes.flatMap(({ of }) =>
    of.kind === "node"
      ? [reducedNode(program, of.node)]
      : heededNodes(program, takes),
  );
  return [...new Set(wanted)];
}

/**
 * What decides in a pass whether an element is left out: the states that it
 * takes, and of the others those that may fail where the gradient is finite.
 * (One that holds the gradient itself may overflow, but then so does its square,
 * or the state would not be what it is.)
 */
export function heededNodes(
  program: Program,
  takes: readonly Take[],
): number[] {
  const taken = takes.flatMap(({ of }) =>
    of.kind === "rank1"
      ? [program.outputs.get(program.states[of.state]!)!]
      : [],
  );
  const others = stateNodes(program).filter(
    (node) => !carriesGradient(program, node),
  );
  return [...new Set([...taken, ...others])];
}

/**
 * Whether a node is not finite whenever the gradient is not: then looking at
 * it is enough, and the gradient itself need not be looked at.
 */
export function carriesGradient(program: Program, node: number): boolean {
  const one = program.nodes[node]!;
  switch (one.op) {
    case "input":
      return one.name === "g";
    case "add":
    case "sub":
    case "mul":
      return carriesGradient(program, one.a) || carriesGradient(program, one.b);
    case "neg":
    case "abs":
    case "div":
      return carriesGradient(program, one.a);
    default:
      return false;
  }
}
