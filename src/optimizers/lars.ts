import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * LARS, arXiv 1708.03888, algorithm 1: each tensor's rate is in proportion to
 * norm(p) / (norm(g) + weightDecay * norm(p)), and the momentum is of steps, not
 * of gradients. Where the paper divides 0 by 0 the proportion is 1.
 *
 * A `maxUnorm` above 0 is bitsandbytes' LARS instead: momentum as in SGD, and
 * where the norm of the update exceeds maxUnorm * norm(p) the update is scaled
 * down to it; `trustCoefficient` is not read then. Its kernel takes the norm
 * before it adds the last decay term, ours takes the update's own. A tensor of
 * zeros is not capped, since it could never move.
 */
export const lars = /* @__PURE__ */ defineOptimizer({
  name: "lars",
  hyper: {
    lr: 0.1,
    momentum: 0.9,
    trustCoefficient: 1e-3,
    maxUnorm: 0,
    weightDecay: 5e-4,
  },
  state: { m: "signed" },
  update: `
    bound = norm(g) + weightDecay * norm(p)
    trust = select(norm(p) > 0, select(bound > 0, trustCoefficient * norm(p) / bound, 1), 1)
    m = momentum * m + lr * trust * (g + weightDecay * p)
    p = p - m
  `,
  variants: [
    {
      when: ({ maxUnorm }) => maxUnorm > 0,
      state: { m: "signed" },
      update: `
        m = momentum * m + g + weightDecay * p
        cap = maxUnorm * norm(p)
        size = norm(m)
        p = p - lr * select(cap > 0, select(size > cap, cap / size, 1), 1) * m
      `,
    },
  ],
});

/** `lars` with float32 states. */
export const lars32bit = /* @__PURE__ */ defineRecipe("lars32bit", lars, {
  bits: 32,
});
/** `lars` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const lars8bit = /* @__PURE__ */ defineRecipe("lars8bit", lars, {
  bits: 8,
});
/** An unbiased momentum, as in sgd4bit. */
export const lars4bit = /* @__PURE__ */ defineRecipe("lars4bit", lars, {
  bits: 4,
  state: { m: { codebook: "nf4", rounding: "stochastic" } },
});
