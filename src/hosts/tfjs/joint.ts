/** What concerns the gradients of all variables together. */
import {
  add,
  all,
  div,
  isFinite as finite,
  logicalAnd,
  minimum,
  mul,
  scalar,
  sqrt,
  square,
  sum,
  where,
  zerosLike,
  type Scalar,
  type Tensor,
} from "@tensorflow/tfjs-core";
import type { Update } from "./access.ts";
import type { OptimizerOptions } from "../../core/settings.ts";

/** With copies of gradients that are what the step will change. */
export function apart(updates: readonly Update[]): readonly Update[] {
  const changed = new Set(updates.map(({ variable }) => variable.dataId));
  return updates.map(({ variable, gradient }) => ({
    variable,
    gradient: changed.has(gradient.dataId) ? mul(gradient, 1) : gradient,
  }));
}

/**
 * Gradients of several batches as a step of all of them would have clipped them; with
 * `skipNonFinite: "step"` none is finite when one of them is not. What the batches do
 * to them on top changes nothing: their own norms are within the limit.
 *
 * @returns beside them their norm before, with `maxGradNorm`.
 */
export function clippedTogether(
  gradients: readonly Tensor[],
  {
    maxGradNorm,
    skipNonFinite,
  }: Pick<OptimizerOptions, "maxGradNorm" | "skipNonFinite">,
): { readonly gradients: Tensor[]; readonly norm: Scalar | undefined } {
  let factor: Scalar = scalar(1);
  let norm: Scalar | undefined;
  if (maxGradNorm !== undefined) {
    const squares = gradients.map((gradient) =>
      sum(square(where(finite(gradient), gradient, zerosLike(gradient)))),
    );
    norm = sqrt(squares.reduce((a, b) => add(a, b)) as Scalar);
    // The engines' factor, see `clipFactor` in engines/engine.ts.
    factor = minimum(1, div(maxGradNorm, add(norm, 1e-6)));
  }
  if (skipNonFinite === "step") {
    const good = gradients
      .map((gradient) => all(finite(gradient)))
      .reduce((a, b) => logicalAnd(a, b));
    factor = where(good, factor, scalar(NaN));
  }
  return {
    gradients: gradients.map((gradient) => mul(gradient, factor)),
    norm,
  };
}

export const concernsAll = ({
  maxGradNorm,
  skipNonFinite,
}: Pick<OptimizerOptions, "maxGradNorm" | "skipNonFinite">): boolean =>
  maxGradNorm !== undefined || skipNonFinite === "step";
