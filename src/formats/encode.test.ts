// Coding against brute force: every upper half of a float32, with the lower
// halves where something could go wrong.

import { describe, expect, test } from "vitest";
import { codebook, codebookNames, quantileCodebook } from "./codebook.ts";
import {
  bitsFloat,
  encodeByTable,
  encodeTable,
  encodeWith,
  floatBits,
  orderedBits,
  thresholds,
  type Rounding,
} from "./encode.ts";

interface Named {
  readonly title: string;
  readonly values: Float32Array;
  readonly signed: boolean;
}

/** Every named codebook in every width and sign that it comes in. */
const named: Named[] = codebookNames.flatMap((name) =>
  [2, 3, 4, 5, 6, 7, 8].flatMap((bits) =>
    [true, false].flatMap((signed) => {
      try {
        return [
          {
            title: `${name}, ${bits} bits${signed ? "" : ", unsigned"}`,
            values: codebook(name, { bits, signed }),
            signed,
          },
        ];
      } catch (error) {
        if (error instanceof RangeError) return [];
        throw error;
      }
    }),
  ),
);

const roundings: Rounding[] = ["nearest", "nearest-keep-sign", "down"];

/** All float32 but NaN with these lower halves, as a generator would be too slow. */
const probes = (() => {
  const out = new Float32Array(4 * 2 ** 16);
  let n = 0;
  for (let prefix = 0; prefix < 2 ** 16; prefix++)
    for (const low of [0, 0x7fff, 0x8000, 0xffff]) {
      const x = bitsFloat((prefix << 16) | low);
      if (!Number.isNaN(x)) out[n++] = x;
    }
  return out.subarray(0, n);
})();

/** The floats around every threshold. */
function edges(limits: Int32Array): number[] {
  return [...limits].flatMap((limit) =>
    [-2, -1, 0, 1, 2].map((by) => {
      const ordered = limit + by;
      return bitsFloat(ordered >= 0 ? ordered : (-ordered - 1) | 0x80000000);
    }),
  );
}

test("there are as many codebooks as encoding was derived for", () => {
  // Six families with 7 widths and 2 signs, one without, nf4, fp4 and two of fp8.
  expect(named).toHaveLength(6 * 7 * 2 + 7 + 4);
});

test("orderedBits grows with the number, -0 just below +0", () => {
  const ascending = [
    -Infinity,
    -2,
    -1,
    -1e-40,
    -0,
    0,
    1e-40,
    1,
    2,
    Infinity,
  ].map(orderedBits);
  expect([...ascending].sort((a, b) => a - b)).toEqual(ascending);
  expect(new Set(ascending).size).toBe(ascending.length);
  expect(bitsFloat(floatBits(-1.5))).toBe(-1.5);
});

describe.each(named)("$title", ({ values, signed }) => {
  test("nearest is nearest, for every probe, and a tie goes to the lower entry", () => {
    const limits = thresholds(values, "nearest");
    const top = values.length - 1;
    // What a midpoint in float32 may be off by.
    const midpoints = Float32Array.from(
      limits,
      (_, k) => Math.fround(values[k]! + values[k + 1]!) / 2,
    );
    let wrong = 0;
    const check = (x: number) => {
      const code = encodeWith(limits, x);
      const below = code === 0 || x > midpoints[code - 1]!;
      const above = code === top || x <= midpoints[code]!;
      const distance = Math.abs(x - values[code]!);
      const slack =
        2 ** -22 * Math.max(Math.abs(values[code]!), Math.abs(x)) + 2 ** -149;
      const nearer =
        (code > 0 && Math.abs(x - values[code - 1]!) < distance - slack) ||
        (code < top && Math.abs(x - values[code + 1]!) < distance - slack);
      if (!below || !above || nearer) wrong++;
    };
    for (let i = 0; i < probes.length; i++) check(probes[i]!);
    edges(limits).forEach(check);
    expect(wrong).toBe(0);
    midpoints.forEach((midpoint, k) => {
      if (values[k]! < values[k + 1]!)
        expect(encodeWith(limits, midpoint), `midpoint ${midpoint}`).toBe(k);
    });
  });

  test("every entry is coded as itself", () => {
    for (const rounding of roundings) {
      const limits = thresholds(values, rounding);
      const wrong = values.findIndex(
        (value) => values[encodeWith(limits, value)] !== value,
      );
      expect(wrong, rounding).toBe(-1);
    }
  });

  test("a larger number never has a lower code", () => {
    const ascending = Float32Array.from(probes).sort();
    for (const rounding of roundings) {
      const limits = thresholds(values, rounding);
      let last = 0;
      let falls = 0;
      for (const x of ascending) {
        const code = encodeWith(limits, x);
        if (code < last) falls++;
        last = code;
      }
      expect(falls, rounding).toBe(0);
    }
  });

  test("'down' takes the largest entry that is not above", () => {
    const limits = thresholds(values, "down");
    let wrong = 0;
    for (const x of probes) {
      const code = encodeWith(limits, x);
      const upper = values[code + 1];
      const fits =
        (values[code]! <= x || code === 0) &&
        (upper === undefined || upper > x);
      if (!fits) wrong++;
    }
    expect(wrong).toBe(0);
  });

  test("keepSign differs from nearest only where the sign would change", () => {
    if (!signed)
      return expect(thresholds(values, "nearest-keep-sign")).toEqual(
        thresholds(values, "nearest"),
      );
    const nearest = thresholds(values, "nearest");
    const keep = thresholds(values, "nearest-keep-sign");
    let wrong = 0;
    for (const x of probes) {
      const plain = encodeWith(nearest, x);
      const code = encodeWith(keep, x);
      // bitsandbytes' rule, by sign bits: -0 is negative.
      const negative = x < 0 || Object.is(x, -0);
      const entry = values[plain]!;
      const moved =
        negative === entry < 0 ? plain : plain + (negative ? -1 : 1);
      const exists = negative ? values[0]! < 0 : values.at(-1)! >= 0;
      if (exists && code !== moved && values[code] !== values[moved]) wrong++;
    }
    expect(wrong).toBe(0);
  });

  test("the table codes like bisection, for every probe and around every threshold", () => {
    for (const rounding of roundings) {
      const limits = thresholds(values, rounding);
      const table = encodeTable(limits, signed);
      if (!table) {
        // Two thresholds in one place cannot be told apart: an entry twice.
        expect([rounding, new Set(values).size], "no table").toEqual([
          "down",
          values.length - 1,
        ]);
        continue;
      }
      let wrong = 0;
      let first: number | undefined;
      const check = (x: number) => {
        // An unsigned state's lowest code stands for anything below it.
        if (encodeByTable(table, x) !== encodeWith(limits, x)) {
          wrong++;
          first ??= x;
        }
      };
      for (let i = 0; i < probes.length; i++) check(probes[i]!);
      edges(limits)
        .filter((x) => !Number.isNaN(x))
        .forEach(check);
      expect(wrong, `${rounding}, first at ${first}`).toBe(0);
    }
  });
});

test("a codebook of data gets a table or none, never a wrong one", () => {
  const random = (i: number) => Math.sin(i * 12.9898) * Math.cos(i * 4.1414);
  for (const spread of [1, 1e-3, 1e-6]) {
    const values = quantileCodebook(
      Array.from({ length: 8192 }, (_, i) => random(i) * (i % 2 ? 1 : spread)),
    );
    const limits = thresholds(values, "nearest");
    const table = encodeTable(limits, true);
    if (!table) continue;
    const wrong = probes.filter(
      (x) =>
        Math.abs(x) <= 1 && encodeByTable(table, x) !== encodeWith(limits, x),
    );
    expect(wrong).toHaveLength(0);
  }
  // Ten thresholds within a few ulp share a bucket of any reasonable table.
  const close = Float32Array.from({ length: 10 }, (_, i) => 0.5 + i * 2 ** -22);
  expect(encodeTable(thresholds(close, "nearest"), true)).toBeUndefined();
});

test("NaN is coded as 0", () => {
  expect(encodeWith(thresholds(codebook("dynamic"), "nearest"), NaN)).toBe(0);
});
