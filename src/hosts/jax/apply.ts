/**
 * optax's `applyUpdates`: an engine adds to all tensors at once, where they are,
 * as in a step of an optimizer without state. jax-js's own addition takes a
 * kernel, and an array, for each of them.
 */
import { createOptimizerSync } from "../../core/create.ts";
import type { OptimizerHandle } from "../../core/optimizer.ts";
import { defineOptimizer } from "../../optimizers/define.ts";
import {
  checkAlive,
  checkPairs,
  hasShape,
  treeShape,
  type TreeShape,
} from "./checks.ts";
import { isArray, type Jax, type Tensor, type Tree } from "./contract.ts";
import type { Reach } from "./reach.ts";
import { reachOf } from "./reaches.ts";
import { deviceOf, leavesOf, type Leaf } from "./tree.ts";

const addition = /* @__PURE__ */ defineOptimizer({
  name: "addition",
  hyper: { lr: 0 },
  state: {},
  update: "p = p + g",
});

/**
 * Adds updates to parameters, and consumes both.
 *
 * @param params a tree of arrays. Where nobody else holds one, the sum is
 * written in its place, else into a fresh array.
 * @param updates a tree of the same form, as `update` gives it; null leaves a
 * parameter as it is.
 * @returns the sums, to the bit what `add` makes them.
 * @throws TypeError for trees that do not go together, or arrays that were consumed before;
 * nothing is consumed then.
 */
export type ApplyUpdates = <P extends Tree>(params: P, updates: P) => P;

interface Plan extends TreeShape {
  readonly optimizer: OptimizerHandle;
  readonly reach: Reach;
}

/** Few trees are added to in a program, and an engine keeps little for one. */
const plans = /* @__PURE__ */ new WeakMap<Jax, Plan[]>();
const owner = "applyUpdates";

/** See {@link ApplyUpdates}. */
export function applyUpdatesOn<P extends Tree>(
  jax: Jax,
  params: P,
  updates: P,
): P {
  const parameters = leavesOf(owner, params);
  const changes = leavesOf(owner, updates);
  for (const leaf of parameters) checkAlive(jax, owner, leaf, "parameter");
  for (const leaf of changes) checkAlive(jax, owner, leaf, "update");
  checkPairs(owner, "update", parameters, changes);
  const results =
    byEngine(jax, parameters, changes) ??
    parameters.map(({ array }, i) => {
      const change = changes[i]!.array;
      return array && change ? array.add(change) : array;
    });
  const [leaves, form] = jax.tree.flatten(params);
  return jax.tree.unflatten(
    form,
    leaves.map((leaf, i) => results[i] ?? leaf),
  ) as P;
}

/** Undefined where no engine reaches all arrays. */
function byEngine(
  jax: Jax,
  parameters: readonly Leaf[],
  changes: readonly Leaf[],
): readonly (Tensor | undefined)[] | undefined {
  const arrays = parameters.map(({ array }) => array);
  const added = changes.map(({ array }) => array);
  const fit = (array: Tensor | undefined) =>
    isArray(jax, array) && array.dtype === "float32";
  if (!arrays.every(fit) || !added.every((one) => !one || fit(one)))
    return undefined;
  const device = deviceOf(jax, parameters);
  const plan = device && planFor(jax, device, parameters);
  if (!plan) return undefined;
  const { reach, optimizer, names } = plan;
  const step = {
    gradients: added,
    parameters: arrays as Tensor[],
    regions: [],
  };
  if (!reach.canStep(step)) return undefined;
  const how = { optimizer, names, reads: names.map(() => true) };
  return reach.step(step, { ...how, form: "step" }).results;
}

function planFor(
  jax: Jax,
  device: Tensor["device"],
  leaves: readonly Leaf[],
): Plan | undefined {
  let own = plans.get(jax);
  if (!own) plans.set(jax, (own = []));
  const known = own.find((plan) => hasShape(plan, device, leaves));
  if (known) return known;
  const reach = reachOf(jax, device);
  if (!reach) return undefined;
  const shape = treeShape(device, leaves);
  const optimizer = createOptimizerSync(
    addition(),
    Object.fromEntries(
      shape.names.map((name, i) => [name, { shape: shape.shapes[i]! }]),
    ),
    { device: reach.engine, hostParameters: true, skipNonFinite: "off" },
  );
  const plan = { ...shape, optimizer, reach };
  own.push(plan);
  return plan;
}
