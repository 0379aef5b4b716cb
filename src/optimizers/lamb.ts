import { biasCorrection, correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * LAMB, arXiv 1904.00962, algorithm 2, with the identity for its function phi:
 * an AdamW step as long as the parameter, times lr. Where one of the two norms
 * is 0 their quotient counts as 1, as in the authors' code.
 *
 * A `maxUnorm` above 0 is bitsandbytes' LAMB instead: an AdamW step, and where
 * the norm of the update (before lr and decay) exceeds maxUnorm * norm(p) + eps
 * the update is scaled down to it. A tensor of zeros is not capped, since it
 * could hardly move.
 */
export const lamb = /* @__PURE__ */ defineOptimizer({
  name: "lamb",
  hyper: {
    lr: 1e-3,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-6,
    maxUnorm: 0,
    weightDecay: 1e-2,
  },
  state: { m: "signed", v: "unsigned" },
  scalars: biasCorrection,
  floors: { v: correctedFloor },
  update: `
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    u = select(v > 0, (m / c1) / (sqrt(v) / c2 + eps), 0) + weightDecay * p
    trust = select(norm(p) > 0, select(norm(u) > 0, norm(p) / norm(u), 1), 1)
    p = p - lr * trust * u
  `,
  variants: [
    {
      when: ({ maxUnorm }) => maxUnorm > 0,
      state: { m: "signed", v: "unsigned" },
      update: `
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        u = select(v > 0, (m / c1) / (sqrt(v) / c2 + eps), 0)
        cap = select(norm(p) > 0, maxUnorm * norm(p) + eps, 0)
        size = norm(u)
        p = p * (1 - lr * weightDecay) - lr * select(cap > 0, select(size > cap, cap / size, 1), 1) * u
      `,
    },
  ],
});

/** `lamb` with float32 states. */
export const lamb32bit = /* @__PURE__ */ defineRecipe("lamb32bit", lamb, {
  bits: 32,
});
/** `lamb` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const lamb8bit = /* @__PURE__ */ defineRecipe("lamb8bit", lamb, {
  bits: 8,
});
/** `lamb` in 4 bits, an absmax for 128 elements: dynamic with a sign, linear without zero (arXiv 2309.01507). */
export const lamb4bit = /* @__PURE__ */ defineRecipe("lamb4bit", lamb, {
  bits: 4,
});
