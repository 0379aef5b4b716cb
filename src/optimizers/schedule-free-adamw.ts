import { correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * Schedule-free AdamW, arXiv 2405.15682, algorithm 1. Of its three sequences p
 * is y, where gradients are taken: train with p as it is. States begin at 0, so
 * what is kept beside v is not z but z - y, which also rounds better:
 *
 *     z = p + away,   x = p - (1 / beta1 - 1) * away
 *
 * x, the average, is what to evaluate and to save; docs/optimizers.md shows how.
 * The average's weights are lr^2, summed in `weight`, so warm up by an lr that
 * grows. Weight decay is at y, as the paper's. Where v is 0 the update is 0.
 */
export const scheduleFreeAdamw = /* @__PURE__ */ defineOptimizer({
  name: "scheduleFreeAdamw",
  hyper: { lr: 2.5e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0 },
  state: { away: "signed", v: "unsigned", weight: "one" },
  scalars: ({ beta2 }, t) => ({ c2: Math.sqrt(1 - beta2 ** t) }),
  floors: { v: correctedFloor },
  // With u the step of z, c the weight of the newest z in the average x:
  // y' = (1 - beta1) z' + beta1 x', x' = (1 - c) x + c z', z' = z - lr u.
  update: `
    v = beta2 * v + (1 - beta2) * g * g
    u = select(v > 0, g / (sqrt(v) / c2 + eps), 0) + weightDecay * p
    weight = weight + lr * lr
    c = select(weight > 0, lr * lr / weight, 0)
    p = p + c * away - lr * (1 - beta1 * (1 - c)) * u
    away = (1 - c) * (away - lr * beta1 * u)
  `,
  check({ beta1 }) {
    if (beta1 === 0)
      throw new RangeError(
        "scheduleFreeAdamw: beta1 must be above 0, given 0; x could not be told from z",
      );
  },
});

/** `scheduleFreeAdamw` with float32 states. */
export const scheduleFreeAdamw32bit = /* @__PURE__ */ defineRecipe(
  "scheduleFreeAdamw32bit",
  scheduleFreeAdamw,
  { bits: 32 },
);
/** In 8 bits, with stochastic rounding: `away` moves by little steps that nearest rounding would swallow. */
export const scheduleFreeAdamw8bit = /* @__PURE__ */ defineRecipe(
  "scheduleFreeAdamw8bit",
  scheduleFreeAdamw,
  { bits: 8, state: { away: { rounding: "stochastic" } } },
);
/** In 4 bits, `away` as in 8; v has the map that reaches further down, since no average hides its errors. */
export const scheduleFreeAdamw4bit = /* @__PURE__ */ defineRecipe(
  "scheduleFreeAdamw4bit",
  scheduleFreeAdamw,
  {
    bits: 4,
    state: {
      away: { rounding: "stochastic" },
      v: { codebook: "dynamic-nozero" },
    },
  },
);
