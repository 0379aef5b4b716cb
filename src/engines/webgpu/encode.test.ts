import { expect, test } from "vitest";
import { codebook, codebookNames } from "../../formats/codebook.ts";
import { bitsFloat, encodeWith, thresholds } from "../../formats/encode.ts";
import { encodeInShader, shaderTable } from "./encode.ts";

const roundings = ["nearest", "nearest-keep-sign", "down"] as const;

for (const name of codebookNames)
  test(`the table of ${name} gives the code of every kind of number`, () => {
    for (const bits of [2, 4, 6, 8])
      for (const signed of [true, false])
        for (const rounding of roundings) {
          let values: Float32Array;
          try {
            values = codebook(name, { bits, signed });
          } catch {
            continue; // not every codebook comes in every form
          }
          const limits = thresholds(values, rounding);
          const table = shaderTable(limits, signed);
          expect(table.kind).toBe("octaves");
          const wrong: number[] = [];
          const look = (x: number) => {
            if (Math.abs(x) > 1 || (!signed && (x < 0 || Object.is(x, -0))))
              return;
            if (encodeInShader(table, x) !== encodeWith(limits, x))
              wrong.push(x);
          };
          for (let b = 0; b <= 0x3f800000; b += 49_999)
            for (const sign of [0, 0x80000000]) look(bitsFloat(b | sign));
          for (const limit of limits)
            for (const ordered of [limit - 1, limit, limit + 1])
              look(
                bitsFloat(ordered >= 0 ? ordered : (-ordered - 1) | 0x80000000),
              );
          for (const x of [0, -0, 1, -1]) look(x);
          expect(wrong, `${bits} bits, ${rounding}`).toEqual([]);
        }
  });

test("thresholds too close for a table are searched", () => {
  const values = Float32Array.of(0, 0.5, 0.5 + 2 ** -24, 0.5 + 2 ** -23, 1);
  const table = shaderTable(thresholds(values, "nearest"), false);
  expect(table.kind).toBe("search");
});
