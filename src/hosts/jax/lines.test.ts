// Codebooks as lines: what jax-js computes with them, against the thresholds and the entries.
import * as jax from "@jax-js/jax";
import { beforeAll, describe, expect, test } from "vitest";
import {
  codebook,
  codebookNames,
  type CodebookName,
} from "../../formats/codebook.ts";
import { encodeWith, thresholds } from "../../formats/encode.ts";
import { openJax } from "../../../test/support/jax.ts";
import { normals } from "../../../test/support/numbers.ts";
import {
  decodeByLines,
  decodingLines,
  encodeByLines,
  encodingLines,
  type Line,
} from "./lines.ts";
import { openScope } from "./scope.ts";

/** By operations of jax-js. */
async function compute(
  x: Float32Array,
  lines: readonly Line[],
  by: typeof decodeByLines,
): Promise<ArrayLike<number>> {
  const scope = openScope(jax);
  const result = by(scope, scope.array(x), lines);
  scope.close([result]);
  return result.data();
}

/** Few of them near 0, where most thresholds are: magnitudes of all sizes. */
function inputs(signed: boolean): Float32Array {
  const all = normals(40_000, 7, 0.3);
  return all.map((x, i) => {
    const value = i % 2 ? x : Math.sign(x) * 10 ** -(Math.abs(x) * 20);
    const inside = Math.max(-1, Math.min(1, value));
    return signed ? inside : Math.abs(inside);
  });
}

const known = codebookNames.flatMap((name) =>
  [4, 8].flatMap((bits) =>
    [true, false].flatMap((signed) => {
      try {
        return [
          { name, bits, signed, values: codebook(name, { bits, signed }) },
        ];
      } catch {
        return [];
      }
    }),
  ),
);
/** With 8 bits these have as many slopes as entries, or nearly: look-ups remain. */
const curved = ["power-2", "power-3", "log", "fp8-e5m2"];

beforeAll(() => openJax("wasm"));

describe.each(known)("$name, $bits bits, signed: $signed", (one) => {
  const { name, bits, values, signed } = one;
  const isCurved = bits === 8 && curved.includes(name);

  test("decodes", async () => {
    const lines = decodingLines(values);
    expect(lines === undefined).toBe(isCurved);
    if (!lines) return;
    const decoded = await compute(
      values.map((_, i) => i),
      lines,
      decodeByLines,
    );
    const worst = values.map((value, i) => {
      const off = Math.abs(decoded[i]! - value);
      return off && off / Math.abs(value);
    });
    expect(Math.max(...worst)).toBeLessThanOrEqual(bits === 4 ? 0 : 5e-7);
  });

  test("encodes", async () => {
    for (const rounding of ["nearest", "nearest-keep-sign"] as const) {
      const limits = thresholds(values, rounding);
      const lines = encodingLines(limits);
      expect(lines === undefined).toBe(isCurved);
      if (!lines) continue;
      const x = inputs(signed);
      const codes = await compute(x, lines, encodeByLines);
      const off = x.map((value, i) =>
        Math.abs(codes[i]! - encodeWith(limits, value)),
      );
      expect(Math.max(...new Set(off))).toBeLessThanOrEqual(1);
      const differing = off.reduce((a, b) => a + b, 0);
      expect(differing / x.length).toBeLessThanOrEqual(2e-4);
    }
  });
});

test("the maps of the recipes are made of lines", () => {
  const made = (name: CodebookName, bits: number, signed: boolean) => {
    const values = codebook(name, { bits, signed });
    return [
      decodingLines(values)!.length,
      encodingLines(thresholds(values, "nearest"))!.length,
    ];
  };
  expect(made("dynamic", 8, true)).toEqual([14, 23]);
  expect(made("dynamic", 8, false)).toEqual([9, 14]);
  expect(made("linear-nozero", 4, false)).toEqual([1, 1]);
});
