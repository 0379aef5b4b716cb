import { defineOptimizer } from "./define.ts";

/**
 * Adam, arXiv 1412.6980, with L2 weight decay added to the gradient, as
 * PyTorch's Adam has it. Where v is 0 there has been no gradient, and the
 * update is 0 whatever a quantized m decodes to.
 */
export const adam = /* @__PURE__ */ defineOptimizer({
  name: "adam",
  hyper: { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0 },
  state: { m: "signed", v: "unsigned" },
  scalars: ({ beta1, beta2 }, t) => ({
    c1: 1 - beta1 ** t,
    c2: Math.sqrt(1 - beta2 ** t),
  }),
  update: `
    d = g + weightDecay * p
    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d * d
    p = p - select(v > 0, lr * (m / c1) / (sqrt(v) / c2 + eps), 0)
  `,
});
