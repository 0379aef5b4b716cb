// Formats through the door: codebooks by their definition, quantize and
// dequantize, packing, bytes, and errors that say what to do.

import {
  adamw,
  adamw4bit,
  adamw8bit,
  codebook,
  codebookNames,
  defineOptimizer,
  dequantize,
  estimateMemory,
  packCodes,
  quantileCodebook,
  quantize,
  sgd,
  unpackCodes,
  type QuantizeOptions,
} from "lowbit";
import { describe, expect, test } from "vitest";
import { normals, randomSource } from "./support/numbers.ts";

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

describe("quantize and dequantize", () => {
  /** Mean absolute and mean relative error of a round trip. */
  const errors = (x: Float32Array, options: QuantizeOptions) => {
    const y = dequantize(quantize(x, options));
    let absolute = 0;
    let relative = 0;
    x.forEach((value, i) => {
      const error = Math.abs(value - y[i]!);
      absolute += error;
      relative += error / (Math.abs(value) + 1e-8);
    });
    return [absolute / x.length, relative / x.length] as const;
  };
  const gaussian = normals(2 ** 20, 1);
  const random = randomSource(2);
  const uniform = Float32Array.from({ length: 2 ** 20 }, random);
  const near = (actual: number, expected: number, within = 0.015) =>
    expect(
      Math.abs(actual / expected - 1),
      `${actual} against ${expected}`,
    ).toBeLessThan(within);

  // The error of a fixed numpy implementation, papers.md e.3.
  test.each([
    [64, 0.00753, 0.0142],
    [256, 0.00854, 0.01539],
    [2048, 0.0097, 0.01665],
    [4096, 0.01005, 0.017],
  ])(
    "Gaussian data in 8-bit dynamic blocks of %i come back as well as they should",
    (blockSize, absolute, relative) => {
      const [a, r] = errors(gaussian, { blockSize });
      near(a, absolute);
      near(r, relative);
      // bitsandbytes' own limits.
      expect(a).toBeLessThan(0.011);
      expect(r).toBeLessThan(0.018);
    },
  );

  test("uniform data come back better in the unsigned map", () => {
    const [a, r] = errors(uniform, { signed: true });
    near(a, 0.00318);
    near(r, 0.00994);
    const [ua, ur] = errors(uniform, { signed: false });
    near(ua, 0.0016);
    near(ur, 0.00501);
  });

  test("one scale a tensor loses more than blocks, and linear more than dynamic, where there are outliers", () => {
    const spiky = gaussian.slice();
    for (let k = 0; k < 20; k++) spiky[k * 50_021] = 50;
    const [blocks] = errors(spiky, { blockSize: 2048 });
    const [tensor] = errors(spiky, { scale: "tensor" });
    const [linearBlocks] = errors(spiky, {
      blockSize: 2048,
      codebook: "linear",
    });
    const [linearTensor] = errors(spiky, {
      scale: "tensor",
      codebook: "linear",
    });
    near(blocks, 0.0102, 0.05);
    near(tensor, 0.0236, 0.05);
    expect(tensor / blocks).toBeGreaterThan(2);
    expect(linearTensor / linearBlocks).toBeGreaterThan(9 * 0.9);
  });

  test("4-bit dynamic blocks of Gaussian data have paper 2's error", () => {
    const [a, r] = errors(gaussian, { bits: 4, blockSize: 128 });
    near(a, 0.117);
    near(r, 0.2007);
    const [a2, r2] = errors(gaussian, { bits: 4, blockSize: 2048 });
    near(a2, 0.1369);
    near(r2, 0.2212);
  });

  test("the zero-point problem: maps with a 0 store small second moments as 0, those without never", () => {
    const x = normals(2 ** 18, 4);
    const z = normals(2 ** 18, 5);
    const v = x.map((value, i) => value * value * Math.exp(z[i]!));
    const zeros = (options: QuantizeOptions) =>
      dequantize(quantize(v, { bits: 4, signed: false, ...options })).filter(
        (value) => value === 0,
      ).length / v.length;
    expect(zeros({ codebook: "dynamic", blockSize: 128 })).toBeCloseTo(0.19, 1);
    expect(zeros({ codebook: "dynamic", blockSize: 2048 })).toBeCloseTo(
      0.31,
      1,
    );
    expect(zeros({ codebook: "dynamic-nozero" })).toBe(0);
    expect(zeros({ codebook: "linear-nozero" })).toBe(0);
  });

  test("every value is off by at most half the widest gap of its codebook, times its scale", () => {
    const x = normals(5000, 6);
    for (const codebookName of [
      "dynamic",
      "linear",
      "linear-nozero",
      "dynamic-nozero",
    ])
      for (let bits = 2; bits <= 8; bits++) {
        const quantized = quantize(x, {
          bits,
          codebook: codebookName,
          blockSize: 64,
        });
        const { values } = quantized.format;
        const gap = values
          .slice(1)
          .reduce((max, value, i) => Math.max(max, value - values[i]!), 0);
        // -1 is no value of the dynamic map: what lies below it has its own limit.
        const limit = Math.max(gap / 2, 1 + values[0]!) + 3e-7;
        const y = dequantize(quantized);
        const wrong = x.findIndex(
          (value, i) =>
            Math.abs(value - y[i]!) > limit * quantized.scales[i >> 6]!,
        );
        expect(wrong, `${codebookName}, ${bits} bits`).toBe(-1);
      }
  });

  test("quantizing what was dequantized changes nothing but a negative block maximum", () => {
    for (const bits of [2, 3, 4, 5, 6, 7, 8]) {
      const once = quantize(normals(3000, 7).map(Math.abs), {
        bits,
        signed: false,
        codebook: "linear-nozero",
      });
      const twice = quantize(dequantize(once), {
        bits,
        signed: false,
        codebook: "linear-nozero",
      });
      expect(twice.codes).toEqual(once.codes);
      expect(twice.scales).toEqual(once.scales);
    }
  });

  test("scales are the largest magnitude of each block, a short one at the end", () => {
    const x = normals(1000, 8);
    const { scales } = quantize(x, { blockSize: 256 });
    const expected = [0, 1, 2, 3].map((b) =>
      Math.max(...x.slice(b * 256, (b + 1) * 256).map(Math.abs)),
    );
    expect([...scales]).toEqual(expected);
    expect([...quantize(x, { scale: "tensor" }).scales]).toEqual([
      Math.max(...expected),
    ]);
  });

  test("a block of zeros comes back as zeros in every codebook, also those without a 0", () => {
    for (const codebookName of codebookNames) {
      const four = ["nf4", "fp4"].includes(codebookName);
      const quantized = quantize(new Float32Array(300), {
        codebook: codebookName,
        bits: four ? 4 : 8,
        signed: codebookName !== "log",
      });
      expect(quantized.scales.every((scale) => scale === 0)).toBe(true);
      expect(dequantize(quantized).every((value) => value === 0)).toBe(true);
    }
  });

  test("a block below the smallest normal float32 counts as zeros", () => {
    const quantized = quantize([2 ** -127, -(2 ** -130)], {});
    expect([...quantized.scales]).toEqual([0]);
    expect(dequantize(quantized)).toEqual(new Float32Array(2));
    expect([...quantize([2 ** -126], {}).scales]).toEqual([2 ** -126]);
  });

  test("nothing quantizes to nothing", () => {
    const quantized = quantize([]);
    expect(quantized).toMatchObject({
      length: 0,
      codes: { length: 0 },
      scales: { length: 0 },
    });
    expect(dequantize(quantized)).toHaveLength(0);
  });

  test("keepSign never stores a negative value as 0", () => {
    const x = normals(4096, 9).map((value, i) =>
      i % 2 ? value : value * 1e-7,
    );
    for (const bits of [4, 8]) {
      const kept = dequantize(quantize(x, { bits, keepSign: true }));
      const plain = dequantize(quantize(x, { bits }));
      expect(x.some((value, i) => value < 0 && plain[i] === 0)).toBe(true);
      expect(x.some((value, i) => value < 0 && !(kept[i]! < 0))).toBe(false);
      expect(x.some((value, i) => value > 0 && kept[i]! < 0)).toBe(false);
      // A positive value may still become 0, as in bitsandbytes.
      expect(x.some((value, i) => value > 0 && kept[i] === 0)).toBe(true);
    }
  });

  test("codebook 'quantile' takes its values from the data", () => {
    const x = normals(2 ** 14, 10).map(
      (value) => Math.sign(value) * value * value,
    );
    const quantized = quantize(x, { codebook: "quantile", scale: "tensor" });
    expect(quantized.format).toMatchObject({ codebook: "custom", bits: 8 });
    // Each of its codes is used about equally often: that is what quantiles are for.
    const counts = new Uint32Array(256);
    quantized.codes.forEach((code) => counts[code]!++);
    const sorted = counts.sort();
    expect(sorted[25]).toBeGreaterThan(x.length / 256 / 4);
    expect(sorted[230]).toBeLessThan((x.length / 256) * 4);
  });

  test.each<[string, () => unknown, string | RegExp]>([
    [
      "NaN",
      () => quantize([1, NaN]),
      "quantize: element 1 is NaN; only finite values can be quantized",
    ],
    [
      "infinity",
      () => quantize([-Infinity]),
      "quantize: element 0 is -Infinity",
    ],
    [
      "32 bits",
      () => quantize([1], { bits: 32 }),
      "quantize: bits must be 2 to 8; ",
    ],
    [
      "9 bits",
      () => quantize([1], { bits: 9 }),
      /^format: bits must be 2 to 8.*given 9/,
    ],
    ["half a bit", () => quantize([1], { bits: 2.5 }), "given 2.5"],
    [
      "a block of 100",
      () => quantize([1], { blockSize: 100 }),
      "format: blockSize must be a power of two from 32 to 4096, given 100",
    ],
    ["a block of 16", () => quantize([1], { blockSize: 16 }), "given 16"],
    ["a block of 8192", () => quantize([1], { blockSize: 8192 }), "given 8192"],
    [
      "an unknown scale",
      () => quantize([1], { scale: "row" as never }),
      "format: scale must be 'block', 'tensor', 'rank1' or 'tile', given 'row'",
    ],
    [
      "an unknown rounding",
      () => quantize([1], { rounding: "up" as never }),
      "format: rounding must be 'nearest', 'stochastic' or 'preconditioner', given 'up'",
    ],
    [
      "keepSign with stochastic",
      () => quantize([1], { keepSign: true, rounding: "stochastic" }),
      "keepSign is a rule of nearest rounding",
    ],
    [
      "keepSign with a rounded preconditioner",
      () =>
        quantize([1], {
          keepSign: true,
          signed: false,
          rounding: "preconditioner",
        }),
      "leave it out with preconditioner",
    ],
    [
      "a rounded preconditioner with signs",
      () => quantize([1], { rounding: "preconditioner" }),
      "rounding 'preconditioner' is for a state without a sign, in 2 to 8 bits",
    ],
    [
      "a rounded preconditioner in 16 bits",
      () => adamw({ state: { v: { bits: 16, rounding: "preconditioner" } } }),
      "use 'stochastic' for others",
    ],
    [
      "a rounded preconditioner of a state nobody divides by",
      () =>
        defineOptimizer({
          name: "plain",
          hyper: { lr: 1 },
          state: { v: "unsigned" },
          update: "v = v + g * g\np = p - lr * g",
        })({ bits: 4, state: { v: { rounding: "preconditioner" } } }),
      "plain: state 'v' cannot have rounding 'preconditioner', which is for states by whose root the update divides: here none",
    ],
    ...(["tensor", "rank1", "tile"] as const).map(
      (scale): [string, () => unknown, string] => [
        `corrected scales of a ${scale}`,
        () => quantize([1], { correctScale: true, scale }),
        `correctScale corrects the scales of blocks, given scale '${scale}'`,
      ],
    ),
    [
      "a corrected scale of 16 bits",
      () => adamw({ state: { v: { bits: 16, correctScale: true } } }),
      "16 bits are bfloat16, which has no correctScale",
    ],
    [
      "a negative eps",
      () => quantize([1], { eps: -1 }),
      "quantize: eps must be finite, 0 or more, given -1",
    ],
    [
      "an unknown option",
      () => quantize([1], { block: 64 } as never),
      "format: unknown option 'block'; there are bits, codebook, scale, blockSize",
    ],
    [
      "too many values",
      () => quantize([1], { bits: 2, codebook: [0, 0.1, 0.2, 0.3, 1] }),
      "a codebook of 2 bits has 2 to 4 values, given 5",
    ],
    ["one value", () => quantize([1], { bits: 2, codebook: [1] }), "given 1"],
    [
      "values that fall",
      () => quantize([1], { codebook: [0, 0.5, 0.4] }),
      "codebook values must ascend, given",
    ],
    [
      "values beyond 1",
      () => quantize([1], { codebook: [0, 2] }),
      "codebook values lie in [-1, 1], given 2 at 1",
    ],
    [
      "a negative value of an unsigned codebook",
      () => quantize([1], { signed: false, codebook: [-1, 1] }),
      "codebook values lie in [0, 1], given -1 at 0",
    ],
    [
      "NaN as a value",
      () => quantize([1], { codebook: [0, NaN] }),
      "given NaN at 1",
    ],
    [
      "scales that are too few",
      () =>
        dequantize({
          ...quantize(new Float32Array(300)),
          scales: new Float32Array(1),
        }),
      "dequantize: 300 elements have 2 scales, given 1",
    ],
    [
      "an unsigned codebook for a signed state",
      () => sgd({ bits: 8, state: { m: { signed: false } } }),
      "an unsigned codebook cannot hold a state with a sign; leave `signed` out",
    ],
  ])("%s is an error that says what is allowed", (_, make, message) => {
    expect(make).toThrow(message);
  });
});

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
