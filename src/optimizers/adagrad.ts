import { correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * Adagrad, Duchi, Hazan and Singer (JMLR 12, 2011), as PyTorch has it: L2 weight
 * decay added to the gradient, a rate that falls with `lrDecay`, a sum of
 * squares that may begin above 0.
 */
export const adagrad = /* @__PURE__ */ defineOptimizer({
  name: "adagrad",
  hyper: {
    lr: 1e-2,
    lrDecay: 0,
    eps: 1e-10,
    initialAccumulator: 0,
    weightDecay: 0,
  },
  state: { v: "unsigned" },
  scalars: ({ lr, lrDecay, initialAccumulator }, t) => ({
    rate: lr / (1 + (t - 1) * lrDecay),
    // States begin at 0; the first step adds what they should have begun with.
    before: t === 1 ? initialAccumulator : 0,
  }),
  floors: { v: correctedFloor },
  update: `
    d = g + weightDecay * p
    v = v + before + d * d
    p = p - select(v > 0, rate * d / (sqrt(v) + eps), 0)
  `,
});

/** `adagrad` with float32 states. */
export const adagrad32bit = /* @__PURE__ */ defineRecipe(
  "adagrad32bit",
  adagrad,
  { bits: 32 },
);
/** `adagrad` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const adagrad8bit = /* @__PURE__ */ defineRecipe(
  "adagrad8bit",
  adagrad,
  { bits: 8 },
);
/**
 * The map that reaches further down than linear-nozero: nothing averages the
 * update, so a small v that was rounded up costs more here than in Adam.
 * Rounded to nearest, a sum that grows by less than half a step would stand still.
 */
export const adagrad4bit = /* @__PURE__ */ defineRecipe(
  "adagrad4bit",
  adagrad,
  {
    bits: 4,
    state: { v: { codebook: "dynamic-nozero", rounding: "stochastic" } },
  },
);
