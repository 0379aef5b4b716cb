/** Overrides and groups for variables that do not all come at once. */
import {
  matchesTensor,
  type Match,
  type TensorInfo,
} from "../../core/options.ts";
import type { OptimizerOptions } from "../../core/settings.ts";

type Rules = Pick<OptimizerOptions, "overrides" | "groups">;

/**
 * The rules that concern some tensors. One that matches none of them is left
 * out when it matches another variable there is; else it stays, for the core
 * to say that it matches nothing.
 */
export function rulesFor(
  { overrides = [], groups = [] }: Rules,
  tensors: readonly TensorInfo[],
  others: readonly TensorInfo[],
): Rules {
  const narrow = (match: Match): Match | undefined => {
    const mine = matching(match, tensors);
    const elsewhere = matching(match, others);
    // A list may name variables that come later.
    if (Array.isArray(match))
      return mine.length + elsewhere.length === 0
        ? match
        : (match as string[]).filter((name) => !elsewhere.includes(name));
    return mine.length > 0 || elsewhere.length === 0 ? match : undefined;
  };
  const concerned = (match: Match | undefined) =>
    match !== undefined && !(Array.isArray(match) && match.length === 0);
  return {
    overrides: overrides.flatMap((rule) => {
      const match = narrow(rule.match);
      return concerned(match) ? [{ ...rule, match: match! }] : [];
    }),
    groups: groups.flatMap((rule) => {
      const parameters = narrow(rule.parameters);
      return concerned(parameters)
        ? [{ ...rule, parameters: parameters! }]
        : [];
    }),
  };
}

const matching = (match: Match, tensors: readonly TensorInfo[]) =>
  tensors
    .filter((tensor) => matchesTensor(match, tensor, "overrides"))
    .map(({ name }) => name);
