/** The leaves of a tree by the names that overrides and error messages use. */
import { isArray, type Jax, type Tensor, type Tree } from "./contract.ts";

export interface Leaf {
  /** The path, as `blocks.0.weight`; `parameter` for a tree of one array alone. */
  readonly name: string;
  /** Undefined where the tree has null: such a leaf is left out of a step. */
  readonly array: Tensor | undefined;
}

/** A leaf that is left out has no elements. */
export const shapeOf = (array: Tensor | undefined): readonly number[] =>
  array?.shape ?? [0];

/** Where arrays lie, by the first that is one; undefined for tracers. */
export const deviceOf = (
  jax: Pick<Jax, "Array">,
  leaves: readonly Leaf[],
): Tensor["device"] | undefined =>
  leaves.find(({ array }) => isArray(jax, array))?.array?.device;

/** In the order of `tree.flatten`. @throws TypeError for leaves that are no arrays. */
export function leavesOf(owner: string, tree: Tree): Leaf[] {
  if (tree === null || tree === undefined)
    throw new TypeError(
      `${owner}: parameters and gradients are arrays of jax-js, in objects or lists, given ${String(tree)}`,
    );
  const leaves: Leaf[] = [];
  walk(tree, "", (name, value) => {
    if (value !== null && value !== undefined && !isTensor(value))
      throw new TypeError(
        `${owner}: '${name || "parameter"}' is no array of jax-js, given ${Object.prototype.toString.call(value).slice(8, -1)}`,
      );
    leaves.push({ name: name || "parameter", array: value ?? undefined });
  });
  return leaves;
}

/** Calls back with the path of every leaf, in the order of `tree.flatten`. */
export function walk(
  tree: unknown,
  path: string,
  visit: (path: string, leaf: unknown) => void,
): void {
  const below = (key: string | number) =>
    path === "" ? String(key) : `${path}.${key}`;
  if (Array.isArray(tree))
    tree.forEach((child, i) => walk(child, below(i), visit));
  else if (
    typeof tree === "object" &&
    tree !== null &&
    tree.constructor === Object
  )
    for (const [key, child] of Object.entries(tree))
      walk(child, below(key), visit);
  else visit(path, tree);
}

const isTensor = (value: unknown): value is Tensor =>
  typeof value === "object" &&
  value !== null &&
  "shape" in value &&
  "dtype" in value &&
  "ref" in value;
