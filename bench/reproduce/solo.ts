/**
 * SOLO's second moment as its authors have it (arXiv 2505.00347 and their code),
 * acted out on a state in 32 bits: v = scale * alpha^k, alpha from the quantile of
 * each block, rounded stochastically between exponents. Ours has one alpha for
 * all, and rounds between values.
 */
import type { Watch } from "./train.ts";
import { randomSource } from "./random.ts";

const blockSize = 128;
const quantile = 0.1;
const top = 3; // 2 bits

export const soloAsPublished: Watch = async (step, optimizer, parameters) => {
  for (const [name, { data }] of Object.entries(parameters)) {
    if (data.length <= 4096) continue;
    const states = await optimizer.state(name);
    const { v } = states;
    if (v?.kind !== "float")
      throw new Error("reproduce: SOLO's v has 32 bits here");
    await optimizer.setState(name, {
      ...states,
      v: { ...v, values: through(v.values, randomSource(step)) },
    });
  }
};

function through(
  values: Float32Array,
  random: () => number,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(values.length);
  for (let start = 0; start < values.length; start += blockSize) {
    const block = values.subarray(start, start + blockSize);
    const sorted = Float32Array.from(block).sort();
    const scale = sorted.at(-1)!;
    if (!(scale > 0)) continue;
    // As torch.quantile: linear between neighbours.
    const place = quantile * (sorted.length - 1);
    const low = sorted[Math.floor(place)]!;
    const high = sorted[Math.ceil(place)]!;
    const ratio = (low + (place % 1) * (high - low)) / scale;
    const alpha = ratio ** (1 / top);
    for (let i = 0; i < block.length; i++) {
      const exact = Math.log2(block[i]! / scale) / Math.log2(alpha);
      // Where alpha is 0 or 1 that may be no number, which their cast makes 0.
      const code = Math.round(exact + random() - 0.5) || 0;
      out[start + i] = scale * alpha ** Math.max(0, Math.min(top, code));
    }
  }
  return out;
}
