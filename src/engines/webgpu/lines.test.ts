import { describe, expect, test } from "vitest";
import { codebook } from "../../formats/codebook.ts";
import { bitsFloat, encodeWith, thresholds } from "../../formats/encode.ts";
import { encodeByLines, lineTable } from "./lines.ts";

const number = (ordered: number) =>
  bitsFloat(ordered >= 0 ? ordered : (-ordered - 1) | 0x80000000);

describe.each([
  ["dynamic", 8, true],
  ["dynamic", 7, true],
  ["dynamic", 4, true],
  ["dynamic", 4, false],
  ["linear", 8, true],
  ["linear", 8, false],
  ["nf4", 4, true],
  ["fp4", 4, true],
] as const)("lines for %s, %i bits, signed %s", (name, bits, signed) => {
  const limits = thresholds(codebook(name, { bits, signed }), "nearest");
  const table = lineTable(limits, signed)!;

  test("are there", () => {
    expect(table).toBeDefined();
    expect(table.pairs.length).toBeLessThanOrEqual(1024);
  });

  test("are right but for some ulp beside a threshold", () => {
    for (const [k, limit] of limits.entries()) {
      // A few ulp, or a millionth of the distance to the next one.
      const x = number(limit);
      const ulp = Math.abs(number(limit + 1) - x);
      const gap = Math.abs(number(limits[k + 1] ?? limits[k - 1]!) - x);
      const off = Math.min(64, Math.max(4, Math.ceil(gap / ulp / 2 ** 20)));
      for (const [at, code] of [
        [limit + off, k + 1],
        [limit - 1 - off, k],
      ] as const)
        expect(encodeByLines(table, number(at)), String(number(at))).toBe(code);
    }
  });

  test("are right everywhere else", () => {
    let x = 1;
    for (let i = 0; i < 20000; i++) {
      x *= 0.9991;
      for (const sign of signed ? [1, -1] : [1]) {
        const value = Math.fround(sign * x);
        const found = encodeByLines(table, value);
        if (found !== encodeWith(limits, value))
          // Beside a threshold then.
          expect([
            encodeWith(limits, value * (1 + 2e-6)),
            encodeWith(limits, value * (1 - 2e-6)),
          ]).toContain(found);
      }
    }
  });

  test.each([0, -0, 1, -1, 1.000001, -1.000001, 1e-30, -1e-30])(
    "of %d",
    (x) => {
      const value = Math.fround(signed ? x : Math.max(x, 0));
      expect(encodeByLines(table, value)).toBe(encodeWith(limits, value));
    },
  );
});

test("there are none for thresholds too close for a line", () => {
  const values = Float32Array.of(0, 0.5, 0.5 + 2 ** -24, 0.5 + 2 ** -23, 1);
  expect(lineTable(thresholds(values, "nearest"), false)).toBeUndefined();
});
