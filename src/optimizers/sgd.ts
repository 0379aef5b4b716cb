import { defineOptimizer } from "./define.ts";

/**
 * Stochastic gradient descent with momentum, as PyTorch has it: the first step
 * takes the gradient whole, later ones (1 - dampening) of it; L2 weight decay is
 * added to the gradient; Nesterov looks one step ahead. With momentum 0 it is
 * plain SGD, though the state is still kept.
 */
export const sgd = /* @__PURE__ */ defineOptimizer({
  name: "sgd",
  hyper: {
    lr: 1e-2,
    momentum: 0.9,
    dampening: 0,
    nesterov: false,
    weightDecay: 0,
  },
  state: { m: "signed" },
  scalars: ({ momentum, dampening, nesterov }, t) => ({
    gain: t === 1 ? 1 : 1 - dampening,
    // The step is along ahead * d + along * m.
    ahead: nesterov ? 1 : 0,
    along: nesterov ? momentum : 1,
  }),
  update: `
    d = g + weightDecay * p
    m = momentum * m + gain * d
    p = p - lr * (ahead * d + along * m)
  `,
  check({ momentum, dampening, nesterov }) {
    if (nesterov && (momentum === 0 || dampening !== 0))
      throw new RangeError(
        `sgd: nesterov needs a momentum above 0 and no dampening, given momentum ${momentum}, dampening ${dampening}`,
      );
  },
});
