/** What concerns the gradients of all variables, when their states lie in several batches. */
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
import type { OptimizerOptions } from "../../core/settings.ts";

/**
 * Gradients as a step of all of them would have clipped them; with
 * `skipNonFinite: "step"` none is finite when one of them is not. What the batches do
 * to them on top changes nothing: their own norms are within the limit.
 */
export function clippedTogether(
  gradients: readonly Tensor[],
  {
    maxGradNorm,
    skipNonFinite,
  }: Pick<OptimizerOptions, "maxGradNorm" | "skipNonFinite">,
): Tensor[] {
  let factor: Scalar = scalar(1);
  if (maxGradNorm !== undefined) {
    const squares = gradients.map((gradient) =>
      sum(square(where(finite(gradient), gradient, zerosLike(gradient)))),
    );
    const norm = sqrt(squares.reduce((a, b) => add(a, b)));
    // The engines' factor, see `clipFactor` in engines/engine.ts.
    factor = minimum(1, div(maxGradNorm, add(norm, 1e-6)));
  }
  if (skipNonFinite === "step") {
    const good = gradients
      .map((gradient) => all(finite(gradient)))
      .reduce((a, b) => logicalAnd(a, b));
    factor = where(good, factor, scalar(NaN));
  }
  return gradients.map((gradient) => mul(gradient, factor));
}

export const concernsAll = ({
  maxGradNorm,
  skipNonFinite,
}: Pick<OptimizerOptions, "maxGradNorm" | "skipNonFinite">): boolean =>
  maxGradNorm !== undefined || skipNonFinite === "step";
