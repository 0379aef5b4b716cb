import type { Engine, EngineOptions, TensorPlan } from "../engines/engine.ts";
import type { Recipe } from "../optimizers/define.ts";
import { createAccumulator } from "./accumulate.ts";
import { checkData, checkParameters, checkShared } from "./check.ts";
import { loadEngine } from "./engines.ts";
import { OptimizerHandle } from "./optimizer.ts";
import { resolveTensors } from "./options.ts";
import type { Parameter, Parts } from "./parts.ts";
import {
  checkSettings,
  checkShape,
  type CheckedOptions,
  type OptimizerOptions,
} from "./settings.ts";

/**
 * Creates an optimizer: validates everything, allocates all state (zeros), and
 * runs nothing yet.
 *
 * @param recipe what to do and how to store it, such as `adamw8bit({ lr: 1e-3 })`.
 * @param parameters by name; names are what overrides and checkpoints go by.
 * @param options Default: the WebAssembly engine, no clipping, float32 states for
 * tensors below 4096 elements.
 * @returns a handle; call its `dispose()` when done.
 * @throws TypeError or RangeError for bad options; nothing stays allocated.
 */
export async function createOptimizer(
  recipe: Recipe,
  parameters: Readonly<Record<string, Parameter>>,
  options: OptimizerOptions = {},
): Promise<OptimizerHandle> {
  const prepared = prepare(recipe, parameters, options);
  const engine = await loadEngine(options.device ?? "wasm");
  const parts = { ...prepared, engine };
  const { tensors, settings } = parts;
  const session = await engine.createSession(
    plansFor(parts, parameters),
    engineOptions(settings),
  );
  const accumulator =
    settings.accumulate > 1
      ? await createAccumulator(engine, tensors, settings)
      : undefined;
  return new OptimizerHandle(parts, session, accumulator);
}

/** For hosts whose optimizers cannot wait, see {@link createOptimizerSync}. */
export interface SyncOptions extends Omit<OptimizerOptions, "device"> {
  readonly device: Engine;
  /** The host keeps the states, and passes them to each step. Default false. */
  readonly hostStates?: boolean;
  /** Every step says where the parameters lie; none need be given here. Default false. */
  readonly hostParameters?: boolean;
}

/**
 * The same at once, on an engine that can: the result takes steps with
 * {@link OptimizerHandle.stepSync}.
 *
 * @throws TypeError for `accumulate`, which needs steps that wait, and with
 * `hostStates` for `percentileClipping`, whose norms no host's state holds.
 */
export function createOptimizerSync(
  recipe: Recipe,
  parameters: Readonly<Record<string, Parameter>>,
  {
    device: engine,
    hostStates = false,
    hostParameters = false,
    ...options
  }: SyncOptions,
): OptimizerHandle {
  const parts = { ...prepare(recipe, parameters, options), engine };
  const { settings } = parts;
  if (settings.accumulate > 1)
    throw new TypeError(
      `${recipe.name}: accumulate is not offered here; add up the gradients with the host's own operations`,
    );
  if (hostStates && settings.percentileClipping !== undefined)
    throw new TypeError(
      `${recipe.name}: percentileClipping is not offered here, since its norms are not part of the state; use maxGradNorm`,
    );
  if (!engine.createSessionSync)
    throw new TypeError(
      `${recipe.name}: the engine '${engine.name}' has no steps at once`,
    );
  const session = engine.createSessionSync(plansFor(parts, parameters), {
    ...engineOptions(settings),
    hostStates,
    hostParameters,
  });
  return new OptimizerHandle(parts, session);
}

/** Checks everything that does not depend on the engine. */
function prepare(
  recipe: Recipe,
  parameters: Readonly<Record<string, Parameter>>,
  options: OptimizerOptions,
): Omit<Parts, "engine"> {
  if (typeof recipe !== "object" || !recipe || !("optimizer" in recipe))
    throw new TypeError(
      `createOptimizer: the first argument must be a recipe, such as adamw8bit({ lr: 1e-3 }), given ${typeof recipe === "function" ? "the function itself; call it" : String(recipe)}`,
    );
  checkParameters(parameters);
  const settings = checkSettings(options);
  const tensors = Object.entries(parameters).map(([name, { shape }]) => ({
    name,
    shape: [...shape],
    size: checkShape("createOptimizer", name, shape),
  }));
  checkShared(parameters);
  return {
    recipe,
    tensors,
    resolved: resolveTensors(recipe, tensors, settings),
    settings,
  };
}

const plansFor = (
  { engine, tensors, resolved }: Parts,
  parameters: Readonly<Record<string, Parameter>>,
): TensorPlan[] =>
  tensors.map((tensor, i) => ({
    ...tensor,
    program: resolved[i]!.optimizer.program,
    formats: resolved[i]!.formats,
    parameter: checkData(engine, tensor, parameters[tensor.name]!.data),
  }));

const engineOptions = (settings: CheckedOptions): EngineOptions => ({
  skip: settings.skip,
  clip: clips(settings),
  resident: settings.resident,
  threads: settings.threads,
});

const clips = ({ maxGradNorm, percentileClipping }: CheckedOptions) =>
  maxGradNorm !== undefined || percentileClipping !== undefined;
