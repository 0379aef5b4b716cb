/**
 * The optimizer in test/golden/checkpoints: every kind of state that version 1 of
 * the file has, in the midst of an accumulation. The file was written by
 *
 *   node --conditions=lowbit-source test/support/golden-checkpoint.ts FILE
 *
 * when version 1 was the newest, and stays as it is for ever.
 */
import { defineOptimizer, type OptimizerOptions } from "lowbit";
import { advance, runOn, type Run } from "./checkpoints.ts";

/** AdamW that also keeps a number a row, one a column and one a tensor. */
const everyKind = defineOptimizer({
  name: "everyKind",
  hyper: { lr: 1e-3, beta1: 0.9, beta2: 0.99 },
  state: {
    m: "signed",
    v: "unsigned",
    row: "row",
    col: "column",
    total: "one",
  },
  update: `
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    row = rowmean(g * g)
    col = colmean(g * g)
    total = total + mean(g * g)
    p = p - lr * m / (sqrt(v) + sqrt(mean(row)) + sqrt(mean(col)) + sqrt(total) + 1e-8)
  `,
});

const levels = Float32Array.from({ length: 7 }, (_, i) => (i + 1) / 7);

const goldenShapes = {
  plain: [33, 20],
  four: [33, 20],
  "rank one": [33, 20],
  half: [33, 20],
  own: [3, 11, 13],
  tensor: [33, 21],
  full: [5, 3],
} as const;

export const goldenOptions = {
  seed: 5,
  accumulate: 3,
  percentileClipping: 90,
  shapes: goldenShapes,
  overrides: [
    { match: "four", bits: 4, beta1: 0.8 },
    {
      match: "rank one",
      state: { v: { bits: 4, scale: "rank1" }, m: { codebook: "linear" } },
    },
    {
      match: "half",
      state: { m: { bits: 16 }, v: { bits: 16, rounding: "stochastic" } },
    },
    {
      match: "own",
      state: {
        m: { bits: 2, rounding: "stochastic" },
        v: { bits: 3, codebook: levels },
      },
    },
    {
      match: "tensor",
      lr: 5e-4,
      state: {
        m: { bits: 6, scale: "tensor", keepSign: true },
        v: { blockSize: 64 },
      },
    },
    { match: "full", bits: 32 },
  ],
} as const satisfies OptimizerOptions & { shapes: unknown };

export const goldenRecipe = () => everyKind({ bits: 8 });

/** A run with the steps that the file holds. */
export async function goldenRun(): Promise<Run> {
  const engine = { open: async () => ({ device: "reference" as const }) };
  const run = await runOn(engine, goldenRecipe(), goldenOptions);
  await advance(run, 1, 2, 3, 4, 5, 6, 7, 8);
  return run;
}

if (typeof process === "object" && process.argv[2]?.endsWith(".safetensors")) {
  const { writeFileSync } = process.getBuiltinModule("node:fs");
  const { optimizer } = await goldenRun();
  writeFileSync(process.argv[2], await optimizer.save());
}
