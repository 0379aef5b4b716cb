import type { Program } from "../../formula/program.ts";

/**
 * Whether a gradient that is not finite always makes some new state not finite,
 * so that watching the states is enough. True for every optimizer that averages
 * gradients: sums, products and quotients keep Infinity and NaN visible.
 */
export function alwaysShows(program: Program): boolean {
  const shows: boolean[] = [];
  program.nodes.forEach((node, index) => {
    switch (node.op) {
      case "input":
        shows[index] = node.name === "g";
        break;
      case "add":
      case "sub":
      case "mul":
        shows[index] = shows[node.a]! || shows[node.b]!;
        break;
      case "div":
      case "neg":
      case "abs":
        shows[index] = shows[node.a]!;
        break;
      default:
        shows[index] = false;
    }
  });
  return program.states.some((name) => shows[program.outputs.get(name)!]);
}
