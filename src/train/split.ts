import { InputError } from "./errors.ts";
import type { Random } from "./random.ts";

/** A batch for the model: `targets` are the bytes that follow `tokens`. */
export interface Batch {
  /** [batch * context] */
  readonly tokens: Int32Array<ArrayBuffer>;
  readonly targets: Int32Array<ArrayBuffer>;
}

/** Batches for one look at the validation loss. */
const VALIDATION_BATCHES = 16;

/**
 * A text cut in two: training sees the first nine tenths, and the last tenth
 * (at least one piece of `context` bytes) is held out. No batch reaches over
 * the cut. What is held out may still resemble what is not: TypeScript's
 * libraries for pages and for workers, say, share much of their text.
 */
export class Split {
  readonly #text: Uint8Array;
  readonly #context: number;
  /** Bytes before the cut. */
  readonly trainBytes: number;
  /** Bytes after it. */
  readonly validationBytes: number;

  /** @throws InputError when the text is too short for the context. */
  constructor(text: Uint8Array, context: number) {
    // A piece has one byte more than the context: the last one's target.
    const piece = context + 1;
    if (text.length < 2 * piece)
      throw new InputError(
        `the text has ${text.length} bytes, and a context of ${context} needs ${2 * piece} or more; give more text or a smaller --context`,
      );
    this.#text = text;
    this.#context = context;
    this.validationBytes = Math.max(piece, Math.floor(text.length / 10));
    this.trainBytes = text.length - this.validationBytes;
  }

  /** Pieces from anywhere before the cut. */
  trainBatch(batch: number, random: Random): Batch {
    const places = this.trainBytes - this.#context;
    return this.#batch(
      Array.from({ length: batch }, () => random.below(places)),
    );
  }

  /** The same pieces every time, spread evenly over the text after the cut. */
  validationBatches(batch: number): Batch[] {
    const count = VALIDATION_BATCHES * batch;
    const last = this.validationBytes - this.#context - 1;
    const starts = Array.from(
      { length: count },
      (_, i) =>
        this.trainBytes + Math.floor((i * last) / Math.max(1, count - 1)),
    );
    return Array.from({ length: VALIDATION_BATCHES }, (_, i) =>
      this.#batch(starts.slice(i * batch, (i + 1) * batch)),
    );
  }

  #batch(starts: readonly number[]): Batch {
    const context = this.#context;
    const tokens = new Int32Array(starts.length * context);
    const targets = new Int32Array(starts.length * context);
    starts.forEach((start, row) => {
      const end = start + context;
      tokens.set(this.#text.subarray(start, end), row * context);
      targets.set(this.#text.subarray(start + 1, end + 1), row * context);
    });
    return { tokens, targets };
  }
}
