// What depends on a tensor's shape (rows, columns, rank-1 scales), and 16-bit
// state, on every engine against the reference.

import {
  adafactor,
  adamw,
  adamw4bitRank1,
  defineOptimizer,
  factor4bit,
  lamb8bit,
  sgd,
  type Recipe,
} from "lowbit";
import { expect, test } from "vitest";
import { expectConformance, type Case } from "./support/conformance.ts";
import { describeEngines } from "./support/engines.ts";

const shapes = [
  [1, 5],
  [7, 1],
  [30, 70],
  [3, 7, 11],
  [2, 3, 4, 51],
  [2, 2100],
  [70, 100],
];
const sizes = shapes.map((shape) => shape.reduce((a, b) => a * b, 1));

/** Every kind of state and reduction, and a reduction of what another gave. */
const allKinds = defineOptimizer({
  name: "allKinds",
  hyper: { lr: 1e-2 },
  state: { r: "row", c: "column", top: "one", m: "signed" },
  update: `
    n = min(r, c) + g * g
    r = rowmax(n)
    c = colmean(n)
    top = max(0.9 * top, max(abs(g)))
    u = g / sqrt(n + mean(r))
    m = 0.9 * m + 0.1 * u / max(1, rms(u))
    p = p - lr * m * select(norm(p) > sum(abs(c)) / 100, 1, 0.5) * top
  `,
});

const recipes: Record<string, Recipe> = {
  "rank-1 scales": adamw4bitRank1(),
  "rank-1 scales of both states, stochastic": adamw({
    bits: 8,
    state: {
      m: { scale: "rank1" },
      v: { scale: "rank1", rounding: "stochastic" },
    },
  }),
  "rank-1 scales in tiles of two sides": adamw({
    bits: 4,
    state: { m: { scale: "tile" }, v: { scale: "tile", blockSize: 32 } },
  }),
  "tiles, stochastic, beside rank-1 scales": adamw({
    bits: 8,
    state: {
      m: { scale: "rank1" },
      v: { scale: "tile", blockSize: 64, rounding: "preconditioner" },
    },
  }),
  "tiles beside blocks and a norm": lamb8bit({
    state: { v: { scale: "tile", blockSize: 32 } },
  }),
  "a rank-1 v beside a norm": lamb8bit({ state: { v: { scale: "rank1" } } }),
  "4-bit Factor": factor4bit(),
  Adafactor: adafactor({ beta1: 0.9, bits: 8 }),
  "states and reductions of every kind": allKinds({ bits: 8 }),
  "16-bit state": adamw({ bits: 16 }),
  "16-bit state beside 8-bit, stochastic": adamw({
    state: { m: { bits: 16, rounding: "stochastic" }, v: { bits: 8 } },
  }),
  "16-bit momentum alone": sgd({ bits: 16, lr: 1e-2 }),
};

/** Sums are added in another order: equal to rounding, not to the bit. */
const sums = ({ optimizer }: Recipe) => optimizer.program.passes > 0;

describeEngines(
  (engine) => {
    for (const [name, recipe] of Object.entries(recipes))
      for (const options of [{}, { maxGradNorm: 0.5 }] as Case["options"][])
        test(`${name}${options?.maxGradNorm ? ", clipped" : ""}`, async ({
          skip,
        }) => {
          const attempt = expectConformance(engine, {
            recipe,
            sizes,
            shapes,
            steps: engine.slow ? 4 : 12,
            exact: !sums(recipe) && !options?.maxGradNorm,
            options: { minQuantizedSize: 0, seed: 11, ...options },
          });
          if (!engine.noShapes) return attempt;
          await expect(attempt, "it can now").rejects.toThrow();
          skip(engine.noShapes);
        });
  },
  ({ name, twinOf }) => name !== "reference" && !twinOf,
);
