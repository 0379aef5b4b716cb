import { defineOptimizer } from "./define.ts";

/**
 * Adam with decoupled weight decay, arXiv 1711.05101, in PyTorch's meaning:
 * p (1 - lr * weightDecay) before the update. Where v is 0 there has been no
 * gradient, and the update is 0 whatever a quantized m decodes to.
 */
export const adamw = /* @__PURE__ */ defineOptimizer({
  name: "adamw",
  hyper: { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 1e-2 },
  state: { m: "signed", v: "unsigned" },
  scalars: ({ beta1, beta2 }, t) => ({
    c1: 1 - beta1 ** t,
    c2: Math.sqrt(1 - beta2 ** t),
  }),
  update: `
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    p = p * (1 - lr * weightDecay) - select(v > 0, lr * (m / c1) / (sqrt(v) / c2 + eps), 0)
  `,
});
