/**
 * Steps by operations of jax-js: inside a `jit` of the user's, or, where no engine
 * reaches the arrays, compiled here.
 */
import { randomKey } from "../../formats/random.ts";
import type { Jax, Tensor } from "./contract.ts";
import {
  stepByOperations,
  type Operations,
  type StepValues,
} from "./operations.ts";
import type { Planned } from "./planned.ts";
import type { StepArrays, StepResult } from "./reach.ts";
import { StepTable, tracedStep } from "./steps.ts";

/** What an optimizer has for all trees. */
interface Settings {
  readonly jax: Jax;
  readonly seed: number;
  readonly maxGradNorm: number | undefined;
}

type Form = Operations["form"];

/** A plan, and what steps by operations keep with it. */
export interface OperationsPlan extends Planned, Pick<Operations, "recompute"> {
  table: StepTable | undefined;
  /** By form, and by which gradients there are. */
  readonly compiled: Map<string, (args: JitArguments) => JitResult>;
}

type JitArguments = {
  gradients: Tensor[];
  parameters: Tensor[];
  regions: Tensor[];
  uniforms: Tensor[];
  keys: Tensor;
};
type JitResult = { results: Tensor[]; regions: Tensor[] };

/** The step's number is an array: its values come from a table. */
export function stepTraced(
  { jax, seed, maxGradNorm }: Settings,
  plan: OperationsPlan,
  arrays: StepArrays,
  count: Tensor,
  form: Form,
): StepResult & { count: Tensor } {
  const { numpy: np } = jax;
  plan.table ??= new StepTable(plan.optimizer);
  const step = count.add(np.array(1, { dtype: np.uint32 }));
  const values = tracedStep(jax, plan.table, step, seed);
  const operations = { ...plan, maxGradNorm, form };
  return { ...stepByOperations(jax, arrays, values, operations), count: step };
}

/** @param step number of the step, from 1. */
export function stepCompiled(
  settings: Settings,
  plan: OperationsPlan,
  arrays: StepArrays,
  step: number,
  form: Form,
): StepResult {
  const { jax, seed } = settings;
  const { numpy: np } = jax;
  const { gradients, parameters, regions } = arrays;
  const present = gradients.map((gradient) => gradient !== undefined);
  const key = JSON.stringify([form, present, parameters !== undefined]);
  let run = plan.compiled.get(key);
  if (!run) {
    const withParameters = parameters !== undefined;
    run = compile(settings, plan, present, withParameters, form);
    plan.compiled.set(key, run);
  }
  const { results, regions: next } = run({
    gradients: gradients.filter((gradient) => gradient !== undefined),
    parameters: [...(parameters ?? [])],
    regions: [...regions],
    uniforms: plan.optimizer
      .uniformsAt(step)
      .map((uniforms) =>
        np.array(uniforms.length > 0 ? uniforms.slice() : new Float32Array(1)),
      ),
    keys: np.array(
      Uint32Array.from(
        plan.tensors.flatMap(({ formats }, i) =>
          formats.map((_, s) => randomKey(seed, step, i, s)),
        ),
      ),
    ),
  });
  let at = 0;
  return {
    results: present.map((here) =>
      here || form === "step" ? results[at++] : undefined,
    ),
    regions: next,
  };
}

/** @param present which tensors have a gradient. */
function compile(
  { jax, maxGradNorm }: Settings,
  plan: OperationsPlan,
  present: readonly boolean[],
  withParameters: boolean,
  form: Form,
): (args: JitArguments) => JitResult {
  const { tensors } = plan;
  const firstKey = tensors.map((_, i) =>
    tensors.slice(0, i).reduce((n, { formats }) => n + formats.length, 0),
  );
  return jax.jit((given: JitArguments): JitResult => {
    let next = 0;
    const arrays: StepArrays = {
      gradients: present.map((here) =>
        here ? given.gradients[next++] : undefined,
      ),
      parameters: withParameters ? given.parameters : undefined,
      regions: given.regions,
    };
    const values: StepValues = {
      uniforms: given.uniforms,
      key: (scope, tensor, state) => {
        const at = firstKey[tensor]! + state;
        return scope.reshape(scope.slice(given.keys, at, at + 1), []);
      },
    };
    const operations = { ...plan, maxGradNorm, form };
    const result = stepByOperations(jax, arrays, values, operations);
    given.keys.dispose();
    return {
      results: result.results.filter((array) => array !== undefined),
      regions: [...result.regions],
    };
  }) as (args: JitArguments) => JitResult;
}
