import { defineOptimizer, defineRecipe } from "./define.ts";

const matrix = `
  v = min(row, col) + g * g
  row = rowmax(v)
  col = colmax(v)
  u = select(v > 0, g / sqrt(v), 0)
`;
// The cover of a vector is its elements: Adagrad.
const vector = `
  v = v + g * g
  u = select(v > 0, g / sqrt(v), 0)
`;
const plain = `
  p = p * (1 - lr * weightDecay) - lr * u
`;
const averaged = `
  m = momentum * m + (1 - momentum) * u
  p = p * (1 - lr * weightDecay) - lr * m
`;

/**
 * SM3-II, arXiv 1901.11150, algorithm 2, with momentum as in its section 5. The
 * cover of a matrix is its rows and columns; axes before the last two are a
 * batch of matrices, each with rows and columns of its own (the paper's cover
 * for more axes is coarser). Weight decay is not the paper's: decoupled,
 * p (1 - lr * weightDecay). With momentum 0 there is no state per element.
 */
export const sm3 = /* @__PURE__ */ defineOptimizer({
  name: "sm3",
  hyper: { lr: 0.1, momentum: 0.9, weightDecay: 0 },
  state: { m: "signed", row: "row", col: "column" },
  update: [matrix, averaged],
  vector: {
    state: { m: "signed", v: "unsigned" },
    update: [vector, averaged],
  },
  variants: [
    {
      when: ({ momentum }) => momentum === 0,
      state: { row: "row", col: "column" },
      update: [matrix, plain],
      vector: { state: { v: "unsigned" }, update: [vector, plain] },
    },
  ],
});

/** `sm3` with float32 states. */
export const sm332bit = /* @__PURE__ */ defineRecipe("sm332bit", sm3, {
  bits: 32,
});
/** `sm3` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const sm38bit = /* @__PURE__ */ defineRecipe("sm38bit", sm3, {
  bits: 8,
});
/** The sum of a vector's squares is rounded as adagrad4bit's, and for its reason. */
export const sm34bit = /* @__PURE__ */ defineRecipe("sm34bit", sm3, {
  bits: 4,
  state: { v: { rounding: "stochastic" } },
});
