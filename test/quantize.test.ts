// Quantize and dequantize through the door, and errors that say what to do.

import {
  adamw,
  codebookNames,
  defineOptimizer,
  dequantize,
  quantize,
  sgd,
  type QuantizeOptions,
} from "lowbit";
import { describe, expect, test } from "vitest";
import { normals, randomSource } from "./support/numbers.ts";

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

  // The error of a fixed numpy implementation.
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
