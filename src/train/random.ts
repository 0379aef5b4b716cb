/** Where a generator stands: its four words, and the second of a pair of normal numbers. */
export interface RandomState {
  /** The four words of sfc32. */
  readonly words: readonly [number, number, number, number];
  /** The second of a pair of normal numbers, where it has not been taken. */
  readonly spare?: number;
}

/**
 * A small seeded generator (sfc32, by Chris Doty-Humphrey): the same seed gives
 * the same run on every machine, which `Math.random` cannot.
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;
  /** The second of a pair of normal numbers, kept for the next call. */
  #spare: number | undefined;

  /**
   * @param seed an integer from 0 to 2^32 - 1
   * @param stream separates uses of one seed: more samples must not change the
   * batches
   */
  constructor(seed: number, stream: string) {
    this.#a = seed >>> 0;
    this.#b = hash(stream);
    this.#c = 0x9e3779b9;
    // Neighbouring seeds start alike; the first dozen outputs are spent on that.
    for (let i = 0; i < 12; i++) this.uint32();
  }

  get state(): RandomState {
    const words = [this.#a, this.#b, this.#c, this.#counter] as const;
    return this.#spare === undefined
      ? { words }
      : { words, spare: this.#spare };
  }

  /** @throws TypeError for what no generator's `state` gives. */
  set state(state: RandomState) {
    const { words, spare } = state;
    const isState =
      Array.isArray(words) &&
      words.length === 4 &&
      words.every(Number.isSafeInteger) &&
      (spare === undefined || Number.isFinite(spare));
    if (!isState)
      throw new TypeError(
        `Random: a state has four whole numbers, given ${JSON.stringify(state)}`,
      );
    [this.#a, this.#b, this.#c, this.#counter] = words;
    this.#spare = spare;
  }

  uint32(): number {
    const sum = (this.#a + this.#b + this.#counter++) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    return sum >>> 0;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return this.uint32() / 2 ** 32;
  }

  /** A whole number in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.uniform() * limit);
  }

  /** From the normal distribution with mean 0 and standard deviation 1. */
  normal(): number {
    if (this.#spare !== undefined) {
      const spare = this.#spare;
      this.#spare = undefined;
      return spare;
    }
    // Box-Muller; 1 - uniform is never 0.
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    const angle = 2 * Math.PI * this.uniform();
    this.#spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++)
    value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  return value >>> 0;
}
