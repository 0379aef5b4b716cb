// Formats through the door: stochastic rounding, packing, bytes.

import {
  adamw,
  adamw4bit,
  adamw8bit,
  codebook,
  dequantize,
  estimateMemory,
  packCodes,
  quantize,
  sgd,
  unpackCodes,
} from "lowbit";
import { describe, expect, test } from "vitest";
import { normals, randomSource } from "./support/numbers.ts";

describe("stochastic rounding", () => {
  const options = { bits: 4, rounding: "stochastic" } as const;
  const x = normals(256, 11);
  x[0] = 4; // the largest, so that the scale is known

  test("draws the same numbers for a seed, others for another", () => {
    const codes = (seed: number) => quantize(x, { ...options, seed }).codes;
    expect(codes(5)).toEqual(codes(5));
    expect(codes(6)).not.toEqual(codes(5));
  });

  test("gives one of the two neighbours, with the chances that make it right in the mean", () => {
    const trials = 4000;
    const sums = new Float64Array(x.length);
    const { values } = quantize(x, options).format;
    const scale = 4;
    for (let seed = 0; seed < trials; seed++)
      dequantize(quantize(x, { ...options, blockSize: 256, seed })).forEach(
        (value, i) => {
          sums[i]! += value;
          const [low, high] = neighbours(values, x[i]! / scale);
          if (
            value !== Math.fround(low * scale) &&
            value !== Math.fround(high * scale)
          )
            expect.fail(
              `${x[i]} became ${value}, between ${low * scale} and ${high * scale}`,
            );
        },
      );
    // A mean of n draws is off by more than 5 standard errors once in two million.
    const wrong = [...sums.keys()].filter((i) => {
      const [low, high] = neighbours(values, x[i]! / scale).map(
        (value) => value * scale,
      ) as [number, number];
      const deviation = Math.sqrt(
        Math.max(0, (high - x[i]!) * (x[i]! - low)) / trials,
      );
      return Math.abs(sums[i]! / trials - x[i]!) > 5 * deviation + 1e-5;
    });
    expect(wrong).toEqual([]);
  });

  test("leaves a value of the codebook as it is", () => {
    const values = codebook("dynamic", { bits: 4 });
    for (let seed = 0; seed < 50; seed++) {
      const { codes } = quantize(values, { ...options, seed });
      expect([...unpackCodes(codes, 4, 16)]).toEqual([...Array(16).keys()]);
    }
  });

  test("a value below the lowest entry takes the lowest", () => {
    // -1 is no entry of the dynamic map.
    for (let seed = 0; seed < 50; seed++)
      expect(quantize([-1, 0.5], { ...options, seed }).codes[0]! & 15).toBe(0);
  });

  function neighbours(values: Float32Array, t: number): [number, number] {
    const above = values.findIndex((value) => value > t);
    if (above < 0) return [values.at(-1)!, values.at(-1)!];
    return [values[Math.max(0, above - 1)]!, values[above]!];
  }
});

describe("packing", () => {
  test("puts the first element into the lowest bits", () => {
    expect([...packCodes(Uint8Array.of(1, 2, 3), 4)]).toEqual([0x21, 0x03]);
    expect([...packCodes(Uint8Array.of(1, 2, 3, 0, 2), 2)]).toEqual([
      0b00_11_10_01, 2,
    ]);
    expect([...packCodes(Uint8Array.of(7, 1), 3)]).toEqual([0x17]);
    expect([...packCodes(Uint8Array.of(31, 1), 5)]).toEqual([31, 1]);
  });

  test("unpacking gives back what was packed, in every width and length", () => {
    const random = randomSource(3);
    for (let bits = 2; bits <= 8; bits++)
      for (const length of [0, 1, 2, 3, 4, 5, 7, 8, 255, 1001]) {
        const codes = Uint8Array.from({ length }, () =>
          Math.floor(random() * 2 ** bits),
        );
        const packed = packCodes(codes, bits);
        const perByte = bits <= 2 ? 4 : bits <= 4 ? 2 : 1;
        expect(packed).toHaveLength(Math.ceil(length / perByte));
        expect(unpackCodes(packed, bits, length)).toEqual(codes);
      }
  });
});

describe("bytes a parameter", () => {
  const perParameter = (recipe: ReturnType<typeof adamw>) =>
    estimateMemory({ w: [1024, 1024] }, recipe).bytesPerParameter;

  test.each<[string, ReturnType<typeof adamw>, number]>([
    ["32-bit AdamW", adamw(), 8],
    ["8-bit AdamW", adamw8bit(), 2.03125],
    [
      "8-bit AdamW in the paper's blocks of 2048",
      adamw8bit({ blockSize: 2048 }),
      2.00390625,
    ],
    ["4-bit AdamW", adamw4bit(), 1.0625],
    ["8-bit SGD", sgd({ bits: 8 }), 1.015625],
    ["2-bit SGD, blocks of 128", sgd({ bits: 2 }), 0.25 + 4 / 128],
    ["6 bits, stored in 8", sgd({ bits: 6 }), 1.015625],
  ])("%s takes what the papers say", (_, recipe, bytes) => {
    expect(perParameter(recipe)).toBe(bytes);
  });
});
