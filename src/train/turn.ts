/**
 * Lets the event loop turn once: on one thread jax-js never waits for anything
 * but promises, and until the loop turns no signal arrives, no page repaints
 * and nothing printed into a pipe leaves the process.
 */
export const turn = (): Promise<void> =>
  new Promise((resolve) => {
    if (typeof setImmediate === "function") setImmediate(resolve);
    else setTimeout(resolve);
  });
