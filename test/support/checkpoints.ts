/** Optimizers for the tests of checkpoints, over tensors of every kind of shape. */
import {
  createOptimizer,
  type OptimizerHandle,
  type OptimizerOptions,
  type Recipe,
} from "lowbit";
import type { EngineEntry } from "./engines.ts";
import { gradientAt, normals } from "./numbers.ts";

/** Sizes that are no multiple of anything, one block and several, three axes. */
export const shapes: Readonly<Record<string, readonly number[]>> = {
  matrix: [17, 19],
  vector: [301],
  "batch/of.matrices": [2, 8, 16],
  one: [1],
};

const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

export type Arrays = Record<string, Float32Array<ArrayBuffer>>;

export interface Run {
  readonly optimizer: OptimizerHandle;
  readonly parameters: Arrays;
}

/** An optimizer on an engine, over parameters of its own. */
export async function runOn(
  engine: Pick<EngineEntry, "open">,
  recipe: Recipe,
  {
    from,
    shapes: given = shapes,
    ...options
  }: Omit<OptimizerOptions, "device" | "threads"> & {
    readonly from?: Arrays;
    readonly shapes?: Readonly<Record<string, readonly number[]>>;
  } = {},
): Promise<Run> {
  const parameters = Object.fromEntries(
    Object.entries(given).map(([name, shape], i) => [
      name,
      from?.[name]?.slice() ?? normals(sizeOf(shape), 40 + i, 0.5),
    ]),
  );
  const optimizer = await createOptimizer(
    recipe,
    Object.fromEntries(
      Object.entries(given).map(([name, shape]) => [
        name,
        { data: parameters[name]!, shape },
      ]),
    ),
    { minQuantizedSize: 0, ...options, ...(await engine.open()) },
  );
  return { optimizer, parameters };
}

/** Takes the steps (or adds the gradients) with these numbers. */
export async function advance(
  { optimizer, parameters }: Run,
  ...steps: number[]
): Promise<void> {
  for (const step of steps)
    await optimizer.step(
      Object.fromEntries(
        Object.entries(parameters).map(([name, { length }], i) => [
          name,
          gradientAt(length, 3 + i, step),
        ]),
      ),
    );
}
