/**
 * An optimizer as optax's gradient transformation. A step is taken by one of our
 * engines where the arrays are numbers that it can reach, and else (inside
 * `jit`, on other backends) by operations of jax-js on the same state.
 */
import type { MemoryReport } from "../../core/memory.ts";
import type { Stats } from "../../core/reports.ts";
import { wasmHostStates } from "../../engines/wasm/engine.ts";
import type { Hyper } from "../../optimizers/definition.ts";
import type { OptimizerFactory } from "../../optimizers/define.ts";
import {
  isArray,
  type GradientTransformation,
  type Jax,
  type OptState,
  type ScalarOrSchedule,
  type Tensor,
  type Tree,
} from "./contract.ts";
import {
  checkAlive,
  checkPairs,
  hasShape,
  treeShape,
  type TreeShape,
} from "./checks.ts";
import { stepCompiled, stepTraced, type OperationsPlan } from "./compiled.ts";
import { Counts } from "./counts.ts";
import type { Reach, StepArrays, StepResult } from "./reach.ts";
import { maskOverrides, sortOptions, type HostOptions } from "./options.ts";
import { layoutEngine, planTensors } from "./planned.ts";
import { reachOf } from "./reaches.ts";
import { deviceOf, leavesOf, type Leaf } from "./tree.ts";

/** An optimizer of lowbit on jax-js. Every function consumes its arrays, as jax-js's do. */
export interface JaxOptimizer extends GradientTransformation {
  /**
   * Update and addition in one: new parameters, written where the old ones were
   * if nobody else holds them, and into fresh arrays if somebody does.
   */
  step<P extends Tree>(
    params: P,
    gradients: P,
    state: OptState,
  ): Promise<[P, OptState]>;
  /** What the state of these parameters takes; consumes nothing. */
  memory(params: Tree): MemoryReport;
  /** What happened in the last step that an engine took; undefined before, and for steps by operations. */
  stats(): Stats | Promise<Stats> | undefined;
  /** What the last step ran on: an engine, or `operations of jax-js`. */
  readonly device: string | undefined;
  /** Frees what the engines keep beside the state: tables and scratch. */
  dispose(): void;
}

/** Makes an optimizer from its learning rate and options. */
export type JaxOptimizerFactory<H extends Hyper = Hyper> = (
  learningRate: ScalarOrSchedule,
  options?: HostOptions<H>,
) => JaxOptimizer;

/** A plan for a tree of parameters on a device. */
interface TreePlan extends OperationsPlan, TreeShape {
  /** Undefined where no engine reaches the arrays. */
  readonly reach: Reach | undefined;
}

/** What a step is asked for, checked. */
interface Asked {
  readonly plan: TreePlan;
  readonly arrays: StepArrays;
  readonly state: OptState;
  readonly form: "step" | "update";
}

const byOperations = "operations of jax-js";

export function makeOptimizer(
  jax: Jax,
  factory: OptimizerFactory,
  learningRate: ScalarOrSchedule,
  options: Readonly<Record<string, unknown>> = {},
): JaxOptimizer {
  const { numpy: np, tree } = jax;
  const { recipe, core, mask } = sortOptions(factory, learningRate, options);
  const owner = recipe.name;
  const { seed = 0, maxGradNorm } = core;
  const settings = { jax, seed, maxGradNorm };
  const plans: TreePlan[] = [];
  const counts = new Counts(jax);
  let last:
    { device: string; stats?: () => Stats | Promise<Stats> } | undefined;

  function planFor(given: Tree, leaves: readonly Leaf[]): TreePlan {
    const device = deviceOf(jax, leaves) ?? jax.defaultDevice();
    const known = plans.find((plan) => hasShape(plan, device, leaves));
    if (known) return known;
    const shape = treeShape(device, leaves);
    const { names, shapes } = shape;
    const reach = reachOf(jax, device);
    const planned = planTensors(
      recipe,
      names.map((name, i) => ({ name, shape: shapes[i]! })),
      reach?.engine ?? layoutEngine(wasmHostStates),
      {
        ...core,
        overrides: [
          ...(core.overrides ?? []),
          ...maskOverrides(owner, mask, given, names),
        ],
      },
    );
    const plan: TreePlan = {
      ...planned,
      ...shape,
      reach,
      recompute: device === "webgpu",
      table: undefined,
      compiled: new Map(),
    };
    plans.push(plan);
    return plan;
  }

  function init<P extends Tree>(params: P): OptState {
    const leaves = leavesOf(owner, params);
    for (const leaf of leaves) checkLeaf(leaf, "parameter");
    const { layout, device } = planFor(params, leaves);
    const where = device === jax.defaultDevice() ? {} : { device };
    const states = layout.regions.map((region) =>
      np.array(new Uint32Array(region.initial().buffer), where),
    );
    tree.dispose(params);
    return { count: counts.make(0), states };
  }

  function checkLeaf(leaf: Leaf, what: string): void {
    const { name, array } = leaf;
    checkAlive(jax, owner, leaf, what);
    if (array && array.dtype !== "float32")
      throw new TypeError(
        `${owner}: the ${what} '${name}' must be float32, given ${array.dtype}`,
      );
  }

  /** Checks everything that can be wrong, before anything is consumed. */
  function ask(
    updates: Tree,
    state: OptState,
    params: Tree | undefined,
    form: Asked["form"],
  ): Asked {
    const leaves = leavesOf(owner, updates);
    for (const leaf of leaves) checkLeaf(leaf, "gradient");
    const given = params === undefined ? undefined : leavesOf(owner, params);
    if (given) {
      for (const leaf of given) checkLeaf(leaf, "parameter");
      checkPairs(owner, "gradient", given, leaves);
    }
    // A gradient that is left out has its parameter's shape.
    const plan = planFor(
      params ?? updates,
      leaves.map((leaf, i) => ({
        ...leaf,
        array: leaf.array ?? given?.[i]?.array,
      })),
    );
    if (!given && plan.reads.some(Boolean))
      throw new TypeError(
        `${owner}: this formula reads the parameters (weight decay, or their norms); pass them as the third argument, update(gradients, state, params)`,
      );
    checkState(state, plan);
    return {
      plan,
      state,
      form,
      arrays: {
        gradients: leaves.map(({ array }) => array),
        parameters: given?.map(({ array }) => array!),
        regions: state.states,
      },
    };
  }

  function checkState(state: OptState, { layout }: TreePlan): void {
    const words = layout.regions.map(({ bytes }) => bytes / 4);
    const { count, states } = state ?? {};
    if (!count || !Array.isArray(states))
      throw new TypeError(
        `${owner}: the state must be what init gave, { count, states }`,
      );
    if (
      states.length !== words.length ||
      states.some((array, i) => array.size !== words[i])
    )
      throw new TypeError(
        `${owner}: the state is not of these parameters and options: it holds ${states.map(({ size }) => size).join(" and ")} words, and they take ${words.join(" and ")}`,
      );
    for (const array of [count, ...states]) {
      if (array.dtype !== "uint32")
        throw new TypeError(
          `${owner}: the arrays of the state are uint32, given ${array.dtype}`,
        );
      if (isArray(jax, array) && array.refCount <= 0)
        throw new TypeError(
          `${owner}: the state was consumed by an update before; go on with the one that update gave, or keep it with tree.ref(state)`,
        );
    }
  }

  function take({ plan, arrays, state, form }: Asked): StepResult & {
    count: Tensor;
  } {
    const { reach, optimizer, names, reads } = plan;
    const all = [
      ...arrays.gradients,
      ...(arrays.parameters ?? []),
      ...arrays.regions,
    ];
    const eager = all.every((array) => !array || isArray(jax, array));
    const before = eager ? counts.read(state.count, reach) : undefined;
    if (reach && before !== undefined && reach.canStep(arrays)) {
      const step = before + 1;
      const result = reach.step(arrays, {
        optimizer,
        names,
        reads,
        step,
        form,
      });
      state.count.dispose();
      last = { device: optimizer.device, stats: () => optimizer.stats() };
      return { ...result, count: counts.make(step) };
    }
    last = { device: byOperations };
    if (before === undefined)
      return stepTraced(settings, plan, arrays, state.count, form);
    const result = stepCompiled(settings, plan, arrays, before + 1, form);
    state.count.dispose();
    return { ...result, count: counts.make(before + 1) };
  }

  /** The results in the form of the tree; what was left out is as it was. */
  function unflatten<P extends Tree>(
    like: P,
    results: readonly (Tensor | undefined)[],
  ): P {
    const [leaves, form] = tree.flatten(like);
    return tree.unflatten(
      form,
      leaves.map((leaf, i) => results[i] ?? leaf),
    ) as P;
  }

  return {
    init,
    update(updates, state, params) {
      const asked = ask(updates, state, params, "update");
      const { results, regions, count } = take(asked);
      return [unflatten(updates, results), { count, states: [...regions] }];
    },
    async step(params, gradients, state) {
      leavesOf(owner, params); // may not be left out here
      const asked = ask(gradients, state, params, "step");
      const { gradients: given, parameters = [] } = asked.arrays;
      // What worker threads have yet to compute can only be waited for.
      if (asked.plan.reach?.waits)
        await jax.blockUntilReady(
          [...given, ...parameters, ...state.states].filter(
            (array) => array !== undefined,
          ),
        );
      const { results, regions, count } = take(asked);
      return [unflatten(params, results), { count, states: [...regions] }];
    },
    memory(params) {
      const leaves = leavesOf(owner, params);
      return planFor(params, leaves).optimizer.memory();
    },
    stats: () => last?.stats?.(),
    get device() {
      return last?.device;
    },
    dispose() {
      for (const { optimizer } of plans) optimizer.dispose();
      plans.length = 0;
      last = undefined;
    },
  };
}
