import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * Adan, arXiv 2208.06677, algorithm 1, in the notation of the authors' code: our
 * beta is the paper's 1 - beta, all three averages are bias-corrected, and the
 * decay divides by 1 + lr * weightDecay (proximal). It needs the gradient of the
 * step before, which is a state like the others. Where n is 0 the update is 0.
 */
export const adan = /* @__PURE__ */ defineOptimizer({
  name: "adan",
  hyper: {
    lr: 1e-3,
    beta1: 0.98,
    beta2: 0.92,
    beta3: 0.99,
    eps: 1e-8,
    weightDecay: 0,
  },
  state: { m: "signed", v: "signed", n: "unsigned", before: "signed" },
  scalars: ({ beta1, beta2, beta3 }, t) => ({
    c1: 1 - beta1 ** t,
    c2: 1 - beta2 ** t,
    c3: Math.sqrt(1 - beta3 ** t),
    // The first step has no gradient before it, and no difference.
    known: t === 1 ? 0 : 1,
  }),
  floors: { n: ({ eps = 0, c3 = 1 }) => eps * c3 },
  update: `
    change = known * (g - before)
    ahead = g + beta2 * change
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * change
    n = beta3 * n + (1 - beta3) * ahead * ahead
    u = select(n > 0, (m / c1 + beta2 * (v / c2)) / (sqrt(n) / c3 + eps), 0)
    before = g
    p = (p - lr * u) / (1 + lr * weightDecay)
  `,
});

/** `adan` with float32 states. */
export const adan32bit = /* @__PURE__ */ defineRecipe("adan32bit", adan, {
  bits: 32,
});
/** `adan` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const adan8bit = /* @__PURE__ */ defineRecipe("adan8bit", adan, {
  bits: 8,
});
/**
 * A 50th of a value is less than half a step of 4 bits: rounded to nearest, slow
 * averages stand still; NF4 as in adamw4bit. The gradient before keeps 8 bits:
 * its error is that of a difference.
 */
export const adan4bit = /* @__PURE__ */ defineRecipe("adan4bit", adan, {
  bits: 4,
  state: {
    m: { codebook: "nf4", rounding: "stochastic" },
    v: { codebook: "nf4", rounding: "stochastic" },
    before: { bits: 8 },
  },
});
