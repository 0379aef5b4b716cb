/** What an engine gets for a step, from what the caller gives. */
import type {
  Session,
  StepInput,
  StepTensor,
  Written,
} from "../engines/engine.ts";
import { randomKey } from "../formats/random.ts";
import { checkData } from "./check.ts";
import { stateNames, type Parts } from "./parts.ts";
import { stepScalars } from "./rates.ts";

/** Where things lie in one step, on a host whose memory moves. */
export interface StepPlaces {
  /** Parameters by name, in the form of the gradients. Default: where they were. */
  readonly parameters?: Readonly<Record<string, unknown>>;
  /** With `hostStates`: each region of {@link OptimizerHandle.hostStates}. */
  readonly regions?: readonly unknown[];
  /** Number of the step, from 1. Default: one more than the last. */
  readonly step?: number;
  /** By name, what to write where a parameter lies; only if the engine can. Default: the parameter. */
  readonly written?: Readonly<Record<string, Written>>;
}

/**
 * Gradients by tensor; `null` leaves a tensor out.
 *
 * @throws TypeError or RangeError for one that is missing or wrongly sized.
 */
export function gradientsOf(
  { recipe, engine, tensors, settings }: Parts,
  session: Session,
  given: Readonly<Record<string, unknown>>,
): unknown[] {
  return tensors.map((tensor, i) => {
    const gradient = given[tensor.name];
    if (gradient === undefined) {
      if (settings.resident) return session.gradient(i);
      throw new TypeError(
        `${recipe.name}: no gradient for '${tensor.name}'; a step takes one for every parameter`,
      );
    }
    if (gradient === null) return null;
    return checkData(
      engine,
      tensor,
      gradient,
      `${recipe.name}: the gradient of`,
    );
  });
}

/**
 * Parameters of one step by tensor; undefined where they were.
 *
 * @throws TypeError or RangeError for one that is missing or wrongly sized.
 */
export function parametersOf(
  { recipe, engine, tensors }: Parts,
  session: Session,
  places: Readonly<Record<string, unknown>>,
  gradients: readonly unknown[],
): unknown[] {
  return tensors.map((tensor, i) => {
    const place = places[tensor.name];
    if (
      place === undefined &&
      gradients[i] !== null &&
      session.parameter(i) === undefined
    )
      throw new TypeError(
        `${recipe.name}: the parameter '${tensor.name}' was not given, and this optimizer was made without it`,
      );
    return checkData(engine, tensor, place, `${recipe.name}: the parameter`);
  });
}

/**
 * @param base learning rate of the tensors that have none of their own.
 * @param t number of the step, from 1.
 */
export function stepInput(
  parts: Parts,
  gradients: readonly unknown[],
  base: number,
  t: number,
  maxGradNorm: number | undefined,
  parameters: readonly unknown[] = [],
  written: StepPlaces["written"] = {},
): StepInput {
  const scalars = stepScalars(parts, base, t);
  const { seed } = parts.settings;
  return {
    tensors: gradients.map((gradient, i): StepTensor | undefined => {
      if (gradient === null) return undefined;
      const given = {
        gradient,
        ...scalars[i]!,
        keys: Uint32Array.from(stateNames(parts, i), (_, s) =>
          randomKey(seed, t, i, s),
        ),
      };
      const parameter = parameters[i];
      const how = written[parts.tensors[i]!.name];
      return {
        ...given,
        ...(parameter === undefined ? {} : { parameter }),
        ...(how === undefined ? {} : { written: how }),
      };
    }),
    maxGradNorm,
  };
}
