/** Interleaved measuring: shared machines drift, so rivals take turns. */

export interface Contender {
  readonly name: string;
  /** One step over `elements` parameters. */
  readonly step: () => void | Promise<void>;
  /** Bytes that a step must move, a parameter; for the share of copy bandwidth. */
  readonly bytes: number;
  /** State bytes a parameter as reported from real buffers, when known. */
  readonly state?: number;
  /** Steps before the first counted one. Default 3. */
  readonly warmUp?: number;
}

export interface Timing {
  readonly name: string;
  readonly bytes: number;
  readonly state: number | undefined;
  /** Nanoseconds a parameter. */
  readonly fastest: number;
  readonly median: number;
}

/** Steps all contenders in turn, `rounds` times. */
export async function race(
  contenders: readonly Contender[],
  elements: number,
  rounds: number,
): Promise<Timing[]> {
  for (const { step, warmUp = 3 } of contenders)
    for (let i = 0; i < warmUp; i++) await step();
  const times = contenders.map((): number[] => []);
  for (let round = 0; round < rounds; round++)
    for (const [i, { step }] of contenders.entries()) {
      const start = performance.now();
      await step();
      times[i]!.push(performance.now() - start);
    }
  return contenders.map(({ name, bytes, state }, i) => {
    const sorted = times[i]!.sort((a, b) => a - b);
    const scale = 1e6 / elements;
    return {
      name,
      bytes,
      state,
      fastest: sorted[0]! * scale,
      median: sorted[sorted.length >> 1]! * scale,
    };
  });
}

/**
 * A table: time a parameter, ratio to a base, GB/s of the bytes that must move,
 * and their share of the copy bandwidth measured in the same run.
 */
export function printTable(
  timings: readonly Timing[],
  base: string,
  copy: number | undefined,
): void {
  const reference = timings.find(({ name }) => name === base)!;
  const rows = timings.map(({ name, fastest, median, bytes, state }) => {
    const rate = bytes / fastest;
    return [
      name,
      state === undefined ? "" : state.toFixed(4),
      `${fastest.toFixed(3)} / ${median.toFixed(3)}`,
      (fastest / reference.fastest).toFixed(2),
      bytes > 0 ? rate.toFixed(1) : "",
      bytes > 0 && copy ? `${((100 * rate) / copy).toFixed(0)} %` : "",
    ];
  });
  const head = [
    "",
    "state B/param",
    "ns/param min / median",
    `x ${base}`,
    "GB/s",
    "of copy",
  ];
  const all = [head, ...rows];
  const widths = head.map((_, column) =>
    Math.max(...all.map((row) => row[column]!.length)),
  );
  for (const row of all)
    console.log(
      row
        .map((cell, column) =>
          column === 0
            ? cell.padEnd(widths[column]!)
            : cell.padStart(widths[column]!),
        )
        .join("  "),
    );
}

/** Gradients with scales spread over orders of magnitude, as real ones have. */
export function fillGradient(target: Float32Array, seed = 1): void {
  let state = seed >>> 0;
  const next = () =>
    (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  for (let i = 0; i < target.length; i++) {
    const sum = next() + next() + next() + next() - 2;
    target[i] = sum * Math.exp(4 * (next() - 0.5));
  }
}
