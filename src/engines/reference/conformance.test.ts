// The conformance suite itself: it must notice an engine that is a little
// wrong. Each of these is the reference engine with one fault.

import { adamw } from "lowbit";
import { expect, test } from "vitest";
import { expectConformance } from "../../../test/support/conformance.ts";
import type { Engine, Session } from "../engine.ts";
import { referenceEngine } from "./engine.ts";

/** The reference engine whose sessions do something after every step, or in place of a call. */
function faulty(
  fault: (
    session: Session,
    plans: readonly { parameter: unknown }[],
  ) => Partial<Session>,
): Engine {
  return {
    name: "faulty",
    async createSession(plans, options) {
      const session = await referenceEngine.createSession(plans, options);
      const changes = fault(session, plans);
      return new Proxy(session, {
        get: (target, key) => {
          const value: unknown = Reflect.get(
            key in changes ? changes : target,
            key,
          );
          return typeof value === "function"
            ? value.bind(key in changes ? changes : target)
            : value;
        },
      });
    },
  };
}

const changeState =
  (change: (state: { codes: Uint8Array; scales: Float32Array }) => void) =>
  (session: Session) => ({
    async readState(tensor: number, state: number) {
      const stored = await session.readState(tensor, state);
      if (stored.kind === "quantized" && stored.codes.length > 0)
        change(stored);
      return stored;
    },
  });

const faults: Record<string, Engine> = {
  "a code two steps away": faulty(
    changeState(({ codes }) => (codes[0] = codes[0]! ^ 2)),
  ),
  "many codes one step away": faulty(
    changeState(({ codes }) =>
      codes.forEach((code, i) => (codes[i] = i % 50 ? code : code ^ 1)),
    ),
  ),
  "a last scale that is off by 1e-5": faulty(
    changeState(({ scales }) => (scales[scales.length - 1]! *= 1 + 1e-5)),
  ),
  "a last element that stays": faulty((session, plans) => ({
    async step(input) {
      const last = plans.map(({ parameter }) =>
        (parameter as Float32Array).at(-1)!,
      );
      await session.step(input);
      plans.forEach(({ parameter }, i) =>
        (parameter as Float32Array).set(
          [last[i]!],
          (parameter as Float32Array).length - 1,
        ),
      );
    },
  })),
  "a step that is too long by a thousandth": faulty((session, plans) => ({
    async step(input) {
      const before = plans.map(({ parameter }) =>
        (parameter as Float32Array).slice(),
      );
      await session.step(input);
      plans.forEach(({ parameter }, i) =>
        (parameter as Float32Array).forEach(
          (value, k, all) => (all[k] = value + (value - before[i]![k]!) * 1e-3),
        ),
      );
    },
  })),
  "no report of what was left out": faulty((session) => ({
    report: () => ({ ...(session.report() as object), nonFinite: 0 }) as never,
  })),
};

const run = (device: Engine) =>
  expectConformance(
    {
      name: "faulty",
      open: async () => ({ device }),
      skipReason: undefined,
      exact: false,
    },
    {
      recipe: adamw({ bits: 8, lr: 1e-2 }),
      sizes: [257, 4097],
      steps: 3,
      options: { minQuantizedSize: 0 },
      gradient: (size, _, step) =>
        Float32Array.from({ length: size }, (_, i) =>
          i === 7 ? NaN : Math.sin(i * step),
        ),
    },
  );

test("the suite passes the reference itself", async () => {
  await run(referenceEngine);
  await run(faulty(() => ({})));
});

test.each(Object.entries(faults))("the suite notices %s", async (_, engine) => {
  await expect(run(engine)).rejects.toThrow();
});
