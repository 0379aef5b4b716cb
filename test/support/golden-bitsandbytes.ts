/** Recordings of bitsandbytes. */
import {
  adagrad,
  adamw,
  ademamix,
  defineOptimizer,
  lamb,
  lars,
  lion,
  rmsprop,
  sgd,
  type FormatOptions,
  type OptimizerFactory,
  type RecipeOptions,
} from "lowbit";
import type { Recording } from "./recordings.ts";
import {
  asKernel,
  given,
  reader,
  run,
  skip,
  type ExpectedState,
  type Known,
  type Meta,
} from "./golden-run.ts";

/**
 * bitsandbytes' variants where they are not ours: the raw gradient, without
 * the decay term, is what its 8-bit RMSprop and Adagrad divide.
 */
const bnbRmsprop = defineOptimizer({
  name: "bnbrmsprop",
  hyper: { lr: 1e-2, alpha: 0.99, eps: 1e-8, weightDecay: 0 },
  state: { v: "unsigned" },
  update: `
    d = g + weightDecay * p
    v = alpha * v + (1 - alpha) * d * d
    p = p - lr * (g / (sqrt(v) + eps))
  `,
});
const bnbAdagrad = defineOptimizer({
  name: "bnbadagrad",
  hyper: { lr: 1e-2, eps: 1e-10, weightDecay: 0 },
  state: { v: "unsigned" },
  update: `
    d = g + weightDecay * p
    v = v + d * d
    p = p - lr * (g / (sqrt(v) + eps))
  `,
});
/** Which of our states a recording's state1 and state2 are, and what they are stored with. */
interface BnbKind {
  readonly factory: OptimizerFactory;
  readonly hyper: Readonly<Record<string, unknown>>;
  readonly state1: readonly string[];
  readonly state2?: string;
}

function bnbKind(meta: Meta): BnbKind | string {
  const { lr, eps, weight_decay: weightDecay } = meta;
  const [beta1, beta2, beta3] = meta.betas ?? [];
  const base = { lr, weightDecay };
  switch (meta.optimizer) {
    // Both classes decay decoupled; only their defaults differ.
    case "adam":
    case "adamw":
      return {
        factory: adamw as never,
        hyper: { ...base, beta1, beta2, eps },
        state1: ["m"],
        state2: "v",
      };
    case "sgd":
    case "momentum":
      return {
        factory: sgd as never,
        hyper: {
          ...base,
          momentum: meta.momentum ?? beta1,
          dampening: meta.dampening,
          nesterov: meta.nesterov,
        },
        state1: ["m"],
      };
    case "rmsprop":
      return {
        factory: (meta.bits === 32 ? rmsprop : bnbRmsprop) as never,
        hyper: { ...base, alpha: meta.alpha ?? beta1, eps },
        state1: ["v"],
      };
    case "adagrad":
      return {
        factory: (meta.bits === 32 ? adagrad : bnbAdagrad) as never,
        hyper: { ...base, eps },
        state1: ["v"],
      };
    case "lion":
      return {
        factory: lion as never,
        hyper: { ...base, beta1, beta2 },
        state1: ["m"],
      };
    case "ademamix":
      return {
        factory: ademamix as never,
        hyper: {
          ...base,
          beta1,
          beta2,
          beta3,
          alpha: meta.alpha,
          eps,
          tAlpha: meta.t_alpha ?? undefined,
          tBeta3: meta.t_beta3 ?? undefined,
        },
        state1: ["m1", "m2"],
        state2: "v",
      };
    case "lamb":
    case "lars":
      if (meta.bits === 8)
        return `bitsandbytes does not cap the norm of ${meta.optimizer} in 8 bits: that is another optimizer`;
      // Without a cap it is AdamW, or SGD with momentum.
      if (!meta.max_unorm)
        return bnbKind({
          ...meta,
          optimizer: meta.optimizer === "lamb" ? "adamw" : "sgd",
        });
      return meta.optimizer === "lamb"
        ? {
            factory: lamb as never,
            hyper: { ...base, beta1, beta2, eps, maxUnorm: meta.max_unorm },
            state1: ["m"],
            state2: "v",
          }
        : {
            factory: lars as never,
            hyper: {
              ...base,
              momentum: meta.momentum ?? beta1,
              maxUnorm: meta.max_unorm,
            },
            state1: ["m"],
          };
    default:
      return `there is no replay of bitsandbytes' '${meta.optimizer}'`;
  }
}

export function bitsandbytes(recording: Recording, meta: Meta): Known {
  const kind = bnbKind(asKernel(meta));
  if (typeof kind === "string") return skip(kind);
  const { bytes, floats } = reader(recording);
  const { bits = 8, block_size: blockSize = 256 } = meta;
  if (bits !== 8 && bits !== 32)
    return skip(`bitsandbytes has no ${bits}-bit optimizer`);
  const names = [...kind.state1, ...(kind.state2 ? [kind.state2] : [])];
  // state1 has the signed map, also for a v, and never changes a value's sign.
  const formats = Object.fromEntries(
    names.map((name): [string, FormatOptions] => [
      name,
      bits === 32
        ? { bits }
        : name === kind.state2
          ? { bits, blockSize, codebook: "dynamic" }
          : {
              bits,
              blockSize,
              codebook: "dynamic",
              signed: true,
              keepSign: true,
            },
    ]),
  );
  const base = run(recording, meta);
  const { length } = base.start;
  const blocks = Math.ceil(length / blockSize);
  const part = (t: number, name: string): ExpectedState => {
    const key = name === kind.state2 ? "state2" : "state1";
    // Two EMAs lie one after the other in state1.
    const nth = name === kind.state2 ? 0 : kind.state1.indexOf(name);
    const from = nth * length;
    if (bits === 32)
      return {
        kind: "float",
        values: floats(`${key}.${t}`).slice(from, from + length),
      };
    // Their scales too, but the kernel begins the second at this block, and not
    // at `blocks`: with a short last block the two share a scale.
    const firstScale = Math.floor(from / blockSize);
    return {
      kind: "quantized",
      codes: bytes(`${key}.${t}`).slice(from, from + length),
      scales: floats(`${key.replace("state", "absmax")}.${t}`).slice(
        firstScale,
        firstScale + blocks,
      ),
    };
  };
  const shared =
    kind.state1.length > 1 && length % blockSize !== 0 && bits === 8;
  const broken = shared ? [0, blocks - 1] : [];
  return {
    ...base,
    blockSize,
    reductions: meta.max_unorm !== undefined,
    brokenBlocks: Object.fromEntries(
      ["p", ...kind.state1].map((name) => [name, broken]),
    ),
    recipe: kind.factory({
      ...given(kind.hyper),
      state: formats,
    } as RecipeOptions),
    bits,
    codebooks: {},
    state: (t) =>
      Object.fromEntries(names.map((name) => [name, part(t, name)])),
  };
}
