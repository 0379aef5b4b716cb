import { defineOptimizer, defineRecipe } from "./define.ts";
import { checkMomentum, momentumScalars } from "./momentum.ts";

/**
 * Stochastic gradient descent with momentum, as PyTorch has it: the first step
 * takes the gradient whole, later ones (1 - dampening) of it; L2 weight decay is
 * added to the gradient; Nesterov looks one step ahead. With momentum 0 it is
 * plain SGD, though the state is still kept.
 */
export const sgd = /* @__PURE__ */ defineOptimizer({
  name: "sgd",
  hyper: {
    lr: 1e-2,
    momentum: 0.9,
    dampening: 0,
    nesterov: false,
    weightDecay: 0,
  },
  state: { m: "signed" },
  scalars: momentumScalars,
  update: `
    d = g + weightDecay * p
    m = momentum * m + gain * d
    p = p - lr * (ahead * d + along * m)
  `,
  check: /* @__PURE__ */ checkMomentum("sgd"),
});

/** `sgd` with float32 states. */
export const sgd32bit = /* @__PURE__ */ defineRecipe("sgd32bit", sgd, {
  bits: 32,
});
/** `sgd` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const sgd8bit = /* @__PURE__ */ defineRecipe("sgd8bit", sgd, {
  bits: 8,
});
/**
 * Paper 2's theorem 1 needs an unbiased momentum: stochastic rounding, and a map
 * that reaches both ends. NF4 does, the paper's dynamic one has no -1.
 */
export const sgd4bit = /* @__PURE__ */ defineRecipe("sgd4bit", sgd, {
  bits: 4,
  state: { m: { codebook: "nf4", rounding: "stochastic" } },
});
