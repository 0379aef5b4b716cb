/**
 * From a recording of another library to a replay: which optimizer, formats
 * and inputs it takes here, and what must come out after every step. Recordings
 * are recognised by their metadata and their keys, never by their file's name.
 */
import {
  adagrad,
  adamw,
  ademamix,
  codebook,
  defineOptimizer,
  factor,
  lamb,
  lars,
  lion,
  rmsprop,
  sgd,
  unpackCodes,
  type FormatOptions,
  type OptimizerFactory,
  type Recipe,
  type RecipeOptions,
} from "lowbit";
import type { Recording } from "./recordings.ts";

/** What a state must be after a step. */
export type ExpectedState =
  | { readonly kind: "float"; readonly values: Float32Array }
  | {
      readonly kind: "quantized";
      /** One code a byte, in our codebook's numbering. */
      readonly codes: Uint8Array;
      readonly scales: Float32Array;
    };

export interface Replay {
  readonly kind: "replay";
  readonly recipe: Recipe;
  readonly shape: readonly number[];
  readonly lr: number;
  readonly steps: number;
  /** Smallest width of a state: 4-bit runs have a tolerance of their own. */
  readonly bits: number;
  readonly start: Float32Array<ArrayBuffer>;
  gradient(step: number): Float32Array<ArrayBuffer>;
  /** Codebooks that were recorded, by state, in our order. */
  readonly codebooks: Readonly<Record<string, Float32Array>>;
  /**
   * Blocks (by state, or of the parameter `p`) whose values the library itself
   * got wrong, so that there is nothing to compare with.
   */
  readonly brokenBlocks: Readonly<Record<string, readonly number[]>>;
  readonly blockSize: number;
  /** Whether its formula has reductions. */
  readonly reductions: boolean;
  /** Scales at or below this were clipped by the library: only values compare there. */
  readonly clippedScale: number;
  parameter(step: number): Float32Array;
  state(step: number): Readonly<Record<string, ExpectedState>>;
}

/** One stand-alone quantization of a recording. */
export interface QuantizeCase {
  readonly title: string;
  readonly input: Float32Array<ArrayBuffer>;
  readonly format: FormatOptions;
  readonly codebook: Float32Array | undefined;
  /** Codes in our numbering, or undefined to compare by value. */
  readonly codes: Uint8Array | undefined;
  readonly scales: Float32Array;
  readonly values: Float32Array;
}

export interface Quantizations {
  readonly kind: "quantize";
  readonly codebooks: Readonly<
    Record<string, { ours: Float32Array; theirs: Float32Array }>
  >;
  readonly cases: readonly QuantizeCase[];
}

export interface Unknown {
  readonly kind: "skip";
  readonly reason: string;
}

export type Known = Replay | Quantizations | Unknown;

/** Recognises a recording. */
export function recognise(recording: Recording): Known {
  const { tensors, metadata } = recording;
  const keys = [...tensors.keys()];
  const has = (pattern: RegExp) => keys.some((key) => pattern.test(key));
  if (has(/^q\.\w+\.\d+$/)) return quantizations(recording);
  if (!metadata.meta || !tensors.has("p0") || !tensors.has("grads"))
    return skip("it is neither a run of an optimizer nor of a quantizer");
  const meta = JSON.parse(metadata.meta) as Meta;
  if (has(/^state1\.\d+$/)) return bitsandbytes(recording, meta);
  if (has(/^exp_avg\.codes\.\d+$/)) return torchao(recording, meta);
  if (has(/^(exp_avg|momentum_buffer)\.\d+$/)) return lpmm(recording, meta);
  return skip(`no state that we know is among ${keys.slice(0, 8).join(", ")}`);
}

const skip = (reason: string): Unknown => ({ kind: "skip", reason });

interface Meta {
  readonly optimizer?: string;
  readonly variant?: string;
  readonly lr: number;
  readonly betas?: readonly number[];
  readonly alpha?: number;
  readonly t_alpha?: number | null;
  readonly t_beta3?: number | null;
  readonly momentum?: number;
  readonly dampening?: number;
  readonly nesterov?: boolean;
  readonly eps?: number;
  readonly weight_decay: number;
  readonly max_unorm?: number;
  readonly bits?: number;
  readonly block_size?: number;
}

/** Access to a recording's tensors. */
function reader({ name, tensors }: Recording) {
  const bytes = (key: string) => {
    const tensor = tensors.get(key);
    if (!tensor) throw new Error(`${name}: there is no '${key}'`);
    return tensor.bytes;
  };
  const floats = (key: string) => {
    const tensor = tensors.get(key);
    if (tensor && tensor.dtype !== "F32")
      throw new Error(`${name}: '${key}' is ${tensor.dtype}, not F32`);
    return new Float32Array(bytes(key).buffer);
  };
  return { bytes, floats, shape: (key: string) => tensors.get(key)!.shape };
}

/** What all runs share: inputs, parameters after each step, the number of steps. */
function run(recording: Recording, meta: Meta) {
  const { floats, shape } = reader(recording);
  const start = floats("p0");
  const gradients = floats("grads");
  const steps = shape("grads")[0]!;
  for (let t = 1; t <= steps; t++) floats(`p.${t}`);
  return {
    kind: "replay" as const,
    shape: shape("p0"),
    lr: meta.lr,
    steps,
    start,
    gradient: (t: number) =>
      gradients.slice((t - 1) * start.length, t * start.length),
    parameter: (t: number) => floats(`p.${t}`),
    clippedScale: 0,
    brokenBlocks: {},
    blockSize: 256,
    reductions: false,
  };
}

// --- bitsandbytes ----------------------------------------------------------

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

/**
 * Fused kernels take their numbers as float32 before they subtract them from 1:
 * for a beta2 of 0.999 that makes 1 - beta2 smaller by 1.3e-5 of itself, more
 * than the tolerance of a scale.
 */
const asKernel = (meta: Meta): Meta => {
  const { betas, alpha, momentum } = meta;
  return {
    ...meta,
    ...(betas && { betas: betas.map(Math.fround) }),
    ...(alpha !== undefined && { alpha: Math.fround(alpha) }),
    ...(momentum !== undefined && { momentum: Math.fround(momentum) }),
  };
};

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

function bitsandbytes(recording: Recording, meta: Meta): Known {
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

/** Options without those that the recording does not have. */
const given = (options: Readonly<Record<string, unknown>>) =>
  Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as Record<string, number>;

const adamOptions = ({ lr, betas, eps, weight_decay: weightDecay }: Meta) =>
  given({ lr, beta1: betas?.[0], beta2: betas?.[1], eps, weightDecay });

/** The block size, a power of two, that gives `length` elements this many scales. */
const blockOf = (length: number, scales: number) =>
  Math.max(32, 2 ** Math.ceil(Math.log2(length / scales)));

// --- torchao ---------------------------------------------------------------

function torchao(recording: Recording, meta: Meta): Known {
  const { bytes, floats } = reader(recording);
  if (meta.optimizer !== "adamw")
    return skip(`there is no replay of torchao's '${meta.optimizer}'`);
  const base = run(recording, meta);
  const length = base.start.length;
  const blockSize = blockOf(length, floats("exp_avg.scale.1").length);
  const fp8 = !recording.tensors.has("exp_avg.qmap");
  const bits = fp8 || bytes("exp_avg.codes.1").length === length ? 8 : 4;
  const codes = (key: string): Uint8Array => {
    const packed = bytes(key);
    if (fp8) return packed.map((byte) => e4m3Codes[byte]!);
    if (bits === 8) return packed;
    // The first element lies in the high nibble there.
    return unpackCodes(
      packed.map((byte) => (byte >> 4) | (byte << 4)),
      4,
      length,
    );
  };
  const state = (t: number, key: string): ExpectedState => ({
    kind: "quantized",
    codes: codes(`${key}.codes.${t}`),
    // An FP8 scale takes the block to 448, the largest e4m3 value.
    scales: floats(`${key}.scale.${t}`).map((scale) =>
      fp8 ? scale * 448 : scale,
    ),
  });
  const format: FormatOptions = { bits, blockSize };
  return {
    ...base,
    recipe: adamw({
      ...adamOptions(meta),
      state: fp8
        ? {
            m: { ...format, codebook: e4m3 },
            v: { ...format, codebook: e4m3, signed: true },
          }
        : {
            m: { ...format, codebook: "dynamic" },
            v: {
              ...format,
              codebook: bits === 4 ? "linear-nozero" : "dynamic",
            },
          },
    }),
    bits,
    codebooks: fp8
      ? {}
      : { m: floats("exp_avg.qmap"), v: floats("exp_avg_sq.qmap") },
    clippedScale: 1e-12 * (fp8 ? 448 : 1) * 1.0001,
    state: (t) => ({ m: state(t, "exp_avg"), v: state(t, "exp_avg_sq") }),
  };
}

/** PyTorch's float8_e4m3fn by byte: no infinities, NaN at 0x7f and 0xff. */
const e4m3fn = Array.from({ length: 256 }, (_, byte) => {
  const exponent = (byte >> 3) & 15;
  const fraction = byte & 7;
  if (exponent === 15 && fraction === 7) return NaN;
  const magnitude =
    exponent === 0
      ? (fraction / 8) * 2 ** -6
      : (1 + fraction / 8) * 2 ** (exponent - 7);
  return byte & 0x80 ? -magnitude : magnitude;
});
const e4m3Values = [
  ...new Set(
    e4m3fn.filter((value) => !Number.isNaN(value)).map((value) => value + 0),
  ),
].sort((a, b) => a - b);
/** As a codebook in [-1, 1], and from their bytes to its codes. */
const e4m3 = Float32Array.from(e4m3Values, (value) => value / 448);
const e4m3Codes = e4m3fn.map((value) => e4m3Values.indexOf(value + 0));

// --- lpmm ------------------------------------------------------------------

function lpmm(recording: Recording, recorded: Meta): Known {
  const { bytes, floats } = reader(recording);
  const keys = [...recording.tensors.keys()];
  const factored = keys.some((key) => key.startsWith("exp_avg_sq_row"));
  const axes = keys
    .filter((key) => /^exp_avg_sq\.max_dims\d+\.1$/.test(key))
    .map((_, axis) => axis);
  const rank1 = axes.length > 0;
  const base = run(recording, recorded);
  const length = base.start.length;
  const first = keys.includes("exp_avg.1") ? "exp_avg" : "momentum_buffer";
  // Small tensors keep float32 states there.
  const plain = recording.tensors.get(`${first}.1`)!.dtype === "F32";
  const blockSize = plain
    ? 128
    : blockOf(length, floats(`${first}.max1.1`).length);
  // Only the fused kernel does not pad.
  const fused = bytes(`${first}.1`).length === Math.ceil(length / 2);
  const meta = fused ? asKernel(recorded) : recorded;
  const state = (t: number, key: string): ExpectedState =>
    plain
      ? { kind: "float", values: floats(`${key}.${t}`) }
      : {
          kind: "quantized",
          // Padded to a multiple of 2048 elements and a byte, unless fused.
          codes: unpackCodes(bytes(`${key}.${t}`), 4, length),
          // Ours lie one axis after the other.
          scales:
            rank1 && key === "exp_avg_sq"
              ? Float32Array.from(
                  axes.flatMap((axis) => [
                    ...floats(`${key}.max_dims${axis}.${t}`),
                  ]),
                )
              : floats(`${key}.max1.${t}`),
        };
  const bits = plain ? 32 : 4;
  const m: FormatOptions = {
    bits,
    blockSize,
    codebook: "dynamic",
    rounding: "nearest",
  };
  const names: Record<string, string> = factored
    ? { m: first }
    : first === "exp_avg"
      ? { m: "exp_avg", v: "exp_avg_sq" }
      : { m: first };
  return {
    ...base,
    blockSize,
    reductions: factored || rank1,
    recipe: factored
      ? factor({ ...adamOptions(meta), state: { m } })
      : first === "exp_avg"
        ? adamw({
            ...adamOptions(meta),
            state: {
              m,
              v: {
                ...m,
                codebook: "linear-nozero",
                scale: rank1 ? "rank1" : "block",
              },
            },
          })
        : sgd({
            ...given({
              lr: meta.lr,
              momentum: meta.momentum,
              dampening: meta.dampening,
              weightDecay: meta.weight_decay,
            }),
            ...(meta.nesterov === undefined ? {} : { nesterov: meta.nesterov }),
            state: { m },
          }),
    bits,
    codebooks: Object.fromEntries(
      Object.entries(plain ? {} : names).map(([name, key]) => [
        name,
        floats(`${key}.qmap`),
      ]),
    ),
    state: (t) => ({
      ...Object.fromEntries(
        Object.entries(names).map(([name, key]) => [name, state(t, key)]),
      ),
      ...(factored && {
        row: { kind: "float", values: floats(`exp_avg_sq_row.${t}`) },
        col: { kind: "float", values: floats(`exp_avg_sq_col.${t}`) },
      }),
    }),
  };
}

// --- quantization alone ----------------------------------------------------

const recordedCodebooks: Readonly<Record<string, () => Float32Array>> = {
  dynamic_signed: () => codebook("dynamic"),
  dynamic_unsigned: () => codebook("dynamic", { signed: false }),
  linear_signed: () => codebook("linear"),
  linear_unsigned: () => codebook("linear", { signed: false }),
  fp8_e4m3: () => codebook("fp8-e4m3"),
  fp8_e5m2: () => codebook("fp8-e5m2"),
  // Sixteen values; the rest of the recorded table is filled up with zeros.
  normal: () => codebook("nf4"),
};

function quantizations(recording: Recording): Quantizations {
  const { bytes, floats } = reader(recording);
  const keys = [...recording.tensors.keys()];
  const codebooks = Object.fromEntries(
    Object.entries(recordedCodebooks)
      .filter(([key]) => keys.includes(key))
      .map(([key, ours]) => [
        key,
        {
          ours: ours(),
          theirs:
            key === "normal"
              ? Float32Array.from(new Set(floats(key))).sort()
              : floats(key),
        },
      ]),
  );
  const cases = keys.flatMap((key): QuantizeCase[] => {
    const [, map, block] = /^q\.(\w+)\.(\d+)$/.exec(key) ?? [];
    if (!map || !block) return [];
    const four = map === "nf4" || map === "fp4";
    const values = floats(`dq.${map}.${block}`);
    const input = floats(map === "unsigned" ? "xpos" : "x").slice(
      0,
      values.length,
    );
    const codes = bytes(key);
    return [
      {
        title: `${map}, blocks of ${block}`,
        input,
        format: {
          bits: four ? 4 : 8,
          blockSize: Number(block),
          codebook: four ? map : map === "linear" ? "linear" : "dynamic",
          signed: map !== "unsigned",
        },
        codebook: four
          ? undefined
          : floats(map === "linear" ? "linear_signed" : `dynamic_${map}`),
        // fp4 codes are numbered by their bits there, ours by value.
        codes:
          map === "fp4"
            ? undefined
            : four
              ? unpackCodes(
                  codes.map((byte) => (byte >> 4) | (byte << 4)),
                  4,
                  values.length,
                )
              : codes,
        scales: floats(`absmax.${map}.${block}`),
        values,
      },
    ];
  });
  return { kind: "quantize", codebooks, cases };
}
