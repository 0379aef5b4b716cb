// Every way to store a state, on every engine against the reference.

import { adamw, quantileCodebook, sgd, type FormatOptions } from "lowbit";
import { test } from "vitest";
import { expectConformance } from "./support/conformance.ts";
import { describeEngines } from "./support/engines.ts";
import { normals } from "./support/numbers.ts";

const sizes = [1, 6, 257, 1003, 4097];

const families = [
  "dynamic",
  "dynamic-nozero",
  "linear",
  "linear-nozero",
  "power-2",
  "power-3",
];
const signedOnly: FormatOptions[] = [
  { bits: 4, codebook: "nf4" },
  { bits: 4, codebook: "fp4" },
  { bits: 8, codebook: "fp8-e4m3" },
  { bits: 8, codebook: "fp8-e5m2" },
];
const blockSizes: [m: number, v: number][] = [
  [32, 4096],
  [64, 128],
  [128, 64],
  [256, 32],
  [512, 2048],
  [1024, 256],
  [2048, 1024],
  [4096, 512],
];
const close = Array.from({ length: 100 }, (_, i) => 0.5 + i * 1e-6);
const customs: Record<string, FormatOptions> = {
  "13 values in 4 bits": {
    bits: 4,
    codebook: [
      -1, -0.7, -0.4, -0.2, -0.1, -0.02, 0, 0.01, 0.05, 0.2, 0.4, 0.8, 1,
    ],
  },
  "two values in 2 bits": { bits: 2, codebook: [-0.5, 0.5] },
  "three values in 3 bits": { bits: 3, codebook: [-1, 0, 1] },
  "values that end below 1": {
    bits: 4,
    codebook: [-0.3, -0.1, 0, 0.1, 0.3, 0.5],
  },
  "the quantiles of data": {
    bits: 8,
    codebook: quantileCodebook(normals(8192, 5)),
  },
  "values a few ulp apart": { bits: 8, codebook: [-1, 0, ...close, 1] },
  "a value twice": { bits: 4, codebook: [-1, 0, 0, 0.5, 0.5, 1] },
};

/** Pairs for m and v in which every option of the lists above is met once. */
const medley: [m: FormatOptions, v: FormatOptions][] = [
  [{ bits: 2 }, { bits: 8 }],
  [
    { bits: 3, codebook: "linear" },
    { bits: 5, codebook: "linear-nozero" },
  ],
  [
    { bits: 4, codebook: "nf4" },
    { bits: 4, blockSize: 32 },
  ],
  [
    { bits: 6, codebook: "dynamic-nozero" },
    { bits: 2, codebook: "linear", blockSize: 2048 },
  ],
  [
    { bits: 7, codebook: "linear-nozero", blockSize: 64 },
    { bits: 3, codebook: "dynamic-nozero" },
  ],
  [
    { bits: 8, codebook: "fp8-e4m3" },
    { bits: 8, codebook: "fp8-e5m2", signed: true, blockSize: 4096 },
  ],
  [
    { bits: 4, codebook: "fp4", blockSize: 1024 },
    { bits: 6, codebook: "dynamic", blockSize: 512 },
  ],
  [
    { bits: 8, keepSign: true },
    { bits: 4, codebook: "dynamic" },
  ],
  [
    { bits: 4, rounding: "stochastic" },
    { bits: 8, rounding: "stochastic" },
  ],
  [
    { bits: 8, scale: "tensor" },
    { bits: 4, scale: "tensor" },
  ],
  [{ bits: 32 }, { bits: 2, rounding: "stochastic" }],
  [customs["values a few ulp apart"]!, { bits: 32 }],
  [
    { bits: 4, codebook: "nf4", correctScale: true },
    { bits: 4, codebook: "dynamic-nozero", correctScale: true },
  ],
  [
    { bits: 2, codebook: "power-2", correctScale: true, blockSize: 32 },
    { bits: 4, codebook: "dynamic", rounding: "preconditioner" },
  ],
  [
    { bits: 5, codebook: "power-3", rounding: "stochastic" },
    { bits: 2, codebook: "log", rounding: "stochastic" },
  ],
  [
    { bits: 4, rounding: "stochastic", correctScale: true },
    {
      bits: 8,
      rounding: "preconditioner",
      correctScale: true,
      blockSize: 4096,
    },
  ],
  [
    { bits: 3, codebook: "power-2", scale: "tensor" },
    { bits: 2, rounding: "preconditioner", scale: "tensor" },
  ],
];

describeEngines(
  (engine) => {
    const conforms = (m: FormatOptions, v: FormatOptions) =>
      expectConformance(engine, {
        // A large eps, where rounding takes it into account.
        recipe: adamw({
          eps: v.rounding === "preconditioner" ? 1e-2 : 1e-8,
          state: { m, v },
        }),
        sizes,
        options: { minQuantizedSize: 0, seed: 3 },
      });

    medley.forEach(([m, v], i) =>
      test(`every option is stored as the reference stores it, pair ${i + 1}`, () =>
        conforms(m, v)),
    );
    if (engine.slow) return;

    for (const codebook of families)
      for (let bits = 2; bits <= 8; bits++)
        test(`${bits}-bit ${codebook} stores what the reference stores`, () =>
          conforms({ bits, codebook }, { bits, codebook }));

    for (let bits = 2; bits <= 8; bits++)
      test(`${bits}-bit log stores what the reference stores`, () =>
        conforms({ bits }, { bits, codebook: "log", rounding: "stochastic" }));

    for (const blockSize of [32, 128, 1024, 4096])
      for (const bits of [2, 4, 8])
        test(`scales of blocks of ${blockSize} in ${bits} bits are corrected alike`, () =>
          conforms(
            { bits, blockSize, correctScale: true },
            {
              bits,
              blockSize,
              correctScale: true,
              rounding: "preconditioner",
            },
          ));

    for (const format of signedOnly)
      test(`${String(format.codebook)} stores what the reference stores`, () =>
        conforms(format, { ...format, signed: true }));

    for (const [title, format] of Object.entries(customs))
      test(`a codebook of ${title} stores what the reference stores`, () =>
        conforms(format, { bits: 8 }));

    for (const [m, v] of blockSizes)
      for (const bits of [8, 4])
        test(`blocks of ${m} and ${v} in ${bits} bits go together`, () =>
          expectConformance(engine, {
            recipe: adamw({
              bits,
              state: { m: { blockSize: m }, v: { blockSize: v } },
            }),
            sizes: [5, 1003, 4095, 8200],
            options: { minQuantizedSize: 0 },
          }));

    for (const bits of [2, 3, 4, 5, 8]) {
      test(`one scale a tensor works in ${bits} bits`, () =>
        conforms({ bits, scale: "tensor" }, { bits, scale: "tensor" }));
      test(`one scale a tensor for m works beside blocks for v in ${bits} bits`, () =>
        conforms({ bits, scale: "tensor" }, { bits }));
      test(`stochastic rounding draws the reference's numbers in ${bits} bits`, () =>
        conforms(
          { bits, rounding: "stochastic" },
          { bits, rounding: "stochastic", codebook: "dynamic" },
        ));
      test(`keepSign keeps the signs that the reference keeps in ${bits} bits`, () =>
        conforms({ bits, keepSign: true }, { bits: 8 }));
    }

    for (const [m, v] of [
      [32, 8],
      [8, 32],
      [4, 8],
      [8, 4],
      [2, 8],
      [3, 2],
      [32, 4],
      [2, 32],
    ] as const)
      test(`m in ${m} bits goes with v in ${v} bits`, () =>
        conforms({ bits: m }, { bits: v }));

    test("stochastic rounding of sgd's momentum depends on the seed", () =>
      expectConformance(engine, {
        recipe: sgd({ bits: 4, state: { m: { rounding: "stochastic" } } }),
        sizes: [4097, 4097],
        options: { seed: 0xffffffff },
      }));
  },
  ({ name, twinOf }) => name !== "reference" && !twinOf,
);
