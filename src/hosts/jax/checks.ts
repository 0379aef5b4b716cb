/** What a tree must be like, checked before anything of it is consumed. */
import { isArray, type Jax, type Tensor } from "./contract.ts";
import { shapeOf, type Leaf } from "./tree.ts";

/** @throws TypeError for an array that was consumed. */
export function checkAlive(
  jax: Jax,
  owner: string,
  { name, array }: Leaf,
  what: string,
): void {
  if (array && isArray(jax, array) && array.refCount <= 0)
    throw new TypeError(
      `${owner}: the ${what} '${name}' was consumed before; pass it with .ref where it is used again`,
    );
}

/**
 * @param what goes with the parameters: gradients, in most places.
 * @throws TypeError for trees of different forms, or leaves of different shapes.
 */
export function checkPairs(
  owner: string,
  what: string,
  parameters: readonly Leaf[],
  others: readonly Leaf[],
): void {
  if (parameters.length !== others.length)
    throw new TypeError(
      `${owner}: there are ${parameters.length} parameters and ${others.length} ${what}s; pass trees of the same form`,
    );
  parameters.forEach(({ name, array }, i) => {
    const other = others[i]!;
    if (name !== other.name)
      throw new TypeError(
        `${owner}: the parameter '${name}' has no ${what}, where '${other.name}' has; pass trees of the same form`,
      );
    if (array && other.array && !sameShape(array.shape, other.array.shape))
      throw new TypeError(
        `${owner}: the parameter '${name}' has shape [${array.shape.join(", ")}], and its ${what} [${other.array.shape.join(", ")}]`,
      );
  });
}

const sameShape = (a: readonly number[], b: readonly number[]) =>
  a.length === b.length && a.every((n, i) => n === b[i]);

/** What a tree is known by. */
export interface TreeShape {
  readonly device: Tensor["device"];
  readonly names: readonly string[];
  readonly shapes: readonly (readonly number[])[];
}

export const treeShape = (
  device: Tensor["device"],
  leaves: readonly Leaf[],
): TreeShape => ({
  device,
  names: leaves.map(({ name }) => name),
  shapes: leaves.map(({ array }) => shapeOf(array)),
});

export const hasShape = (
  { device, names, shapes }: TreeShape,
  on: string,
  leaves: readonly Leaf[],
): boolean =>
  device === on &&
  names.length === leaves.length &&
  leaves.every(
    ({ name, array }, i) =>
      name === names[i] && sameShape(shapeOf(array), shapes[i]!),
  );
