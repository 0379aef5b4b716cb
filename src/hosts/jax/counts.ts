/** How many steps a state has taken, as a number wherever it can be known at once. */
import { isArray, type Jax, type Tensor } from "./contract.ts";
import type { Reach } from "./reach.ts";

export class Counts {
  readonly #jax: Jax;
  /** Of the arrays made here. */
  readonly #known = new WeakMap<Tensor, number>();

  constructor(jax: Jax) {
    this.#jax = jax;
  }

  make(steps: number): Tensor {
    const { array, uint32 } = this.#jax.numpy;
    const count = array(steps, { dtype: uint32 });
    this.#known.set(count, steps);
    return count;
  }

  /** Undefined for a tracer, and for what a device has yet to compute. */
  read(count: Tensor, reach: Reach | undefined): number | undefined {
    const known = this.#known.get(count);
    if (known !== undefined) return known;
    if (!isArray(this.#jax, count)) return undefined;
    if (count.device === "cpu") return count.ref.dataSync()[0];
    return reach?.read(count);
  }
}
