import type { Override } from "../core/options.ts";

/** Sizes of a stable embedding layer. */
export interface StableEmbeddingOptions {
  /** Rows of the weight: ids are whole numbers below it. */
  readonly vocabulary: number;
  /** Numbers in a row, and in the output for each id. */
  readonly width: number;
  /** Of the initial weight; a whole number from 0 to 2^32 - 1. */
  readonly seed?: number;
  /** Added to the variance in the layer norm. */
  readonly eps?: number;
}

/** The parameters' names; an optimizer may know them with a prefix. */
export type EmbeddingParameter = "weight" | "scale" | "bias";

/**
 * The options with defaults filled in. Hosts give the names that their users
 * write, for the messages.
 *
 * @throws TypeError or RangeError for values that make no layer.
 */
export function checkEmbedding(
  owner: string,
  options: StableEmbeddingOptions,
  names = { vocabulary: "vocabulary", width: "width", eps: "eps" },
): Required<StableEmbeddingOptions> {
  if (typeof options !== "object" || options === null)
    throw new TypeError(
      `${owner}: give { ${names.vocabulary}, ${names.width} }, given ${String(options)}`,
    );
  const { vocabulary, width, seed = 0, eps = 1e-5 } = options;
  for (const [name, value] of [
    [names.vocabulary, vocabulary],
    [names.width, width],
  ] as const)
    if (!Number.isSafeInteger(value) || value < 1)
      throw new RangeError(
        `${owner}: ${name} must be a whole number, 1 or more, given ${String(value)}`,
      );
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
    throw new RangeError(
      `${owner}: seed must be a whole number from 0 to 4294967295, given ${String(seed)}`,
    );
  if (typeof eps !== "number" || !(eps > 0) || eps === Infinity)
    throw new RangeError(
      `${owner}: ${names.eps} must be a number above 0, given ${String(eps)}`,
    );
  return { vocabulary, width, seed, eps };
}

/** For `createOptimizer`: 32-bit state for the embedding's weight, and for it alone. */
export function embeddingOverrides(prefix = ""): Override[] {
  return [{ match: `${prefix}weight`, bits: 32 }];
}

/**
 * A record under longer names, as `withPrefix("wte.", embedding.parameters)`
 * for parameters, and for their gradients alike.
 */
export function withPrefix<T>(
  prefix: string,
  record: Readonly<Record<string, T>>,
): Record<string, T> {
  return Object.fromEntries(
    Object.entries(record).map(([name, value]) => [prefix + name, value]),
  );
}
