/**
 * What others call our optimizers and their states: PyTorch's keys, which
 * torchao, lpmm and plain float32 state share, and bitsandbytes' numbered ones.
 */
import { optimizerByName } from "../optimizers/registry.ts";
import type { StateKind } from "../formula/program.ts";
import { FileError } from "../io/fault.ts";

interface OptimizerNames {
  /** Our state -> key of PyTorch's optimizer of the kind, or of the reference implementation. */
  readonly torch: Readonly<Record<string, string>>;
  /** Our states in state1 and state2; absent where bitsandbytes has no such optimizer. */
  readonly bnb?: readonly [readonly string[], readonly string[]];
}

const adam: OptimizerNames = {
  torch: { m: "exp_avg", v: "exp_avg_sq", vmax: "max_exp_avg_sq" },
  bnb: [["m"], ["v"]],
};
const momentum: OptimizerNames = {
  torch: { m: "momentum_buffer" },
  bnb: [["m"], []],
};
const factored: OptimizerNames = {
  torch: {
    m: "exp_avg",
    v: "exp_avg_sq",
    row: "exp_avg_sq_row",
    col: "exp_avg_sq_col",
  },
};

/** By our name. Others of ours have no counterpart whose state would be the same. */
export const optimizerNames: Readonly<Record<string, OptimizerNames>> = {
  adam,
  adamw: adam,
  lamb: adam,
  nadam: { torch: adam.torch },
  sgd: momentum,
  sgdw: { torch: momentum.torch },
  lars: momentum,
  lion: { torch: { m: "exp_avg" }, bnb: [["m"], []] },
  rmsprop: {
    torch: { v: "square_avg", m: "momentum_buffer" },
    bnb: [["v"], []],
  },
  adagrad: { torch: { v: "sum" }, bnb: [["v"], []] },
  // Keys of the authors' code, github.com/apple/ml-ademamix.
  ademamix: {
    torch: { m1: "exp_avg_fast", m2: "exp_avg_slow", v: "exp_avg_sq" },
    bnb: [["m1", "m2"], ["v"]],
  },
  // lpmm's factor_second_moment=True.
  factor: factored,
  // fairseq's and Hugging Face's Adafactor.
  adafactor: factored,
};

/** How many values a state has and whether they have a sign; from our definition. */
export function stateKind(optimizer: string, state: string): StateKind {
  const { definition } = optimizerByName(optimizer);
  for (const form of [definition, ...(definition.variants ?? [])]) {
    const kind = form.state[state] ?? form.vector?.state[state];
    if (kind) return kind;
  }
  throw new FileError(`${optimizer} has no state '${state}'`);
}

/**
 * Our name of an optimizer's class: `PagedAdamW8bit`, `AdamWFp8` and `AdamW` are
 * adamw; undefined for one that we do not know.
 */
export function optimizerOfClass(text: string): string | undefined {
  const plain = text
    .toLowerCase()
    .replace(/^.*\./, "")
    .replace(/^(paged|low_?bit|_)+/, "")
    .replace(/_?(fp8|(32|16|8|4)_?bit(block|rank1)?)$/, "");
  return Object.hasOwn(optimizerNames, plain) ? plain : undefined;
}

const groupKeys: Readonly<Record<string, string>> = {
  lr: "lr",
  eps: "eps",
  weight_decay: "weightDecay",
  momentum: "momentum",
  dampening: "dampening",
  nesterov: "nesterov",
  alpha: "alpha",
  amsgrad: "amsgrad",
  t_alpha: "tAlpha",
  t_beta3: "tBeta3",
  max_unorm: "maxUnorm",
};

/** Hyperparameters of a `param_groups` entry by our names; those our optimizer does not have are left out. */
export function hyperOfGroup(
  optimizer: string,
  group: Readonly<Record<string, unknown>>,
): Record<string, number> {
  const known = optimizerByName(optimizer).definition.hyper;
  const found: [string, unknown][] = Object.entries(groupKeys).map(
    ([theirs, ours]) => [ours, group[theirs]],
  );
  const betas = Array.isArray(group.betas) ? (group.betas as unknown[]) : [];
  found.push(...betas.map((b, i): [string, unknown] => [`beta${i + 1}`, b]));
  return Object.fromEntries(
    found.flatMap(([key, value]) => {
      const number = typeof value === "boolean" ? Number(value) : value;
      const fits =
        Object.hasOwn(known, key) &&
        typeof number === "number" &&
        Number.isFinite(number);
      return fits ? [[key, number]] : [];
    }),
  );
}

/** The inverse of {@link hyperOfGroup}. */
export function groupOfHyper(
  hyper: Readonly<Record<string, number>>,
): Record<string, number | boolean | number[]> {
  const betas = [1, 2, 3]
    .map((i) => hyper[`beta${i}`])
    .filter((beta) => beta !== undefined);
  return Object.fromEntries([
    ...Object.entries(groupKeys)
      .filter(([, ours]) => Object.hasOwn(hyper, ours))
      .map(([theirs, ours]) => [
        theirs,
        ours === "nesterov" || ours === "amsgrad"
          ? hyper[ours]! > 0
          : hyper[ours]!,
      ]),
    ...(betas.length > 0 ? [["betas", betas]] : []),
  ]) as Record<string, number | boolean | number[]>;
}
