/**
 * What storing m and v does to the update of Adam, on the states of a real run
 * in 32 bits: bitsandbytes' AnalysisAdam (paper 1, appendix), and paper 2's
 * zero-point problem. What is quantized here is never fed back.
 */
import { adamw32bit, dequantize, quantize, type QuantizeOptions } from "lowbit";
import { train, type Settings } from "./train.ts";
import type { Words } from "./words.ts";

export interface Pair {
  readonly name: string;
  readonly m: QuantizeOptions;
  readonly v: QuantizeOptions;
}

const both = (name: string, options: QuantizeOptions): Pair => ({
  name,
  m: { bits: 8, ...options },
  v: { bits: 8, ...options },
});
const m4: QuantizeOptions = { bits: 4, codebook: "dynamic", blockSize: 128 };
const four = (
  name: string,
  v: QuantizeOptions,
  m: QuantizeOptions = {},
): Pair => ({
  name,
  m: { ...m4, ...m },
  v: { bits: 4, blockSize: 128, codebook: "linear-nozero", ...v },
});
const nozero = { codebook: "dynamic-nozero" } as const;
const nf4 = { codebook: "nf4" } as const;

export const pairs8: readonly Pair[] = [
  both("linear, tensor", { codebook: "linear", scale: "tensor" }),
  both("linear, block 2048", { codebook: "linear", blockSize: 2048 }),
  both("dynamic, tensor", { scale: "tensor" }),
  both("dynamic, block 2048", { blockSize: 2048 }),
  both("dynamic, block 256", { blockSize: 256 }),
  both("quantile, tensor", { codebook: "quantile", scale: "tensor" }),
];

export const pairs4: readonly Pair[] = [
  four("dynamic, block 2048", { codebook: "dynamic", blockSize: 2048 }),
  four("dynamic, block 128", { codebook: "dynamic" }),
  four("dynamic without zero, block 2048", { ...nozero, blockSize: 2048 }),
  four("dynamic without zero, block 128", nozero),
  four("linear without zero, tensor", { scale: "tensor" }),
  four("linear without zero, block 2048", { blockSize: 2048 }),
  four("linear without zero, block 128", {}),
  four("linear without zero, rank-1", { scale: "rank1" }),
  four("linear without zero, tiles of 128", { scale: "tile" }),
  four("power-2, block 128", { codebook: "power-2" }),
  four("power-3, block 128", { codebook: "power-3" }),
  four("m nf4; dynamic without zero, block 128", nozero, nf4),
  four(
    "m nf4; dynamic without zero, corrected",
    { ...nozero, correctScale: true },
    nf4,
  ),
  four(
    "m nf4; dynamic, preconditioner",
    { codebook: "dynamic", rounding: "preconditioner" },
    nf4,
  ),
  four(
    "m nf4; 2-bit log, stochastic",
    {
      bits: 2,
      codebook: "log",
      rounding: "stochastic",
    },
    nf4,
  ),
];

/** Of one scheme and one tensor, over all looks. */
export interface Errors {
  /** Mean of |u' - u| / |u + 1e-6| over all elements, as AnalysisAdam has it. */
  readonly mean: number;
  /** Its median over the elements with |u| above 1e-3. */
  readonly median: number;
  /** Mean of |u' - u|. */
  readonly absolute: number;
  /** Part of v that is stored as 0 though it is not. */
  readonly zeros: number;
  /** Mean of |log10 h(v') - log10 h(v)|, h(v) = 1 / (sqrt(v) + 1e-6). */
  readonly decades: number;
  /** Part of v with log10 h(v') in [k, k + 1), k = 0..6; 6 is h(0). */
  readonly histogram: readonly number[];
}

/** AnalysisAdam leaves out tensors that are too small. */
const smallest = 8192;
const looks = 6;
const eps = 1e-8;

/**
 * @returns by scheme, by tensor; with `exact` as a scheme that stores nothing.
 */
export async function analyse(
  pairs: readonly Pair[],
  words: Words,
  settings: Settings,
  seed: number,
): Promise<Map<string, Map<string, Errors>>> {
  const exact: Pair = { name: "exact", m: {}, v: {} };
  const sums = new Map<string, Map<string, Sum>>();
  const every = Math.max(1, Math.floor(settings.steps / looks));
  const recipe = adamw32bit({ lr: settings.lr, weightDecay: 0, eps });
  await train(
    recipe,
    words,
    settings,
    seed,
    false,
    async (step, optimizer, parameters) => {
      if (step % every !== 0) return;
      for (const [name, { data, shape }] of Object.entries(parameters)) {
        if (data.length <= smallest) continue;
        const { m, v } = await optimizer.state(name);
        if (m?.kind !== "float" || v?.kind !== "float")
          throw new Error("reproduce: the run's states have 32 bits");
        for (const pair of [exact, ...pairs]) {
          let byTensor = sums.get(pair.name);
          if (!byTensor) sums.set(pair.name, (byTensor = new Map()));
          let sum = byTensor.get(name);
          if (!sum) byTensor.set(name, (sum = new Sum()));
          const through = (
            values: Float32Array<ArrayBuffer>,
            options: QuantizeOptions,
            signed: boolean,
          ) =>
            pair === exact
              ? values
              : dequantize(
                  quantize(values, {
                    ...options,
                    signed,
                    shape,
                    eps,
                    seed: step,
                  }),
                );
          sum.add(
            m.values,
            v.values,
            through(m.values, pair.m, true),
            through(v.values, pair.v, false),
          );
        }
      }
    },
  );
  return new Map(
    [...sums].map(([name, byTensor]) => [
      name,
      new Map([...byTensor].map(([tensor, sum]) => [tensor, sum.errors()])),
    ]),
  );
}

class Sum {
  #count = 0;
  #relative = 0;
  #absolute = 0;
  #zeros = 0;
  #decades = 0;
  readonly #large: number[] = [];
  readonly #histogram = new Array<number>(7).fill(0);

  add(
    m: Float32Array,
    v: Float32Array,
    storedM: Float32Array,
    storedV: Float32Array,
  ): void {
    const h = (x: number) => Math.log10(1 / (Math.sqrt(x) + 1e-6));
    this.#count += m.length;
    for (let i = 0; i < m.length; i++) {
      const u = m[i]! / (Math.sqrt(v[i]!) + eps);
      const other = storedM[i]! / (Math.sqrt(storedV[i]!) + eps);
      const error = Math.abs(other - u);
      const relative = error / Math.abs(u + 1e-6);
      this.#absolute += error;
      this.#relative += relative;
      if (Math.abs(u) > 1e-3) this.#large.push(relative);
      if (storedV[i] === 0 && v[i]! > 0) this.#zeros++;
      const place = h(storedV[i]!);
      this.#decades += Math.abs(place - h(v[i]!));
      this.#histogram[Math.max(0, Math.min(6, Math.floor(place + 1e-9)))]! += 1;
    }
  }

  errors(): Errors {
    const n = this.#count;
    const sorted = Float64Array.from(this.#large).sort();
    return {
      mean: this.#relative / n,
      median: sorted[sorted.length >> 1] ?? NaN,
      absolute: this.#absolute / n,
      zeros: this.#zeros / n,
      decades: this.#decades / n,
      histogram: this.#histogram.map((count) => count / n),
    };
  }
}
