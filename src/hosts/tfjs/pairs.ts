/** Which saved state is whose: names may have changed on the way. */

interface Named {
  readonly name: string;
  readonly shape: readonly number[];
}

/**
 * Pairs variables with saved ones of the same shape: by name where all have one; else by
 * name without the number that loading adds (`kernel`, `kernel_1`); else all of
 * them in order; else those whose names are found.
 */
export function pairUp<V extends Named, S extends Named>(
  variables: readonly V[],
  saved: readonly S[],
): ReadonlyMap<V, S> {
  const exact = byName(variables, saved, (name) => name);
  if (exact.size === variables.length) return exact;
  const bare = byName(variables, saved, (name) => name.replace(/_\d+$/, ""));
  if (bare.size === variables.length) return bare;
  if (
    variables.length === saved.length &&
    variables.every((variable, i) => sameShape(variable, saved[i]!))
  )
    return new Map(variables.map((variable, i) => [variable, saved[i]!]));
  return new Map([...bare, ...exact]);
}

/** Names that several have say nothing. */
function byName<V extends Named, S extends Named>(
  variables: readonly V[],
  saved: readonly S[],
  key: (name: string) => string,
): Map<V, S> {
  const pairs = new Map<V, S>();
  for (const variable of variables) {
    const name = key(variable.name);
    const has = (one: Named) => key(one.name) === name;
    const [first, ...more] = saved.filter(has);
    if (!first || more.length > 0 || variables.filter(has).length > 1) continue;
    if (sameShape(variable, first)) pairs.set(variable, first);
  }
  return pairs;
}

const sameShape = (a: Named, b: Named) => String(a.shape) === String(b.shape);
