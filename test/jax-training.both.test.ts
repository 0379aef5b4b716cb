// Four models on jax-js, from the same start, with our optimizers and with a
// plain Adam in jax-js's own operations.

import { beforeAll, describe, expect, test } from "vitest";
import { adam32bit, adam8bit, type JaxOptimizer } from "lowbit/jax";
import {
  losses,
  models,
  openJax,
  plainAdam,
  skipReason,
  type Backend,
} from "./support/jax.ts";

const STEPS = 12;
const RATE = 3e-3;

const distance = (a: readonly number[], b: readonly number[]) =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!) / Math.abs(b[i]!)));

describe.each<Backend>(["wasm", "webgpu"])("on %s", (backend) => {
  const skip = skipReason(backend);
  describe(
    "the losses follow those of jax-js's Adam",
    { skip: !!skip, meta: { skipReason: skip } },
    () => {
      beforeAll(() => openJax(backend));

      test.each(Object.entries(models))("%s", async (_, model) => {
        const expected = await losses(model, plainAdam(RATE), STEPS);
        expect(expected.at(-1)).toBeLessThan(expected[0]!);
        const run = async (optimizer: JaxOptimizer) => {
          const seen = await losses(model, optimizer, STEPS, () =>
            expect(optimizer.device).toMatch(RegExp(`^${backend}`)),
          );
          optimizer.dispose();
          return seen;
        };
        const whole = await run(adam32bit(RATE));
        const small = await run(adam8bit(RATE, { minQuantizedSize: 0 }));
        expect(distance(whole, expected), "32 bits").toBeLessThan(1e-6);
        expect(distance(small, expected), "8 bits").toBeLessThan(1e-3);
      });
    },
  );
});
