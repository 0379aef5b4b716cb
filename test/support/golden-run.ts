/** What recordings of every library have in common: what is replayed, and access to it. */
import { type FormatOptions, type Recipe } from "lowbit";
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

export const skip = (reason: string): Unknown => ({ kind: "skip", reason });

export interface Meta {
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
export function reader({ name, tensors }: Recording) {
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
export function run(recording: Recording, meta: Meta) {
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

/**
 * Fused kernels take their numbers as float32 before they subtract them from 1:
 * for a beta2 of 0.999 that makes 1 - beta2 smaller by 1.3e-5 of itself, more
 * than the tolerance of a scale.
 */
export const asKernel = (meta: Meta): Meta => {
  const { betas, alpha, momentum } = meta;
  return {
    ...meta,
    ...(betas && { betas: betas.map(Math.fround) }),
    ...(alpha !== undefined && { alpha: Math.fround(alpha) }),
    ...(momentum !== undefined && { momentum: Math.fround(momentum) }),
  };
};

/** Options without those that the recording does not have. */
export const given = (options: Readonly<Record<string, unknown>>) =>
  Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as Record<string, number>;

export const adamOptions = ({
  lr,
  betas,
  eps,
  weight_decay: weightDecay,
}: Meta) =>
  given({ lr, beta1: betas?.[0], beta2: betas?.[1], eps, weightDecay });

/** The block size, a power of two, that gives `length` elements this many scales. */
export const blockOf = (length: number, scales: number) =>
  Math.max(32, 2 ** Math.ceil(Math.log2(length / scales)));
