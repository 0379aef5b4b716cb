/** Optimizers of tests' own: what the formula language can say, beside the registry. */
import { defineOptimizer } from "lowbit";

/** Every operator, function and comparison of the language. */
export const everything = defineOptimizer({
  name: "everything",
  hyper: { lr: 1e-3, beta: 0.9 },
  state: { a: "signed", b: "unsigned", c: "signed" },
  update: `
    u = exp(-abs(g)) + log(1 + g * g) * sign(g)
    w = pow(abs(g) + 0.5, 1.5) - max(min(g, 0.25), -0.25) / (1 + sqrt(abs(p)))
    a = beta * a + (1 - beta) * (u - w)
    b = max(beta * b, abs(g))
    c = select(g >= 0, beta * c + g, select(a != 0, beta * c - g / 2, +g))
    d = select(g < 0.1, a, b) + select(g <= -0.1, c, 0) + select(c > a, 1, 2) * 1e-3 + select(g == 0, 0, g)
    p = p - lr * (d + select(b > 0, a / b, 0))
  `,
});

/** The same without the functions that engines approximate. */
export const arithmetic = defineOptimizer({
  name: "arithmetic",
  hyper: { lr: 1e-3, beta: 0.9 },
  state: { a: "signed", b: "unsigned" },
  update: `
    w = max(min(g, 0.25), -0.25) / (1 + sqrt(abs(p))) - sign(g) * 0.01
    a = beta * a + (1 - beta) * (w - g)
    b = max(beta * b, abs(g))
    d = select(g < 0.1, a, b) + select(g <= -0.1, -a, 0) + select(g == 0, 0, g / 3)
    p = p - lr * (d + select(b > 0, a / b, 0))
  `,
});

export const stateless = defineOptimizer({
  name: "stateless",
  hyper: { lr: 1e-2, weightDecay: 0.1 },
  state: {},
  update: "p = p - lr * (g + weightDecay * p)",
});

/** The state follows the parameter: p is read in the state's update. */
export const anchored = defineOptimizer({
  name: "anchored",
  hyper: { lr: 1e-2, beta: 0.8 },
  state: { slow: "signed" },
  update: `
    slow = beta * slow + (1 - beta) * p
    p = p - lr * (g + 0.1 * (p - slow))
  `,
});

/** The parameter uses the state before the step. */
export const lionLike = defineOptimizer({
  name: "lionlike",
  hyper: { lr: 1e-3, beta1: 0.9, beta2: 0.99, weightDecay: 0.01 },
  state: { m: "signed" },
  update: `
    u = sign(beta1 * m + (1 - beta1) * g)
    m = beta2 * m + (1 - beta2) * g
    p = p * (1 - lr * weightDecay) - lr * u
  `,
});

/** The state's old value is never read. */
export const forgetful = defineOptimizer({
  name: "forgetful",
  hyper: { lr: 1e-3 },
  state: { last: "signed", square: "unsigned" },
  update: `
    last = g
    square = g * g
    p = p - lr * g
  `,
});

/** A choice of the step and not of the element, and scalars of the step. */
export const warming = defineOptimizer({
  name: "warming",
  hyper: { lr: 1e-3, beta: 0.9, nesterov: true },
  state: { m: "signed" },
  scalars: (_, t) => ({ cold: t < 5 ? 1 : 0, gain: 1 / t }),
  update: `
    m = beta * m + select(cold > 0, sign(g), g) * gain
    p = p - lr * select(nesterov == 1, g + beta * m, m)
  `,
});

/** Five states, one of each width. */
export const wide = defineOptimizer({
  name: "wide",
  hyper: { lr: 1e-3 },
  state: {
    s1: "signed",
    s2: "signed",
    s3: "unsigned",
    s4: "signed",
    s5: "unsigned",
  },
  update: `
    s1 = 0.5 * s1 + g
    s2 = 0.9 * s2 + 0.1 * g
    s3 = max(0.99 * s3, abs(g))
    s4 = 0.99 * s4 + 0.01 * s1
    s5 = 0.9 * s5 + 0.1 * g * g
    p = p - lr * (s1 + s2 + s4) / (sqrt(s5) + s3 + 1e-3)
  `,
});

/** Norms of the whole tensor, one of them of a state's new value. */
export const trusting = defineOptimizer({
  name: "trusting",
  hyper: { lr: 1e-2, beta: 0.9, weightDecay: 0.01 },
  state: { m: "signed" },
  update: `
    m = beta * m + (1 - beta) * g
    u = m + weightDecay * p
    p = p - lr * select(norm(u) > 0, norm(p) / norm(u), 1) * u
  `,
});
