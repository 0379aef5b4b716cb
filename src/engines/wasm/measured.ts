/** What a measure pass found: new scales that concern a whole tensor. */
import { smallestScale } from "../../formats/quantize.ts";

/** Scales by tensor and state (in the kernel's order), from bits of magnitudes. */
export class Measured {
  readonly #rank1 = new Map<string, [[number, number], Float32Array]>();
  readonly #bits = new Map<number, Map<number, number>>();

  raise(tensor: number, state: number, bits: number): void {
    let mine = this.#bits.get(tensor);
    if (!mine) this.#bits.set(tensor, (mine = new Map()));
    mine.set(state, Math.max(mine.get(state) ?? 0, bits));
  }

  setRank1(tensor: number, state: number, scales: Float32Array): void {
    this.#rank1.set(`${tensor} ${state}`, [[tensor, state], scales]);
  }

  rank1(): Iterable<[[number, number], Float32Array]> {
    return this.#rank1.values();
  }

  /** The scale to store: 0 when below the smallest that counts. */
  scale(tensor: number, state: number): number {
    const twice = this.#bits.get(tensor)?.get(state) ?? 0;
    const value = new Float32Array(Uint32Array.of(twice >>> 1).buffer)[0]!;
    return value < smallestScale ? 0 : value;
  }

  *entries(): Generator<[[number, number], number]> {
    for (const [tensor, states] of this.#bits)
      for (const state of states.keys())
        yield [[tensor, state], this.scale(tensor, state)];
  }
}
