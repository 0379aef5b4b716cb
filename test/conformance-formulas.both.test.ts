// Every recipe of the registry and formulas of the tests' own, on every engine
// against the reference.

import { adamw, optimizers, type Recipe } from "lowbit";
import { expect, test } from "vitest";
import { expectConformance, type Case } from "./support/conformance.ts";
import { describeEngines } from "./support/engines.ts";
import {
  anchored,
  arithmetic,
  everything,
  forgetful,
  lionLike,
  stateless,
  trusting,
  warming,
  wide,
} from "./support/formulas.ts";

const allSizes = [
  0, 1, 3, 127, 128, 255, 256, 257, 1000, 4095, 4096, 4097, 20011,
];
const fewSizes = [0, 3, 127, 129, 4095, 4097];

/** Whether its form for vectors, which all tensors here are, has reductions or states of one number. */
const reduces = ({ optimizer }: Recipe) =>
  optimizer.vector!.program.small.includes(true);

// A twin is held to its twin, bit for bit, in conformance-odd.
describeEngines(
  (engine) => {
    const expectWhereItCan = async (
      skip: (reason: string) => void,
      one: Case,
    ) => {
      const attempt = expectConformance(engine, one);
      if (!engine.noReductions || !reduces(one.recipe)) return attempt;
      await expect(attempt, "it can now").rejects.toThrow();
      skip(engine.noReductions);
    };

    for (const [name, factory] of optimizers()) {
      // `adamw` is adamw32bit, and adamw4bitBlock differs from adamw4bit in a codebook.
      if (!/\dbit$/.test(name)) continue;
      if (engine.slow && !/^(adamw|sgd)\d|8bit$/.test(name)) continue;
      // Every size for some; the others differ in their formula alone.
      const sizes = /^(adamw|sgd)\d/.test(name) ? allSizes : fewSizes;
      test(`${name} takes the reference's steps, small tensors in 32 bits`, ({
        skip,
      }) =>
        expectWhereItCan(skip, {
          recipe: factory(),
          sizes,
          exact: !reduces(factory()),
        }));
      test(`${name} takes the reference's steps when every size is quantized`, ({
        skip,
      }) =>
        expectWhereItCan(skip, {
          recipe: factory({ weightDecay: 0.1 }),
          sizes: fewSizes,
          options: { minQuantizedSize: 0, seed: 7 },
          exact: !reduces(factory()),
        }));
    }

    const formulas = {
      anchored,
      arithmetic,
      everything,
      forgetful,
      lionLike,
      stateless,
      warming,
      wide,
    };
    for (const [name, factory] of Object.entries(formulas))
      for (const bits of [32, 8, 4])
        test(`the formula '${name}' gives the reference's numbers in ${bits} bits`, () =>
          expectConformance(engine, {
            recipe: factory({ bits }),
            sizes: [1, 257, 1003, 4097],
            exact: name !== "everything",
            options: { minQuantizedSize: 0 },
            lr: (t) => 1e-2 / t,
          }));

    for (const bits of [32, 8])
      test(`norms of the tensor give the reference's numbers in ${bits} bits`, ({
        skip,
      }) =>
        expectWhereItCan(skip, {
          recipe: trusting({ bits }),
          sizes: [1, 1003, 4097],
          options: { minQuantizedSize: 0 },
          exact: false,
        }));

    test("a maximal norm scales every gradient alike", () =>
      expectConformance(engine, {
        recipe: adamw({ bits: 8 }),
        sizes: [0, 5, 1000, 4097],
        options: { maxGradNorm: 0.05 },
        exact: false,
      }));
    test("a maximal norm that is not reached changes nothing", () =>
      expectConformance(engine, {
        recipe: adamw({ bits: 8 }),
        sizes: [5, 4097],
        options: { maxGradNorm: 1e9 },
      }));
    for (const skipNonFinite of ["element", "step", "off"] as const)
      test(`finite gradients pass with skipNonFinite '${skipNonFinite}'`, () =>
        expectConformance(engine, {
          recipe: adamw({ bits: 8 }),
          sizes: [5, 4097],
          options: { skipNonFinite },
        }));
    for (const skipNonFinite of ["element", "step"] as const)
      for (const maxGradNorm of [undefined, 0.1])
        test(`gradients that are not finite are left out alike with skipNonFinite '${skipNonFinite}'${maxGradNorm ? " and a maximal norm" : ""}`, () =>
          expectConformance(engine, {
            recipe: adamw({ bits: 8 }),
            sizes: [5, 300, 4097],
            exact: maxGradNorm === undefined,
            options: {
              skipNonFinite,
              ...(maxGradNorm ? { maxGradNorm } : {}),
            },
            gradient: (size, tensor, step) =>
              Float32Array.from({ length: size }, (_, i) =>
                step % 3 === 0 && i % 50 === tensor
                  ? [NaN, Infinity, -Infinity][((i / 50) % 3) | 0]!
                  : Math.sin(i * step + tensor) * 0.1,
              ),
          }));
    test("groups and overrides reach the tensors they name", () =>
      expectConformance(engine, {
        recipe: adamw({ bits: 8, lr: 1e-3 }),
        sizes: [300, 4097, 5000, 5000, 4100],
        options: {
          groups: [
            {
              name: "fast",
              parameters: ["t1", "t2"],
              lr: (t) => 0.1 / t,
              beta1: 0.5,
            },
          ],
          overrides: [
            { match: /^t[0-3]$/, weightDecay: 0 },
            { match: "t0", bits: 4 },
            {
              match: "t3",
              state: {
                v: { bits: 32 },
                m: { codebook: "linear", blockSize: 64 },
              },
            },
            { match: "t4", minQuantizedSize: 5000 },
          ],
        },
      }));
  },
  ({ name, twinOf }) => name !== "reference" && !twinOf,
);
