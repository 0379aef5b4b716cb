import { biasCorrection, correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * AdamW with a factored second moment, the base of arXiv 2309.01507's 4-bit
 * Factor: row and column means of squared gradients in float32, as in Adafactor,
 * but with AdamW's beta2, bias correction and eps and nothing else of it. The
 * authors' code (thu-ml/low-bit-optimizers) divides 0 by 0 for a gradient of
 * zeros; here v is 0 then, and with it the update. Axes before the last two are
 * a batch of matrices; a vector keeps its v.
 */
export const factor = /* @__PURE__ */ defineOptimizer({
  name: "factor",
  hyper: { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 1e-2 },
  state: { m: "signed", row: "row", col: "column" },
  scalars: biasCorrection,
  floors: { v: correctedFloor },
  update: `
    m = beta1 * m + (1 - beta1) * g
    row = beta2 * row + (1 - beta2) * rowmean(g * g)
    col = beta2 * col + (1 - beta2) * colmean(g * g)
    v = select(mean(row) > 0, row / mean(row) * col, 0)
    p = p * (1 - lr * weightDecay) - select(v > 0, lr * (m / c1) / (sqrt(v) / c2 + eps), 0)
  `,
  vector: {
    state: { m: "signed", v: "unsigned" },
    update: `
      m = beta1 * m + (1 - beta1) * g
      v = beta2 * v + (1 - beta2) * g * g
      p = p * (1 - lr * weightDecay) - select(v > 0, lr * (m / c1) / (sqrt(v) / c2 + eps), 0)
    `,
  },
});

/** `factor` with float32 states. */
export const factor32bit = /* @__PURE__ */ defineRecipe("factor32bit", factor, {
  bits: 32,
});
/** `factor` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const factor8bit = /* @__PURE__ */ defineRecipe("factor8bit", factor, {
  bits: 8,
});
/** The paper's 4-bit Factor: m in block 128 / dynamic; a vector's v in block 128 / linear without zero. */
export const factor4bit = /* @__PURE__ */ defineRecipe("factor4bit", factor, {
  bits: 4,
});
