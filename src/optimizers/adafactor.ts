import { defineOptimizer, defineRecipe } from "./define.ts";

// The second moment of a matrix is the outer product of its rows' and columns'
// means; of a vector it is kept whole. What follows is the same for both.
const matrix = `
  squared = g * g + eps1
  row = decay * row + (1 - decay) * rowmean(squared)
  col = decay * col + (1 - decay) * colmean(squared)
  v = select(mean(row) > 0, row / mean(row) * col, 0)
`;
const vector = `
  v = decay * v + (1 - decay) * (g * g + eps1)
`;
const clipped = `
  u = select(v > 0, g / sqrt(v), 0)
  rate = step * select(scaleParameter > 0, max(eps2, rms(p)), 1)
  u = rate / max(1, rms(u) / clipThreshold) * u
`;
const plain = `
  p = p * (1 - lr * weightDecay) - u
`;
const averaged = `
  m = beta1 * m + (1 - beta1) * u
  p = p * (1 - lr * weightDecay) - m
`;

/**
 * Adafactor, arXiv 1804.04235, algorithms 4 and 5 with the settings of its
 * section 9: a factored second moment whose decay rises as 1 - t^-decayRate,
 * updates clipped to a root mean square of clipThreshold, steps in proportion to
 * the parameter's own root mean square (at least eps2) times min(lr, 1/sqrt(t)).
 * The paper's 1e-2 is our lr, as in PyTorch's Adafactor. `relativeStep: false`
 * takes lr as it is, `scaleParameter: false` steps of an absolute size.
 *
 * A beta1 above 0 adds a first moment, of the steps, as in the authors' code.
 * Weight decay is PyTorch's: decoupled, p (1 - lr * weightDecay). Axes before
 * the last two are a batch of matrices.
 */
export const adafactor = /* @__PURE__ */ defineOptimizer({
  name: "adafactor",
  hyper: {
    lr: 1e-2,
    beta1: 0,
    decayRate: 0.8,
    eps1: 1e-30,
    eps2: 1e-3,
    clipThreshold: 1,
    relativeStep: true,
    scaleParameter: true,
    weightDecay: 0,
  },
  state: { row: "row", col: "column" },
  scalars: ({ lr, decayRate, relativeStep }, t) => ({
    decay: 1 - t ** -decayRate,
    step: relativeStep ? Math.min(lr, 1 / Math.sqrt(t)) : lr,
  }),
  update: [matrix, clipped, plain],
  vector: { state: { v: "unsigned" }, update: [vector, clipped, plain] },
  variants: [
    {
      when: ({ beta1 }) => beta1 > 0,
      state: { row: "row", col: "column", m: "signed" },
      update: [matrix, clipped, averaged],
      vector: {
        state: { v: "unsigned", m: "signed" },
        update: [vector, clipped, averaged],
      },
    },
  ],
  check({ clipThreshold }) {
    if (clipThreshold === 0)
      throw new RangeError(
        "adafactor: clipThreshold must be above 0, given 0; a large one does not clip",
      );
  },
});

/** `adafactor` with float32 states. */
export const adafactor32bit = /* @__PURE__ */ defineRecipe(
  "adafactor32bit",
  adafactor,
  { bits: 32 },
);
/** `adafactor` in 8 bits: dynamic codebooks, an absmax for 256 elements (arXiv 2110.02861). */
export const adafactor8bit = /* @__PURE__ */ defineRecipe(
  "adafactor8bit",
  adafactor,
  { bits: 8 },
);
/** `adafactor` in 4 bits, an absmax for 128 elements: dynamic with a sign, linear without zero (arXiv 2309.01507). */
export const adafactor4bit = /* @__PURE__ */ defineRecipe(
  "adafactor4bit",
  adafactor,
  { bits: 4 },
);
