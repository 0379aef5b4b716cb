/** The rows of the tables: how m and v are stored. */
import {
  adamw,
  defineOptimizer,
  adamw32bit,
  adamw4bitBlock,
  adamw4bitRank1,
  factor4bit,
  type FormatOptions,
  type Recipe,
} from "lowbit";

import { soloAsPublished } from "./solo.ts";
import type { Watch } from "./train.ts";

export interface Hyper {
  readonly lr: number;
  readonly beta1?: number;
  readonly beta2?: number;
  readonly eps?: number;
}

export interface Scheme {
  readonly name: string;
  readonly recipe: (hyper: Hyper) => Recipe;
  /** With the stable embedding, whose state has 32 bits. */
  readonly stable?: boolean;
  /** Done to the states after each step. */
  readonly after?: Watch;
}

/** Adam without decay, m and v stored as given, float32 where nothing is. */
const stored =
  (m?: FormatOptions, v?: FormatOptions) =>
  (hyper: Hyper): Recipe =>
    adamw({
      ...hyper,
      weightDecay: 0,
      state: { m: m ?? { bits: 32 }, v: v ?? { bits: 32 } },
    });

/**
 * Adam as the papers have it. Ours leaves a parameter where it is when v is 0;
 * here it moves by m / eps: what a v rounded to 0 does where there is no gradient.
 */
const papersAdam = defineOptimizer({
  name: "papersAdam",
  hyper: { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8 },
  state: { m: "signed", v: "unsigned" },
  scalars: ({ beta1, beta2 }, t) => ({
    c1: 1 - beta1 ** t,
    c2: Math.sqrt(1 - beta2 ** t),
  }),
  update: `
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g * g
    p = p - lr * (m / c1) / (sqrt(v) / c2 + eps)
  `,
});

const named =
  (recipe: (options: Hyper & { weightDecay: number }) => Recipe) =>
  (hyper: Hyper): Recipe =>
    recipe({ ...hyper, weightDecay: 0 });

const baseline: Scheme = { name: "32-bit", recipe: named(adamw32bit) };
const stableBaseline: Scheme = {
  ...baseline,
  name: "32-bit, stable embedding",
  stable: true,
};

// --- Paper 1, table 3 -------------------------------------------------------

const eight = (format: FormatOptions) =>
  stored({ bits: 8, ...format }, { bits: 8, ...format });
const linear = { codebook: "linear" } as const;
const tensor = { scale: "tensor" } as const;
const rows8: [string, FormatOptions, boolean?, boolean?][] = [
  ["linear, tensor", { ...linear, ...tensor }],
  ["linear, tensor, stable embedding", { ...linear, ...tensor }, true],
  ["linear, block 2048", { ...linear, blockSize: 2048 }],
  ["dynamic, tensor", tensor],
  ["dynamic, tensor, stable embedding", tensor, true],
  ["dynamic, tensor, update m / eps where v is 0", tensor, false, true],
  ["dynamic, block 2048", { blockSize: 2048 }],
  ["dynamic, block 2048, stable embedding", { blockSize: 2048 }, true],
  ["dynamic, block 256", { blockSize: 256 }],
  [
    "dynamic, block 256, update m / eps where v is 0",
    { blockSize: 256 },
    false,
    true,
  ],
];

const ablation8: readonly Scheme[] = [
  baseline,
  stableBaseline,
  ...rows8.map(([name, format, stable = false, papers = false]) => ({
    name,
    recipe: papers
      ? (hyper: Hyper) =>
          papersAdam({ ...hyper, bits: 8, state: { m: format, v: format } })
      : eight(format),
    stable,
  })),
];

/** Of paper 1's figure on sensitivity: what is changed, one at a time. */
export const sensitivity: readonly { name: string; hyper: Partial<Hyper> }[] = [
  { name: "as it is", hyper: {} },
  { name: "beta1 0.87", hyper: { beta1: 0.87 } },
  { name: "beta1 0.93", hyper: { beta1: 0.93 } },
  { name: "beta2 0.98", hyper: { beta2: 0.98 } },
  { name: "beta2 0.99", hyper: { beta2: 0.99 } },
  { name: "eps 1e-7", hyper: { eps: 1e-7 } },
  { name: "eps 1e-6", hyper: { eps: 1e-6 } },
  { name: "half the rate", hyper: { lr: 0.5 } },
  { name: "twice the rate", hyper: { lr: 2 } },
];
const sensitive: readonly Scheme[] = [
  stableBaseline,
  {
    name: "8-bit, stable embedding",
    recipe: eight({ blockSize: 2048 }),
    stable: true,
  },
];

// --- Paper 2, tables 1 and 6 --------------------------------------------------

const m4: FormatOptions = { bits: 4, codebook: "dynamic", blockSize: 128 };
const v4 = (codebook: string, more: FormatOptions = {}): FormatOptions => ({
  bits: 4,
  codebook,
  blockSize: 128,
  ...more,
});
const wide = { blockSize: 2048 } as const;
const rank1 = { scale: "rank1" } as const;

const secondMoment: readonly Scheme[] = [
  baseline,
  stableBaseline,
  ...(
    [
      ["block 2048 / dynamic", v4("dynamic", wide)],
      ["block 2048 / dynamic, stable embedding", v4("dynamic", wide), true],
      ["block 128 / dynamic", v4("dynamic")],
      [
        "block 128 / dynamic, stochastic",
        v4("dynamic", { rounding: "stochastic" }),
      ],
      ["block 128 / dynamic, stable embedding", v4("dynamic"), true],
      ["block 2048 / dynamic without zero", v4("dynamic-nozero", wide)],
      [
        "block 2048 / dynamic without zero, stable embedding",
        v4("dynamic-nozero", wide),
        true,
      ],
      ["block 128 / dynamic without zero", v4("dynamic-nozero")],
      ["rank-1 / dynamic without zero", v4("dynamic-nozero", rank1)],
    ] as [string, FormatOptions, boolean?][]
  ).map(([name, v, stable = false]) => ({
    name,
    recipe: stored(m4, v),
    stable,
  })),
  { name: "rank-1 / linear without zero", recipe: named(adamw4bitRank1) },
  { name: "factored", recipe: named(factor4bit) },
];

const firstMoment: readonly Scheme[] = [
  baseline,
  {
    name: "m block 2048 / dynamic, v 32-bit",
    recipe: stored({ ...m4, ...wide }),
  },
  { name: "m block 128 / dynamic, v 32-bit", recipe: stored(m4) },
  {
    name: "m block 128 / nf4, v 32-bit",
    recipe: stored({ ...m4, codebook: "nf4" }),
  },
  {
    name: "m 32-bit, v rank-1 / linear without zero",
    recipe: stored(undefined, v4("linear-nozero", rank1)),
  },
  {
    name: "m 32-bit, v block 128 / dynamic without zero",
    recipe: stored(undefined, v4("dynamic-nozero")),
  },
];

// --- What has been learned since -----------------------------------------------

const nf4: FormatOptions = { ...m4, codebook: "nf4" };
const eden = { correctScale: true } as const;
const tile = { scale: "tile" } as const;
const log2: FormatOptions = { bits: 2, codebook: "log", blockSize: 128 };

const beyond: readonly Scheme[] = [
  baseline,
  { name: "paper 2: rank-1", recipe: named(adamw4bitRank1) },
  { name: "paper 2: block", recipe: named(adamw4bitBlock) },
  {
    name: "paper 2: block, m stochastic",
    recipe: stored({ ...m4, rounding: "stochastic" }, v4("linear-nozero")),
  },
  {
    name: "m nf4 stochastic, v block / linear without zero",
    recipe: stored({ ...nf4, rounding: "stochastic" }, v4("linear-nozero")),
  },
  {
    name: "m nf4, v block / linear without zero",
    recipe: stored(nf4, v4("linear-nozero")),
  },
  {
    name: "m nf4, v block / power-2",
    recipe: stored(nf4, v4("power-2")),
  },
  {
    name: "m nf4, v rank-1 / linear without zero",
    recipe: stored(nf4, v4("linear-nozero", rank1)),
  },
  {
    name: "m nf4, v tiles / linear without zero",
    recipe: stored(nf4, v4("linear-nozero", tile)),
  },
  {
    name: "m nf4, v tiles / dynamic without zero",
    recipe: stored(nf4, v4("dynamic-nozero", tile)),
  },
  {
    name: "m nf4, v block / dynamic without zero",
    recipe: stored(nf4, v4("dynamic-nozero")),
  },
  {
    name: "the same, v corrected (ZE-EDEN)",
    recipe: stored(nf4, v4("dynamic-nozero", eden)),
  },
  {
    name: "the same, m and v corrected",
    recipe: stored({ ...nf4, ...eden }, v4("dynamic-nozero", eden)),
  },
  {
    name: "m nf4, v block / dynamic, preconditioner (ZIP-SR)",
    recipe: stored(nf4, v4("dynamic", { rounding: "preconditioner" })),
  },
  {
    name: "m nf4 stochastic, v block / dynamic without zero",
    recipe: stored({ ...nf4, rounding: "stochastic" }, v4("dynamic-nozero")),
  },
  {
    name: "4/2 bits: m dynamic, v log, nearest",
    recipe: stored(m4, log2),
  },
  {
    name: "4/2 bits: m dynamic, v log, stochastic (SOLO)",
    recipe: stored(m4, { ...log2, rounding: "stochastic" }),
  },
  {
    name: "the same as published: alpha by block (v acted out in 32 bits)",
    recipe: stored(m4),
    after: soloAsPublished,
  },
  {
    name: "4/2 bits: m nf4, v log, stochastic",
    recipe: stored(nf4, { ...log2, rounding: "stochastic" }),
  },
  {
    name: "4/2 bits: m nf4, v log, preconditioner",
    recipe: stored(nf4, { ...log2, rounding: "preconditioner" }),
  },
  {
    name: "4/2 bits: m nf4, v linear without zero, nearest",
    recipe: stored(nf4, { bits: 2, codebook: "linear-nozero", blockSize: 128 }),
  },
];

/** All of them, by the name of their table. */
export const tables = {
  ablation8,
  sensitive,
  secondMoment,
  firstMoment,
  beyond,
} as const;
export type TableName = keyof typeof tables;
