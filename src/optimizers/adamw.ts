import { biasCorrection, correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * Adam with decoupled weight decay, arXiv 1711.05101, in PyTorch's meaning:
 * p (1 - lr * weightDecay) before the update. Where v is 0 there has been no
 * gradient, and the update is 0 whatever a quantized m decodes to. `amsgrad`
 * (arXiv 1904.09237) keeps the largest v in a third state and divides by its
 * root.
 */
export const adamw = /* @__PURE__ */ defineOptimizer({
  name: "adamw",
  hyper: {
    lr: 1e-3,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weightDecay: 1e-2,
    amsgrad: false,
  },
  state: { m: "signed", v: "unsigned" },
  scalars: biasCorrection,
  floors: { v: correctedFloor, vmax: correctedFloor },
  update: `
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    p = p * (1 - lr * weightDecay) - select(v > 0, lr * (m / c1) / (sqrt(v) / c2 + eps), 0)
  `,
  variants: [
    {
      when: ({ amsgrad }) => amsgrad > 0,
      state: { m: "signed", v: "unsigned", vmax: "unsigned" },
      update: `
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        vmax = max(vmax, v)
        p = p * (1 - lr * weightDecay) - select(vmax > 0, lr * (m / c1) / (sqrt(vmax) / c2 + eps), 0)
      `,
    },
  ],
});

/** `adamw` with float32 states. */
export const adamw32bit = /* @__PURE__ */ defineRecipe("adamw32bit", adamw, {
  bits: 32,
});
/** `adamw` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const adamw8bit = /* @__PURE__ */ defineRecipe("adamw8bit", adamw, {
  bits: 8,
});
/**
 * Paper 2's fast form, with NF4 for m: of the schemes that take one pass the one
 * that stays nearest to 32 bits at every rate, see docs/results.md.
 */
export const adamw4bit = /* @__PURE__ */ defineRecipe("adamw4bit", adamw, {
  bits: 4,
  state: { m: { codebook: "nf4" } },
});
/** Paper 2's fast form: m in block 128 / dynamic, v in block 128 / linear without zero. */
export const adamw4bitBlock = /* @__PURE__ */ defineRecipe(
  "adamw4bitBlock",
  adamw,
  { bits: 4 },
);

/** Paper 2's own scheme: v with rank-1 scales and no zero, m in block 128 / dynamic. */
export const adamw4bitRank1 = /* @__PURE__ */ defineRecipe(
  "adamw4bitRank1",
  adamw,
  { bits: 4, state: { v: { scale: "rank1" } } },
);
