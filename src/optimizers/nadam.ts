import { correctedFloor } from "./correction.ts";
import { defineOptimizer, defineRecipe } from "./define.ts";

/**
 * NAdam (Dozat 2016) as PyTorch has it: momentum mu(t) = beta1 (1 - 0.96^(t *
 * momentumDecay) / 2), and bias corrections by the product of all mu so far. L2
 * weight decay is added to the gradient; `decoupledWeightDecay` makes it
 * AdamW's. Where v is 0 the update is 0.
 */
export const nadam = /* @__PURE__ */ defineOptimizer({
  name: "nadam",
  hyper: {
    lr: 2e-3,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weightDecay: 0,
    momentumDecay: 4e-3,
    decoupledWeightDecay: false,
  },
  state: { m: "signed", v: "unsigned" },
  scalars: (
    { lr, beta1, beta2, weightDecay, momentumDecay, decoupledWeightDecay },
    t,
  ) => {
    const now = momentumAt(beta1, momentumDecay, t);
    const next = momentumAt(beta1, momentumDecay, t + 1);
    const product = momentumProduct(beta1, momentumDecay, t);
    return {
      fresh: (1 - now) / (1 - product),
      along: next / (1 - product * next),
      c2: Math.sqrt(1 - beta2 ** t),
      added: decoupledWeightDecay ? 0 : weightDecay,
      kept: decoupledWeightDecay ? 1 - lr * weightDecay : 1,
    };
  },
  floors: { v: correctedFloor },
  update: `
    d = g + added * p
    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d * d
    p = kept * p - select(v > 0, lr * (fresh * d + along * m) / (sqrt(v) / c2 + eps), 0)
  `,
});

const momentumAt = (beta1: number, decay: number, t: number) =>
  beta1 * (1 - 0.5 * 0.96 ** (t * decay));

/**
 * The product of mu(1) to mu(t). Scalars know nothing of earlier steps, and a
 * loop over them would grow, so: with x = 0.96^decay, the logarithm of the
 * product of (1 - x^i / 2) is minus the sum over k of 2^-k / k times the
 * geometric series of x^k, which takes 53 terms for float64.
 */
function momentumProduct(beta1: number, decay: number, t: number): number {
  const log = decay * Math.log(0.96);
  let sum = 0;
  for (let k = 1; k <= 53; k++) {
    const series =
      log === 0
        ? t
        : (Math.exp(k * log) * Math.expm1(k * t * log)) / Math.expm1(k * log);
    sum += (2 ** -k / k) * series;
  }
  return beta1 ** t * Math.exp(-sum);
}

/** `nadam` with float32 states. */
export const nadam32bit = /* @__PURE__ */ defineRecipe("nadam32bit", nadam, {
  bits: 32,
});
/** `nadam` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const nadam8bit = /* @__PURE__ */ defineRecipe("nadam8bit", nadam, {
  bits: 8,
});
/** `nadam` in 4 bits, an absmax for 128 elements: dynamic with a sign, linear without zero (arXiv 2309.01507). */
export const nadam4bit = /* @__PURE__ */ defineRecipe("nadam4bit", nadam, {
  bits: 4,
});
