import { biasCorrection, correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * AdEMAMix, arXiv 2409.03137, algorithm 1: AdamW with a second, slow EMA of the
 * gradient, alpha of which is added to the first. With `tAlpha` and `tBeta3`
 * (steps; 0 for none) alpha and beta3 grow to their values over so many steps:
 * alpha linearly from 0, beta3 from beta1 such that the EMA's half-life grows
 * linearly, as the paper's section 3 has it.
 */
export const ademamix = /* @__PURE__ */ defineOptimizer({
  name: "ademamix",
  hyper: {
    lr: 1e-3,
    beta1: 0.9,
    beta2: 0.999,
    beta3: 0.9999,
    alpha: 5,
    eps: 1e-8,
    weightDecay: 1e-2,
    tAlpha: 0,
    tBeta3: 0,
  },
  state: { m1: "signed", m2: "signed", v: "unsigned" },
  scalars: ({ beta1, beta2, beta3, alpha, tAlpha, tBeta3 }, t) => ({
    ...biasCorrection({ beta1, beta2 }, t),
    mixed: t < tAlpha ? (t / tAlpha) * alpha : alpha,
    slow: t < tBeta3 ? warmed(beta1, beta3, t / tBeta3) : beta3,
  }),
  floors: { v: correctedFloor },
  update: `
    m1 = beta1 * m1 + (1 - beta1) * g
    m2 = slow * m2 + (1 - slow) * g
    v = beta2 * v + (1 - beta2) * g * g
    u = select(v > 0, (m1 / c1 + mixed * m2) / (sqrt(v) / c2 + eps), 0)
    p = p * (1 - lr * weightDecay) - lr * u
  `,
  check({ beta1, beta3, tBeta3 }) {
    if (tBeta3 > 0 && !(beta1 > 0 && beta3 > 0))
      throw new RangeError(
        `ademamix: a schedule of beta3 needs beta1 and beta3 above 0, given ${beta1} and ${beta3}`,
      );
  },
});

/** The decay whose half-life is this part of the way from one decay's to another's. */
function warmed(from: number, to: number, part: number): number {
  const [a, b] = [Math.log(from), Math.log(to)];
  return Math.min(Math.exp((a * b) / ((1 - part) * b + part * a)), to);
}

/** `ademamix` with float32 states. */
export const ademamix32bit = /* @__PURE__ */ defineRecipe(
  "ademamix32bit",
  ademamix,
  { bits: 32 },
);
/** `ademamix` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const ademamix8bit = /* @__PURE__ */ defineRecipe(
  "ademamix8bit",
  ademamix,
  { bits: 8 },
);
/**
 * A 10,000th of a value is less than half a step of 4 bits: rounded to nearest,
 * the slow average would stand still. NF4 as in adamw4bit.
 */
export const ademamix4bit = /* @__PURE__ */ defineRecipe(
  "ademamix4bit",
  ademamix,
  {
    bits: 4,
    state: {
      m1: { codebook: "nf4" },
      m2: { codebook: "nf4", rounding: "stochastic" },
    },
  },
);
