import { biasCorrection, correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * Adam, arXiv 1412.6980, with L2 weight decay added to the gradient, as
 * PyTorch's Adam has it. Where v is 0 there has been no gradient, and the
 * update is 0 whatever a quantized m decodes to. `amsgrad` (arXiv 1904.09237)
 * keeps the largest v in a third state and divides by its root.
 */
export const adam = /* @__PURE__ */ defineOptimizer({
  name: "adam",
  hyper: {
    lr: 1e-3,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weightDecay: 0,
    amsgrad: false,
  },
  state: { m: "signed", v: "unsigned" },
  scalars: biasCorrection,
  floors: { v: correctedFloor, vmax: correctedFloor },
  update: `
    d = g + weightDecay * p
    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d * d
    p = p - select(v > 0, lr * (m / c1) / (sqrt(v) / c2 + eps), 0)
  `,
  variants: [
    {
      when: ({ amsgrad }) => amsgrad > 0,
      state: { m: "signed", v: "unsigned", vmax: "unsigned" },
      update: `
        d = g + weightDecay * p
        m = beta1 * m + (1 - beta1) * d
        v = beta2 * v + (1 - beta2) * d * d
        vmax = max(vmax, v)
        p = p - select(vmax > 0, lr * (m / c1) / (sqrt(vmax) / c2 + eps), 0)
      `,
    },
  ],
});

/** `adam` with float32 states. */
export const adam32bit = /* @__PURE__ */ defineRecipe("adam32bit", adam, {
  bits: 32,
});
/** `adam` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const adam8bit = /* @__PURE__ */ defineRecipe("adam8bit", adam, {
  bits: 8,
});
/** As adamw4bit: NF4 for m, see docs/results.md. */
export const adam4bit = /* @__PURE__ */ defineRecipe("adam4bit", adam, {
  bits: 4,
  state: { m: { codebook: "nf4" } },
});
