// Codebooks by their definition, and errors that say what there is.

import { codebook, codebookNames, quantileCodebook } from "lowbit";
import { describe, expect, test } from "vitest";

describe("codebooks", () => {
  const close = (actual: Float32Array, expected: number[]) => {
    expect(actual).toHaveLength(expected.length);
    actual.forEach((value, i) => expect(value).toBeCloseTo(expected[i]!, 6));
  };

  test("signed 8-bit dynamic is the paper's: 256 values from -0.99296875 to 1, 0 at code 127, no -1", () => {
    const values = codebook("dynamic");
    expect(values).toHaveLength(256);
    expect(values[0]).toBe(Math.fround(-0.99296875));
    expect(values[254]).toBe(Math.fround(0.99296875));
    expect(values[255]).toBe(1);
    expect(values[127]).toBe(0);
    expect(values).not.toContain(-1);
    expect(values[128]! / 5.5e-7).toBeCloseTo(1, 5);
    // Codes a decade on the positive side, from (0.1, 1] down.
    const decade = (k: number) =>
      values.filter((v) => v > 10 ** -(k + 1) && v <= 10 ** -k).length;
    expect([0, 1, 2, 3, 4, 5, 6].map(decade)).toEqual([65, 32, 16, 8, 4, 2, 1]);
  });

  test("unsigned 8-bit dynamic is the paper's: 256 values from 0 to 1", () => {
    const values = codebook("dynamic", { signed: false });
    expect(values).toHaveLength(256);
    expect([values[0], values[255]]).toEqual([0, 1]);
    expect(values[1]! / 3.25e-7).toBeCloseTo(1, 5);
    const decade = (k: number) =>
      values.filter((v) => v > 10 ** -(k + 1) && v <= 10 ** -k).length;
    expect([0, 1, 2, 3, 4, 5, 6].map(decade)).toEqual([
      129, 64, 32, 16, 8, 4, 2,
    ]);
  });

  test("4-bit dynamic is paper 2's dynamic exponent map, signed and unsigned", () => {
    close(
      codebook("dynamic", { bits: 4 }),
      [
        -0.8875, -0.6625, -0.4375, -0.2125, -0.0775, -0.0325, -0.0055, 0,
        0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875, 1,
      ],
    );
    const unsigned = [
      0, 0.00325, 0.00775, 0.02125, 0.04375, 0.06625, 0.08875, 0.15625, 0.26875,
      0.38125, 0.49375, 0.60625, 0.71875, 0.83125, 0.94375, 1,
    ];
    close(codebook("dynamic", { bits: 4, signed: false }), unsigned);
    close(
      codebook("dynamic-nozero", { bits: 4, signed: false }),
      unsigned.slice(1),
    );
  });

  test("unsigned linear without zero is (k + 1) / 2^bits", () => {
    for (let bits = 2; bits <= 8; bits++)
      close(
        codebook("linear-nozero", { bits, signed: false }),
        Array.from({ length: 2 ** bits }, (_, k) => (k + 1) / 2 ** bits),
      );
  });

  test("unsigned linear is evenly spaced from 0 to 1", () => {
    for (let bits = 2; bits <= 8; bits++)
      close(
        codebook("linear", { bits, signed: false }),
        Array.from({ length: 2 ** bits }, (_, k) => k / (2 ** bits - 1)),
      );
  });

  test("nf4 is QLoRA's table", () => {
    close(
      codebook("nf4"),
      [
        -1, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343,
        -0.09105004, 0, 0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983,
        0.562617, 0.72295684, 1,
      ],
    );
  });

  test("fp4 holds the values of its bits over 12", () => {
    const half = [0, 0.0625, 2, 3, 4, 6, 8, 12].map((value) => value / 12);
    close(
      codebook("fp4"),
      [...half.slice(1).map((v) => -v), ...half].sort((a, b) => a - b),
    );
  });

  for (const name of codebookNames)
    test(`'${name}' ascends within [-1, 1] in every width, and has a 0 unless it says otherwise`, () => {
      for (let bits = 2; bits <= 8; bits++)
        for (const signed of [true, false]) {
          let values: Float32Array;
          try {
            values = codebook(name, { bits, signed });
          } catch {
            continue;
          }
          expect(values.length).toBeLessThanOrEqual(2 ** bits);
          expect(values.length).toBeGreaterThan(2 ** (bits - 1));
          expect(values.every((v, i) => i === 0 || v >= values[i - 1]!)).toBe(
            true,
          );
          expect(values[0]).toBeGreaterThanOrEqual(signed ? -1 : 0);
          expect(values.at(-1)).toBe(1);
          expect(values.includes(0)).toBe(!/nozero$|^power|^log$/.test(name));
          expect(values.some((v) => Object.is(v, -0))).toBe(false);
        }
    });

  test("a quantile codebook holds the data's quantiles, scaled to 1", () => {
    const uniform = Float32Array.from(
      { length: 4096 },
      (_, i) => (i / 4095) * 2 - 1,
    ).sort(() => 0);
    const values = quantileCodebook(uniform, { bits: 4 });
    expect(values).toHaveLength(16);
    expect(values.at(-1)).toBe(1);
    // Evenly spaced data have evenly spaced quantiles.
    const gaps = Array.from(values.slice(1), (v, i) => v - values[i]!);
    for (const gap of gaps) expect(gap).toBeCloseTo(2 / 15, 2);
    const skewed = quantileCodebook(uniform.map((x) => x ** 3));
    expect(skewed.filter((v) => Math.abs(v) < 0.125).length).toBeGreaterThan(
      100,
    );
  });

  test.each<[string, () => unknown, string | RegExp]>([
    [
      "an unknown name",
      () => codebook("dynamik"),
      "codebook: unknown codebook 'dynamik'; there are dynamic, dynamic-nozero, linear, linear-nozero, power-2, power-3, log, nf4, fp4, fp8-e4m3, fp8-e5m2",
    ],
    [
      "a name of Object.prototype",
      () => codebook("toString"),
      "codebook: unknown codebook 'toString'",
    ],
    [
      "quantile by name",
      () => codebook("quantile"),
      "pass { codebook: quantileCodebook(sample) }",
    ],
    [
      "9 bits",
      () => codebook("dynamic", { bits: 9 }),
      "codebook: 'dynamic' comes in 2 to 8 bits, given 9",
    ],
    ["1 bit", () => codebook("linear", { bits: 1 }), "given 1"],
    [
      "nf4 in 8 bits",
      () => codebook("nf4", { bits: 8 }),
      "codebook: 'nf4' comes in 4 bits, given 8",
    ],
    [
      "signed log",
      () => codebook("log", { signed: true }),
      "'log' is unsigned only; use dynamic, nf4 or linear-nozero",
    ],
    [
      "unsigned nf4",
      () => codebook("nf4", { signed: false }),
      "'nf4' is signed only; use dynamic, linear-nozero or dynamic-nozero",
    ],
    [
      "too few values for quantiles",
      () => quantileCodebook([1, 2, 3]),
      "needs at least 256 finite values, given 3",
    ],
    [
      "NaN among them",
      () => quantileCodebook([NaN, 1, 2, 3], { bits: 2 }),
      "with some not finite",
    ],
  ])("%s is an error that says what there is", (_, make, message) => {
    expect(make).toThrow(message);
  });
});
