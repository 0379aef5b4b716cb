/**
 * An optimizer that keeps its state itself: new parameters from gradients in one
 * call, and all that an optimizer's handle can do (save, load, reports) beside.
 */
import { createOptimizer, createOptimizerSync } from "../../core/create.ts";
import type { OptimizerHandle } from "../../core/optimizer.ts";
import type { OptimizerOptions } from "../../core/settings.ts";
import type { Recipe } from "../../optimizers/define.ts";
import { isArray, type Jax, type Tensor, type Tree } from "./contract.ts";
import type { Reach } from "./reach.ts";
import { reachOf } from "./reaches.ts";
import { leavesOf, type Leaf } from "./tree.ts";

/** An optimizer of the core whose steps take trees of jax-js's arrays. */
export interface FusedOptimizer {
  /** State, learning rate, reports, checkpoints. Steps are taken below. */
  readonly handle: OptimizerHandle;
  /**
   * The next parameters: where the old ones were if nobody else holds them, and
   * in fresh arrays if somebody does. Consumes both trees.
   */
  step<P extends Tree>(params: P, gradients: P): Promise<P>;
  /** Frees the states and whatever else the engine keeps. */
  dispose(): void;
}

/**
 * An optimizer of the core for a tree of jax-js's arrays.
 *
 * @param recipe as for `createOptimizer`, such as `adamw8bit({ lr: 1e-3 })`
 * @param params for their names and shapes; nothing is consumed
 * @param options as for `createOptimizer`. A `device` makes steps run there, on
 * copies of the numbers; by default they run where the arrays are.
 */
export async function fusedOptimizer(
  jax: Jax,
  recipe: Recipe,
  params: Tree,
  options: OptimizerOptions = {},
): Promise<FusedOptimizer> {
  const leaves = leavesOf(recipe.name, params);
  const device = leaves.find(({ array }) => isArray(jax, array))?.array?.device;
  const reach =
    options.device === undefined && device !== undefined
      ? reachOf(jax, device)
      : undefined;
  return reach
    ? inPlace(jax, recipe, leaves, reach, options)
    : onCopies(jax, recipe, leaves, options);
}

const shapesOf = (leaves: readonly Leaf[]) =>
  Object.fromEntries(
    leaves.map(({ name, array }) => [name, { shape: array?.shape ?? [0] }]),
  );

/** The engine works on jax-js's own memory. */
function inPlace(
  jax: Jax,
  recipe: Recipe,
  leaves: readonly Leaf[],
  reach: Reach,
  { device: _, ...options }: OptimizerOptions,
): FusedOptimizer {
  const { tree } = jax;
  const handle = createOptimizerSync(recipe, shapesOf(leaves), {
    ...options,
    device: reach.engine,
    hostParameters: true,
  });
  const names = leaves.map(({ name }) => name);
  return {
    handle,
    async step(params, gradients) {
      const arrays = {
        parameters: arraysOf(recipe.name, params, names) as Tensor[],
        gradients: arraysOf(recipe.name, gradients, names),
        regions: [],
      };
      const all = [...arrays.gradients, ...arrays.parameters].filter(
        (array) => array !== undefined,
      );
      if (reach.waits) await jax.blockUntilReady(all);
      if (!reach.canStep(arrays))
        throw new Error(
          `${recipe.name}: the arrays are being computed by others at the same time, or lie on another device; wait for them first, with jax.blockUntilReady`,
        );
      const { results } = reach.step(arrays, {
        optimizer: handle,
        names,
        reads: names.map(() => true),
        form: "step",
      });
      const form = tree.structure(params);
      return tree.unflatten(form, results as never) as typeof params;
    },
    dispose: () => handle.dispose(),
  };
}

/** For devices that no engine reaches: numbers go to arrays of ours and back. */
async function onCopies(
  jax: Jax,
  recipe: Recipe,
  leaves: readonly Leaf[],
  options: OptimizerOptions,
): Promise<FusedOptimizer> {
  const { numpy: np, tree } = jax;
  const copies = Object.fromEntries(
    leaves.map(({ name, array }) => [
      name,
      {
        data: new Float32Array(array?.size ?? 0),
        shape: array?.shape ?? [0],
      },
    ]),
  );
  const handle = await createOptimizer(recipe, copies, options);
  const names = Object.keys(copies);
  return {
    handle,
    async step(params, gradients) {
      const before = arraysOf(recipe.name, params, names) as Tensor[];
      const given = arraysOf(recipe.name, gradients, names);
      const read = await Promise.all(
        given.map(async (array) => (await array?.data()) ?? null),
      );
      const { device } = before[0] ?? {};
      await Promise.all(
        before.map(async (array, i) =>
          copies[names[i]!]!.data.set((await array.data()) as Float32Array),
        ),
      );
      await handle.step(
        Object.fromEntries(names.map((name, i) => [name, read[i]])),
      );
      const next = names.map((name) => {
        const { data, shape } = copies[name]!;
        return np.array(data, {
          shape: [...shape],
          ...(device === undefined ? {} : { device }),
        });
      });
      return tree.unflatten(
        tree.structure(params),
        next as never,
      ) as typeof params;
    },
    dispose: () => handle.dispose(),
  };
}

/** @throws TypeError for a tree of another form. */
function arraysOf(
  owner: string,
  tree: Tree,
  names: readonly string[],
): (Tensor | undefined)[] {
  const leaves = leavesOf(owner, tree);
  names.forEach((name, i) => {
    if (leaves[i]?.name !== name || leaves.length !== names.length)
      throw new TypeError(
        `${owner}: the trees must have the form of the parameters it was made for; there is '${leaves[i]?.name ?? "nothing"}' where '${name}' was`,
      );
  });
  return leaves.map(({ array }) => array);
}
