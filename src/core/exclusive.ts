/**
 * One thing at a time: a step, a save or a load that has not ended keeps others
 * from beginning, and a load that ended midway leaves states nobody may use.
 */
export class Exclusive {
  readonly #owner: string;
  /** What is under way, in words. */
  #busy: string | undefined;
  /** What left the states so that they cannot be used: a load that did not end. */
  #broken: string | undefined;

  constructor(owner: string) {
    this.#owner = owner;
  }

  /** @throws Error when something is under way, or the states cannot be used. */
  check(): void {
    if (this.#busy !== undefined)
      throw new Error(
        `${this.#owner}: the ${this.#busy} before has not ended; await optimizer.${this.#busy}(...)`,
      );
    if (this.#broken !== undefined)
      throw new Error(
        `${this.#owner}: ${this.#broken} ended midway and left states of two kinds; load a file again`,
      );
  }

  /** Begins something; the function returned ends it. */
  begin(what: string): () => void {
    this.check();
    this.#busy = what;
    return () => (this.#busy = undefined);
  }

  async run<T>(what: string, work: () => Promise<T>): Promise<T> {
    const end = this.begin(what);
    try {
      return await work();
    } finally {
      end();
    }
  }

  /** Runs work that replaces all states, from `begin` on; if it ends midway, they cannot be used. */
  async replace<T>(
    what: string,
    work: (begin: () => void) => Promise<T>,
  ): Promise<T> {
    const before = this.#broken;
    this.#broken = undefined;
    let after = before;
    try {
      const result = await this.run(what, () =>
        work(() => void (after = what)),
      );
      after = undefined;
      return result;
    } finally {
      this.#broken = after;
    }
  }
}
