import { expect, test } from "vitest";
import { bitsFloat, encodeWith, thresholds } from "../../formats/encode.ts";
import { resolveFormat, type QuantizedFormat } from "../../formats/format.ts";
import { encodeStep, isSteps } from "./steps.ts";

const formatOf = (bits: number, sign: "signed" | "unsigned" = "unsigned") =>
  resolveFormat({ codebook: "linear-nozero", bits }, sign) as QuantizedFormat;

for (const bits of [2, 3, 4, 8])
  test(`steps of ${bits} bits: the table's codes, but for 2^-23 above the middle`, () => {
    const format = formatOf(bits);
    expect(isSteps(format)).toBe(true);
    const limits = thresholds(format.values, "nearest");
    const wrong: number[] = [];
    const look = (x: number) => {
      const code = encodeStep(bits, x);
      if (
        code !== encodeWith(limits, x) &&
        code !== encodeWith(limits, x - 2 ** -23)
      )
        wrong.push(x);
    };
    for (let b = 0; b <= 0x3f800000; b += 0xfff) look(bitsFloat(b));
    for (const limit of limits)
      for (const d of [-3, -2, -1, 0, 1, 2, 99]) look(bitsFloat(limit + d));
    for (const x of [0, -0, -0.5, 1]) look(x);
    expect(wrong).toEqual([]);
  });

test("other codebooks are not steps", () => {
  expect(isSteps(formatOf(4, "signed"))).toBe(false);
  expect(isSteps({ ...formatOf(4), rounding: "stochastic" })).toBe(false);
});
