import type { StepReport } from "../engines/engine.ts";

/** Norms that count; bitsandbytes' number. */
const window = 100;

/**
 * The last 100 gradient norms, and the percentile of them that the next one may
 * not exceed. The step's own norm is not among them: it is known to the device
 * alone when it is clipped.
 */
export class NormHistory {
  readonly #percentile: number;
  #norms: number[] = [];

  constructor(percentile: number) {
    this.#percentile = percentile;
  }

  take({ gradNorm = 0 }: StepReport): void {
    // A step without any gradient says nothing of their size, and a limit of 0
    // would let none through.
    if (!(gradNorm > 0 && gradNorm < Infinity)) return;
    this.#norms.push(gradNorm);
    if (this.#norms.length > window) this.#norms.shift();
  }

  /** Oldest first. */
  get norms(): readonly number[] {
    return this.#norms;
  }

  /** As saved; of more than the window the newest count. */
  restore(norms: readonly number[]): void {
    this.#norms = norms.slice(-window);
  }

  /** No limit before the first norm is known. */
  limit(): number {
    if (this.#norms.length === 0) return Infinity;
    const sorted = [...this.#norms].sort((a, b) => a - b);
    const rank = Math.floor((this.#percentile / 100) * sorted.length);
    return sorted[Math.min(rank, sorted.length - 1)]!;
  }
}
