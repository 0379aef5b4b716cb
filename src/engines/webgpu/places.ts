/** Where everything lies in a step, and what of it a step before had elsewhere. */
import type { Work } from "./batches.ts";
import type { BufferView } from "./buffers.ts";
import type { Gradients } from "./transfers.ts";

/** Where everything lies in a step: one that finds all in its place needs no new dispatches. */
export interface Places {
  /** By tensor; undefined where a tensor is left as it is. */
  readonly work: readonly (Work | undefined)[];
  readonly gradients: Gradients;
  /** The host's buffers of states. */
  readonly regions: readonly GPUBuffer[];
}

export const samePlaces = (a: Places, b: Places): boolean =>
  sameRegions(a, b) &&
  sameWork(
    a,
    b,
    (one, other) => one?.buffer === other?.buffer && sameView(one, other),
  );

const sameRegions = (a: Places, b: Places): boolean =>
  a.regions.every((buffer, i) => buffer === b.regions[i]);

/** Whether the same tensors take part, with views that are the same in some sense. */
const sameWork = (
  a: Places,
  b: Places,
  same: (one: View | undefined, other: View | undefined) => boolean,
): boolean =>
  a.work.every((one, i) => {
    const other = b.work[i];
    return (
      one?.written === other?.written &&
      same(one?.gradient, other?.gradient) &&
      same(one?.parameter, other?.parameter)
    );
  });

type View = Required<BufferView>;

const sameView = (a: View | undefined, b: View | undefined): boolean =>
  a === b ||
  (a?.offset === b?.offset &&
    a?.type === b?.type &&
    a?.rounding === b?.rounding);

/**
 * The new buffer for each old one, where a step differs from the one before in
 * nothing else, as it does where a host takes its buffers from a pool. Undefined
 * where it differs in more, such as in which tensors share a buffer.
 */
export function movedBuffers(
  before: Places,
  after: Places,
): Map<GPUBuffer, GPUBuffer> | undefined {
  if (!sameRegions(before, after)) return undefined;
  const moved = new Map<GPUBuffer, GPUBuffer>();
  const moves = sameWork(before, after, (one, other) => {
    if (!one || !other) return one === other;
    const known = moved.get(one.buffer);
    moved.set(one.buffer, other.buffer);
    return (
      sameView(one, other) && (known === undefined || known === other.buffer)
    );
  });
  return moves && new Set(moved.values()).size === moved.size
    ? moved
    : undefined;
}
