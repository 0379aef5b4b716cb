/**
 * Paper 2's theorem 1: SGD whose momentum is quantized without bias, with variance
 * sm2, ends within lr (s2 + sm2) / (1 - beta) of the optimum of a convex function,
 * s2 being the variance of the gradients.
 */
import { createOptimizer, dequantize, sgd, type FormatOptions } from "lowbit";
import { normals, randomSource } from "./random.ts";

export interface Floor {
  readonly name: string;
  readonly lr: number;
  /** Mean of f - f* over the second half of the steps. */
  readonly reached: number;
  /** f - f* of the mean parameters of the second half, which the theorem bounds. */
  readonly ofMean: number;
  /** Mean over the steps of |Q(m) - m|^2. */
  readonly variance: number;
  /** lr (s2 + sm2) / (1 - beta). */
  readonly bound: number;
}

export const momenta: Readonly<Record<string, FormatOptions>> = {
  "32-bit": { bits: 32 },
  "4-bit dynamic, stochastic": { bits: 4, rounding: "stochastic" },
  "4-bit dynamic, nearest": { bits: 4 },
  "4-bit nf4, stochastic": {
    bits: 4,
    codebook: "nf4",
    rounding: "stochastic",
  },
  "2-bit dynamic, stochastic": { bits: 2, rounding: "stochastic" },
  "2-bit dynamic, nearest": { bits: 2 },
};

const size = 4096;
const beta = 0.9;
const noise = 0.1;

/** A quadratic with curvatures from 0.1 to 1 and noisy gradients, from afar. */
export async function noiseFloor(
  name: string,
  lr: number,
  steps: number,
  seed: number,
): Promise<Floor> {
  const format = momenta[name]!;
  const random = randomSource(seed);
  const curvature = Float32Array.from(
    { length: size },
    () => 0.1 * 10 ** random(),
  );
  const w = normals(size, random);
  const f = (x: ArrayLike<number>) =>
    curvature.reduce((sum, h, i) => sum + (h * x[i]! * x[i]!) / 2, 0);
  const optimizer = await createOptimizer(
    sgd({ lr, momentum: beta, state: { m: format } }),
    { w: { data: w, shape: [size] } },
    { minQuantizedSize: 0, seed, threads: 1 },
  );
  const stored = async () => {
    const { m } = await optimizer.state("w");
    return m!.kind === "float"
      ? m!.values
      : dequantize({ ...m!, length: size, format: m!.format as never });
  };
  let before = new Float32Array(size);
  const mean = new Float64Array(size);
  let reached = 0;
  let variance = 0;
  const half = Math.floor(steps / 2);
  for (let t = 1; t <= steps; t++) {
    const g = normals(size, random, noise).map(
      (e, i) => curvature[i]! * w[i]! + e,
    );
    await optimizer.step({ w: g });
    const after = await stored();
    for (let i = 0; i < size; i++)
      variance += (after[i]! - (beta * before[i]! + g[i]!)) ** 2 / steps;
    before = after;
    if (t <= half) continue;
    reached += f(w) / (steps - half);
    for (let i = 0; i < size; i++) mean[i]! += w[i]! / (steps - half);
  }
  optimizer.dispose();
  return {
    name,
    lr,
    reached,
    ofMean: f(mean),
    variance,
    bound: (lr * (size * noise ** 2 + variance)) / (1 - beta),
  };
}
