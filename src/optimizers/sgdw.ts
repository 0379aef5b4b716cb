import { defineOptimizer, defineRecipe } from "./define.ts";
import { checkMomentum, momentumScalars } from "./momentum.ts";

/**
 * SGD with momentum and decoupled weight decay, arXiv 1711.05101, algorithm 1.
 * The decay is p (1 - lr * weightDecay), as in AdamW: the paper's decay is not
 * multiplied by the learning rate, only by its schedule. Momentum, dampening and
 * Nesterov are PyTorch's, as in sgd.
 */
export const sgdw = /* @__PURE__ */ defineOptimizer({
  name: "sgdw",
  hyper: {
    lr: 1e-2,
    momentum: 0.9,
    dampening: 0,
    nesterov: false,
    weightDecay: 1e-2,
  },
  state: { m: "signed" },
  scalars: momentumScalars,
  update: `
    m = momentum * m + gain * g
    p = p * (1 - lr * weightDecay) - lr * (ahead * g + along * m)
  `,
  check: /* @__PURE__ */ checkMomentum("sgdw"),
});

/** `sgdw` with float32 states. */
export const sgdw32bit = /* @__PURE__ */ defineRecipe("sgdw32bit", sgdw, {
  bits: 32,
});
/** `sgdw` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const sgdw8bit = /* @__PURE__ */ defineRecipe("sgdw8bit", sgdw, {
  bits: 8,
});
/** An unbiased momentum, as in sgd4bit. */
export const sgdw4bit = /* @__PURE__ */ defineRecipe("sgdw4bit", sgdw, {
  bits: 4,
  state: { m: { codebook: "nf4", rounding: "stochastic" } },
});
