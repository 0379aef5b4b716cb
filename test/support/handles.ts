/** Optimizers on the reference engine, of vectors by name. */
import {
  adamw,
  createOptimizer,
  type OptimizerOptions,
  type Recipe,
} from "lowbit";
import { normals } from "./numbers.ts";

export const device = "reference";

/** Parameters of these sizes by name. */
export const parametersOf = (sizes: Readonly<Record<string, number>>) =>
  Object.fromEntries(
    Object.entries(sizes).map(([name, size], i) => [
      name,
      { data: normals(size, i + 1), shape: [size] },
    ]),
  );

/** An optimizer and its parameters. */
export const open = (
  sizes: Readonly<Record<string, number>>,
  recipe: Recipe = adamw({ bits: 8 }),
  options: OptimizerOptions = {},
) => {
  const parameters = parametersOf(sizes);
  return createOptimizer(recipe, parameters, { device, ...options }).then(
    (optimizer) => ({ optimizer, parameters }),
  );
};
