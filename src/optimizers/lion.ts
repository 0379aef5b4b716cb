import { defineOptimizer, defineRecipe } from "./define.ts";

/** Lion, arXiv 2302.06675, algorithm 2, with decoupled weight decay. */
export const lion = /* @__PURE__ */ defineOptimizer({
  name: "lion",
  hyper: { lr: 1e-4, beta1: 0.9, beta2: 0.99, weightDecay: 0 },
  state: { m: "signed" },
  update: `
    u = sign(beta1 * m + (1 - beta1) * g)
    m = beta2 * m + (1 - beta2) * g
    p = p * (1 - lr * weightDecay) - lr * u
  `,
});

/** `lion` with float32 states. */
export const lion32bit = /* @__PURE__ */ defineRecipe("lion32bit", lion, {
  bits: 32,
});
/** `lion` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const lion8bit = /* @__PURE__ */ defineRecipe("lion8bit", lion, {
  bits: 8,
});
/**
 * A 100th of a value is less than half a step of 4 bits: rounded to nearest, m
 * would stand still.
 */
export const lion4bit = /* @__PURE__ */ defineRecipe("lion4bit", lion, {
  bits: 4,
  state: { m: { rounding: "stochastic" } },
});
