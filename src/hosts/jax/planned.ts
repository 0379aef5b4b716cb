/** What a transformation works out once for a tree of parameters. */
import { createOptimizerSync, type SyncOptions } from "../../core/create.ts";
import type { OptimizerHandle } from "../../core/optimizer.ts";
import { stateBytes } from "../../formats/format.ts";
import {
  stateLength,
  type Engine,
  type EngineOptions,
  type HostStates,
  type Session,
  type TensorPlan,
} from "../../engines/engine.ts";
import type { Recipe } from "../../optimizers/define.ts";
import { readsParameter } from "./reads.ts";

export type CoreOptions = Omit<
  SyncOptions,
  "device" | "hostStates" | "hostParameters"
>;

export interface TensorShape {
  readonly name: string;
  readonly shape: readonly number[];
}

export interface Planned {
  readonly optimizer: OptimizerHandle;
  readonly tensors: readonly TensorPlan[];
  readonly options: EngineOptions;
  readonly layout: HostStates;
  /** By tensor: whether an update depends on the parameter. */
  readonly reads: readonly boolean[];
}

/** @param engine where steps run; its sessions must leave the states to their host. */
export function planTensors(
  recipe: Recipe,
  tensors: readonly TensorShape[],
  engine: Engine,
  options: CoreOptions,
): Planned {
  let seen: { tensors: readonly TensorPlan[]; options: EngineOptions };
  const watched: Engine = {
    ...engine,
    createSessionSync(plans, given) {
      seen = { tensors: plans, options: given };
      return engine.createSessionSync!(plans, given);
    },
  };
  const optimizer = createOptimizerSync(
    recipe,
    Object.fromEntries(tensors.map(({ name, shape }) => [name, { shape }])),
    { ...options, device: watched, hostStates: true, hostParameters: true },
  );
  // The rate varies as well, so that no schedule's values pass for constants.
  const samples = [
    optimizer.uniformsAt(2, 0.37),
    optimizer.uniformsAt(3, 0.53),
    optimizer.uniformsAt(50, 0.11),
  ];
  return {
    optimizer,
    ...seen!,
    layout: optimizer.hostStates!,
    reads: seen!.tensors.map(({ program }, i) =>
      readsParameter(
        program,
        samples.map((one) => one[i]!),
      ),
    ),
  };
}

/** An engine that only says where states lie: steps are the host's own operations. */
export function layoutEngine(
  layoutOf: (plans: readonly TensorPlan[]) => HostStates,
): Engine {
  const refuse = (): never => {
    throw new Error("jax-js: this plan takes no steps of its own");
  };
  const createSessionSync = (plans: readonly TensorPlan[]): Session => ({
    description: "operations of jax-js",
    hostStates: layoutOf(plans),
    step: refuse,
    stepSync: refuse,
    report: () => ({ nonFinite: 0, gradNorm: undefined, skipped: false }),
    readState: refuse,
    writeState: refuse,
    readParameter: refuse,
    writeParameter: refuse,
    parameter: refuse,
    gradient: refuse,
    stateBytes: (tensor, state) => {
      const plan = plans[tensor]!;
      return stateBytes(
        plan.formats[state]!,
        stateLength(plan, state),
        plan.shape,
      );
    },
    workspaceBytes: () => 0,
    dispose() {},
  });
  return {
    name: "jax-js",
    createSession: async (plans) => createSessionSync(plans),
    createSessionSync,
  };
}
