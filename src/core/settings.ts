import type { Engine, SkipMode } from "../engines/engine.ts";
import { checkNames } from "../formula/error.ts";
import type { Group, Override, Settings } from "./options.ts";

/** Where steps run: an engine's name, a WebGPU device, or an engine itself. */
export type Device = "wasm" | "webgpu" | "reference" | Engine | object;

/** Options of `createOptimizer` beside recipe and parameters. */
export interface OptimizerOptions {
  /** Default `wasm`. */
  readonly device?: Device;
  /** Groups of tensors with options of their own. */
  readonly groups?: readonly Group[];
  /** First to last, later ones win. */
  readonly overrides?: readonly Override[];
  /** Tensors with fewer elements keep float32 state. Default 4096. */
  readonly minQuantizedSize?: number;
  /** Largest 2-norm of all gradients together; larger ones are scaled down. Default: none. */
  readonly maxGradNorm?: number;
  /** Largest magnitude of any element of a gradient; larger ones are cut off, after maxGradNorm. Default: none. */
  readonly maxGradValue?: number;
  /**
   * Clips the norm of all gradients to this percentile (1 to 99) of the norms of
   * the last 100 steps, as bitsandbytes' percentile clipping did for each tensor.
   * Default: none.
   */
  readonly percentileClipping?: number;
  /** A step is taken at every n-th call, with the mean of n gradients. Keeps a float32 sum for each parameter. Default 1. */
  readonly accumulate?: number;
  /** What to leave out when a gradient is not finite: its `element`, the whole `step`, or nothing (`off`). Default `element`. */
  readonly skipNonFinite?: SkipMode;
  /** Seed of stochastic rounding. Default 0. */
  readonly seed?: number;
  /** Most threads to use; by default the engine decides. */
  readonly threads?: number;
  /** Parameters and gradients live in the engine's memory: no copies in a step. Default false. */
  readonly resident?: boolean;
}

const optionNames = [
  "device",
  "groups",
  "overrides",
  "minQuantizedSize",
  "maxGradNorm",
  "maxGradValue",
  "percentileClipping",
  "accumulate",
  "skipNonFinite",
  "seed",
  "threads",
  "resident",
] as const;

export interface CheckedOptions extends Settings {
  readonly maxGradNorm: number | undefined;
  readonly percentileClipping: number | undefined;
  readonly accumulate: number;
  readonly skip: SkipMode;
  readonly seed: number;
  readonly threads: number | undefined;
  readonly resident: boolean;
}

/** @throws TypeError or RangeError that names the option, what was given and what is allowed. */
export function checkSettings(options: OptimizerOptions): CheckedOptions {
  checkNames(
    "createOptimizer: unknown option",
    Object.keys(options),
    optionNames,
  );
  const {
    groups = [],
    overrides = [],
    minQuantizedSize = 4096,
    maxGradNorm,
    maxGradValue,
    percentileClipping,
    accumulate = 1,
    skipNonFinite: skip = "element",
    seed = 0,
    threads,
    resident = false,
  } = options;
  for (const [key, list] of Object.entries({ groups, overrides }))
    if (!Array.isArray(list))
      throw new TypeError(
        `createOptimizer: ${key} must be a list, such as [{ ${key === "groups" ? "parameters" : "match"}: /bias/, weightDecay: 0 }], given ${typeof list}`,
      );
  if (maxGradNorm !== undefined && !isAbove0(maxGradNorm))
    throw new RangeError(
      `createOptimizer: maxGradNorm must be above 0, given ${String(maxGradNorm)}; leave it out for no limit`,
    );
  if (maxGradValue !== undefined && !isAbove0(maxGradValue))
    throw new RangeError(
      `createOptimizer: maxGradValue must be above 0, given ${String(maxGradValue)}; leave it out for no limit`,
    );
  if (
    percentileClipping !== undefined &&
    !(percentileClipping >= 1 && percentileClipping <= 99)
  )
    throw new RangeError(
      `createOptimizer: percentileClipping must be a percentile from 1 to 99, given ${String(percentileClipping)}; leave it out for no clipping`,
    );
  if (!Number.isInteger(accumulate) || accumulate < 1)
    throw new RangeError(
      `createOptimizer: accumulate must be an integer, 1 or more, given ${String(accumulate)}`,
    );
  if (!["element", "step", "off"].includes(skip))
    throw new TypeError(
      `createOptimizer: skipNonFinite must be 'element', 'step' or 'off', given '${String(skip)}'`,
    );
  if (!Number.isInteger(seed) || seed < 0 || seed > 0xffffffff)
    throw new RangeError(
      `createOptimizer: seed must be an integer from 0 to 2^32 - 1, given ${String(seed)}`,
    );
  if (threads !== undefined && (!Number.isInteger(threads) || threads < 1))
    throw new RangeError(
      `createOptimizer: threads must be an integer, 1 or more, given ${String(threads)}`,
    );
  return {
    groups,
    overrides,
    minQuantizedSize,
    maxGradNorm,
    maxGradValue,
    percentileClipping,
    accumulate,
    skip,
    seed,
    threads,
    resident: Boolean(resident),
  };
}

/** Infinity is no limit, which is a limit, too. */
const isAbove0 = (value: unknown) => typeof value === "number" && value > 0;

/** Number of elements of a shape. @throws RangeError for sizes that are no counts. */
export function checkShape(
  owner: string,
  name: string,
  shape: readonly number[],
): number {
  if (!Array.isArray(shape))
    throw new TypeError(
      `${owner}: the shape of '${name}' must be a list of sizes, given ${String(shape)}`,
    );
  const size = shape.reduce((product: number, n: unknown) => {
    if (!Number.isInteger(n) || (n as number) < 0)
      throw new RangeError(
        `${owner}: the shape of '${name}' must hold integers, 0 or more, given [${shape.join(", ")}]`,
      );
    return product * (n as number);
  }, 1);
  if (!Number.isSafeInteger(size))
    throw new RangeError(
      `${owner}: '${name}' of shape [${shape.join(", ")}] has more elements than a number can count`,
    );
  return size;
}
