// What the 4-bit papers and what came after them add to the formats: maps,
// rank-1 scales in tiles, corrected scales, rounding of the preconditioner.

import {
  adamw,
  codebook,
  createOptimizer,
  dequantize,
  optimizerByName,
  quantize,
  sgd4bit,
  unpackCodes,
  type FormatOptions,
} from "lowbit";
import { describe, expect, test } from "vitest";
import { engines } from "./support/engines.ts";
import { normals, randomSource } from "./support/numbers.ts";

/** Second moments: squares of normal numbers of very different sizes. */
const moments = (length: number, seed: number) => {
  const sizes = normals(length, seed + 1, 1.5);
  return normals(length, seed).map((x, i) => x * x * Math.exp(sizes[i]!));
};

const close = (actual: ArrayLike<number>, expected: readonly number[]) => {
  expect(actual.length).toBe(expected.length);
  expected.forEach((value, i) => expect(actual[i]).toBeCloseTo(value, 6));
};

describe("maps", () => {
  test("unsigned powers are ((k + 1) / 2^bits)^p, as in lpmm", () => {
    for (const p of [2, 3])
      for (let bits = 2; bits <= 8; bits++)
        close(
          codebook(`power-${p}`, { bits, signed: false }),
          Array.from(
            { length: 2 ** bits },
            (_, k) => ((k + 1) / 2 ** bits) ** p,
          ),
        );
  });

  test("signed powers are sign(x) |x|^p of evenly spaced points, without a 0", () => {
    for (const p of [2, 3])
      close(
        codebook(`power-${p}`, { bits: 4 }),
        Array.from({ length: 16 }, (_, k) => {
          const x = -1 + (2 * k) / 15;
          return Math.sign(x) * Math.abs(x) ** p;
        }),
      );
  });

  test("2-bit log has decades, and in other widths equal ratios down to 1e-3", () => {
    close(codebook("log", { bits: 2 }), [1e-3, 1e-2, 1e-1, 1]);
    for (let bits = 2; bits <= 8; bits++) {
      const values = codebook("log", { bits });
      expect(values).toHaveLength(2 ** bits);
      expect(values[0]).toBeCloseTo(1e-3, 9);
      values
        .subarray(1)
        .forEach((value, i) =>
          expect(value / values[i]!).toBeCloseTo(
            1000 ** (1 / (2 ** bits - 1)),
            4,
          ),
        );
    }
  });
});

describe("rank-1 scales in tiles", () => {
  test.each([
    [[70, 100], 32],
    [[5, 130], 64],
    [[200, 3], 128],
    [[3, 20, 50], 32],
    [[1, 1], 32],
  ] as const)(
    "%j in tiles of %i: the least of a row's and a column's largest",
    (shape, side) => {
      const columns = shape.at(-1)!;
      const rows = shape
        .slice(0, -1)
        .reduce((product: number, n) => product * n, 1);
      const x = moments(rows * columns, 3);
      const quantized = quantize(x, {
        bits: 8,
        signed: false,
        codebook: "linear-nozero",
        scale: "tile",
        blockSize: side,
        shape,
      });
      const y = dequantize(quantized);
      const tile = (i: number) => Math.floor(i / side);
      for (let r = 0; r < rows; r++)
        for (let c = 0; c < columns; c++) {
          let inRow = 0;
          let inColumn = 0;
          for (let k = 0; k < columns; k++)
            if (tile(k) === tile(c))
              inRow = Math.max(inRow, x[r * columns + k]!);
          for (let k = 0; k < rows; k++)
            if (tile(k) === tile(r))
              inColumn = Math.max(inColumn, x[k * columns + c]!);
          const scale = Math.min(inRow, inColumn);
          const code = Math.min(
            256,
            Math.max(1, Math.ceil((256 * x[r * columns + c]!) / scale - 0.5)),
          );
          const error = Math.abs(y[r * columns + c]! - (code / 256) * scale);
          expect(error / scale, `row ${r}, column ${c}`).toBeLessThan(5e-3);
        }
      const across = Math.ceil(columns / side);
      expect(quantized.scales.length).toBe(
        rows * across + Math.ceil(rows / side) * columns,
      );
    },
  );

  test("they hold row and column structure that changes from place to place better than blocks", () => {
    const n = 512;
    const rows = normals(4 * n, 1, 2);
    const columns = normals(4 * n, 2, 2);
    // Other rows and columns stand out in each tile.
    const x = normals(n * n, 3).map((value, i) => {
      const [r, c] = [Math.floor(i / n), i % n];
      const [down, over] = [Math.floor(r / 128), Math.floor(c / 128)];
      return (
        value ** 2 * Math.exp(rows[r * 4 + over]! + columns[c * 4 + down]!)
      );
    });
    const error = (scale: "tile" | "rank1" | "block") => {
      const y = dequantize(
        quantize(x, { bits: 4, signed: false, scale, shape: [n, n] }),
      );
      let sum = 0;
      x.forEach((value, i) => (sum += Math.abs(Math.log(y[i]! / value))));
      return sum / x.length;
    };
    expect(error("tile")).toBeLessThan(0.9 * error("rank1"));
    expect(error("tile")).toBeLessThan(0.9 * error("block"));
  });

  test("a vector has blocks instead", () => {
    const options = { bits: 4, blockSize: 64 } as const;
    const x = normals(300, 4);
    expect(quantize(x, { ...options, scale: "tile" }).scales).toEqual(
      quantize(x, options).scales,
    );
  });
});

describe("corrected scales", () => {
  test.each([
    { bits: 4, codebook: "nf4" },
    { bits: 4, codebook: "dynamic-nozero", signed: false },
    { bits: 2, codebook: "log", signed: false },
    { bits: 4, codebook: "dynamic", rounding: "stochastic" },
    { bits: 8, blockSize: 4096 },
  ] as const)(
    "what %j stores has the product |x|^2 with x, block by block",
    (options) => {
      const length = 10_000;
      const x = "signed" in options ? moments(length, 5) : normals(length, 5);
      const plain = quantize(x, options);
      const corrected = quantize(x, { ...options, correctScale: true });
      expect(corrected.codes).toEqual(plain.codes);
      const y = dequantize(corrected);
      const z = dequantize(plain);
      const size = plain.format.blockSize;
      let before = 0;
      for (let start = 0; start < length; start += size) {
        const product = (values: Float32Array) =>
          x
            .slice(start, start + size)
            .reduce((sum, value, i) => sum + value * values[start + i]!, 0);
        const square = product(x);
        expect(product(y) / square).toBeCloseTo(1, 3);
        before = Math.max(before, Math.abs(product(z) / square - 1));
      }
      // Something was to be corrected.
      expect(before).toBeGreaterThan(options.bits === 8 ? 1e-4 : 1e-2);
    },
  );

  test("a block of zeros stays one, and one of a single value is exact", () => {
    const x = new Float32Array(256);
    x[200] = -3.5;
    const y = dequantize(quantize(x, { bits: 4, correctScale: true }));
    expect(y.findIndex((value) => value !== 0)).toBe(200);
    // -1 is no entry of the map: without the correction it would be -3.106.
    expect(y[200]).toBeCloseTo(-3.5, 5);
  });
});

describe("rounding of the preconditioner", () => {
  const options = {
    bits: 4,
    signed: false,
    codebook: "dynamic",
    blockSize: 128,
    rounding: "preconditioner",
  } as const;

  test.each([1e-2, 1e-4, 0.5])(
    "1 / (sqrt(v) + %f) is right in the mean, whatever v becomes",
    (eps) => {
      const x = moments(128, 8);
      const trials = 3000;
      const h = (v: number) => 1 / (Math.sqrt(v) + eps);
      const sums = new Float64Array(128);
      const entries = [...codebook("dynamic", { bits: 4, signed: false })];
      const scale = x.reduce((a, b) => Math.max(a, b));
      for (let seed = 0; seed < trials; seed++)
        dequantize(quantize(x, { ...options, eps, seed })).forEach((v, i) => {
          sums[i]! += h(v);
        });
      const wrong = [...x.keys()].filter((i) => {
        const above = entries.findIndex((entry) => entry * scale > x[i]!);
        if (above < 0) return false;
        const [low, high] = [above - 1, above].map((k) =>
          h(entries[k]! * scale),
        ) as [number, number];
        const deviation = Math.sqrt(
          Math.max(0, (low - h(x[i]!)) * (h(x[i]!) - high)) / trials,
        );
        // A 0 that is rarely drawn counts for much: up to eight draws of it.
        const off = Math.abs(sums[i]! / trials - h(x[i]!));
        return off > 5 * deviation + (8 * (low - high)) / trials;
      });
      expect(wrong).toEqual([]);
    },
  );

  test("a small value seldom becomes 0, where rounding the value often does", () => {
    const x = new Float32Array(128).fill(1e-3);
    x[0] = 1;
    const zeros = (rounding: "preconditioner" | "stochastic") => {
      let count = 0;
      for (let seed = 0; seed < 100; seed++) {
        const { codes } = quantize(x, {
          ...options,
          rounding,
          eps: 1e-6,
          seed,
        });
        count += unpackCodes(codes, 4, 128).filter((code) => code === 0).length;
      }
      return count / (100 * 127);
    };
    expect(zeros("stochastic")).toBeGreaterThan(0.6);
    // h(1e-3) lies 5e-5 of the way from h(0) = 1e6 to that of the next entry.
    expect(zeros("preconditioner")).toBeLessThan(1e-3);
  });
});

describe("4-bit SGD", () => {
  test("its momentum is right in the mean over seeds, as paper 2's theorem 1 needs; rounded to nearest it is not", async () => {
    const size = 4096;
    const gradients = [1, 2, 3].map((seed) => normals(size, seed, 0.1));
    const run = async (seed: number, state: FormatOptions) => {
      const w = new Float32Array(size);
      const optimizer = await createOptimizer(
        sgd4bit({ lr: 1, state: { m: state } }),
        { w: { data: w, shape: [size] } },
        { seed, device: "wasm", threads: 1 },
      );
      for (const w of gradients) await optimizer.step({ w });
      optimizer.dispose();
      return w;
    };
    const exact = await run(0, { bits: 32 });
    const nearest = await run(0, { rounding: "nearest" });
    const trials = 200;
    const sums = new Float64Array(size);
    const squares = new Float64Array(size);
    for (let seed = 0; seed < trials; seed++)
      (await run(seed, {})).forEach((value, i) => {
        sums[i]! += value;
        squares[i]! += value * value;
      });
    let standardErrors = 0;
    let biases = 0;
    for (let i = 0; i < size; i++) {
      const mean = sums[i]! / trials;
      const variance = Math.max(1e-12, squares[i]! / trials - mean * mean);
      standardErrors += (mean - exact[i]!) ** 2 / (variance / trials);
      biases += (nearest[i]! - exact[i]!) ** 2 / (variance / trials);
    }
    // Means of unbiased draws are one standard error off; nearest is much further.
    expect(standardErrors / size).toBeLessThan(1.3);
    expect(biases / size).toBeGreaterThan(10);
  });
});

test.each(["sgd4bit", "sgdw4bit", "lars4bit"])(
  "%s stores its momentum without bias: stochastic, by a map with both ends",
  (name) => {
    const { optimizer, storage } = optimizerByName(name)();
    expect(Object.keys(optimizer.state)).toEqual(["m"]);
    const { rounding, codebook: map } = storage.state!.m!;
    expect(rounding).toBe("stochastic");
    const values = codebook(map as "nf4", { bits: 4, signed: true });
    expect([values.at(0), values.at(-1)]).toEqual([-1, 1]);
  },
);

describe("a scheme of one's own", () => {
  for (const engine of engines)
    test(
      `trains on ${engine.name}`,
      { skip: !!engine.skipReason, meta: { skipReason: engine.skipReason } },
      async () => {
        const size = 4096;
        const random = randomSource(9);
        const target = normals(size, 10);
        const w = new Float32Array(size);
        const optimizer = await createOptimizer(
          adamw({
            lr: 0.05,
            weightDecay: 0,
            state: {
              m: { bits: 4, codebook: "nf4", blockSize: 64 },
              v: {
                bits: 3,
                codebook: "power-2",
                scale: "tile",
                blockSize: 32,
                rounding: "preconditioner",
              },
            },
          }),
          { w: { data: w, shape: [64, 64] } },
          await engine.open(),
        );
        expect(optimizer.memory().tensors[0]!.formats).toEqual({
          m: "4-bit signed nf4, block 64",
          v: "3-bit unsigned power-2, rank-1 scales in tiles of 32, stored in 4 bits, stochastic rounding of the preconditioner",
        });
        const away = () =>
          w.reduce((sum, x, i) => sum + Math.abs(x - target[i]!), 0) / size;
        const before = away();
        for (let step = 0; step < 60; step++)
          await optimizer.step({
            w: w.map((x, i) => x - target[i]! + 0.1 * (random() - 0.5)),
          });
        expect(away()).toBeLessThan(before / 3);
        optimizer.dispose();
        await engine.close?.();
      },
    );
});
