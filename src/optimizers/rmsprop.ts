import { correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * RMSprop, Hinton's lecture 6e, as PyTorch has it: eps outside of the root, L2
 * weight decay added to the gradient. A momentum above 0 adds a second state.
 */
export const rmsprop = /* @__PURE__ */ defineOptimizer({
  name: "rmsprop",
  hyper: { lr: 1e-2, alpha: 0.99, eps: 1e-8, momentum: 0, weightDecay: 0 },
  state: { v: "unsigned" },
  floors: { v: correctedFloor },
  update: `
    d = g + weightDecay * p
    v = alpha * v + (1 - alpha) * d * d
    p = p - select(v > 0, lr * d / (sqrt(v) + eps), 0)
  `,
  variants: [
    {
      when: ({ momentum }) => momentum > 0,
      state: { v: "unsigned", m: "signed" },
      update: `
        d = g + weightDecay * p
        v = alpha * v + (1 - alpha) * d * d
        m = momentum * m + select(v > 0, d / (sqrt(v) + eps), 0)
        p = p - lr * m
      `,
    },
  ],
  check({ alpha }) {
    if (alpha >= 1)
      throw new RangeError(`rmsprop: alpha must be in [0, 1), given ${alpha}`);
  },
});

/** `rmsprop` with float32 states. */
export const rmsprop32bit = /* @__PURE__ */ defineRecipe(
  "rmsprop32bit",
  rmsprop,
  { bits: 32 },
);
/** `rmsprop` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const rmsprop8bit = /* @__PURE__ */ defineRecipe(
  "rmsprop8bit",
  rmsprop,
  { bits: 8 },
);
/**
 * The map that reaches further down than linear-nozero: nothing averages the
 * update, so a small v that was rounded up costs more here than in Adam.
 */
export const rmsprop4bit = /* @__PURE__ */ defineRecipe(
  "rmsprop4bit",
  rmsprop,
  { bits: 4, state: { v: { codebook: "dynamic-nozero" } } },
);
