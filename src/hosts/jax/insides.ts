/** What jax-js has no public way to: its backends, and where arrays lie in them. */
import type { Jax, Tensor } from "./contract.ts";

/** The number of an array's slot in its backend; makes the array contiguous. */
export const slotOf = (array: Tensor): number =>
  (array as Tensor & { _realizeSource(): number })._realizeSource();

export interface Lookup {
  readonly map: Map<unknown, unknown>;
  readonly key: unknown;
  readonly value: unknown;
}

/** What is looked up in maps while `work` runs; nothing else runs meanwhile. */
export function watchingMaps<T>(work: () => T): [T, readonly Lookup[]] {
  const { get } = Map.prototype;
  const seen: Lookup[] = [];
  Map.prototype.get = function (key: unknown) {
    const value: unknown = get.call(this, key);
    seen.push({ map: this, key, value });
    return value;
  };
  try {
    return [work(), seen];
  } finally {
    Map.prototype.get = get;
  }
}

/** jax-js's backend of this name, which it has no public way to; undefined if it is not found. */
export function findBackend(
  jax: Jax,
  name: "wasm" | "webgpu",
): Record<string, unknown> | undefined {
  const { numpy: np } = jax;
  const [array, seen] = watchingMaps(() => np.zeros([1], { device: name }));
  array.dispose();
  const found = seen.find(({ key }) => key === name)?.value;
  return typeof found === "object"
    ? (found as Record<string, unknown>)
    : undefined;
}
