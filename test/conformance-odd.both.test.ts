// Odd gradients, very large tensors, and engines that share the work otherwise:
// against the reference, or against their twin.

import {
  adam,
  adamw,
  optimizers,
  type OptimizerOptions,
  type Recipe,
} from "lowbit";
import { describe, expect, test } from "vitest";
import {
  expectConformance,
  expectSameBits,
  expectSameStates,
  gradientsOf,
  optimizerOn,
  startOf,
  quantizedAll,
} from "./support/conformance.ts";
import { describeEngines, engines } from "./support/engines.ts";
import * as formulas from "./support/formulas.ts";

describeEngines(
  (engine) => {
    const odd: Record<string, (i: number, step: number) => number> = {
      "denormals among ordinary numbers": (i, step) =>
        i % 3 ? Math.sin(i + step) : 1e-40 * i,
      "numbers from 1e-30 to 1e15": (i, step) =>
        Math.sin(i + step) * 10 ** ((i % 46) - 30),
      "one sign": (i, step) => -Math.abs(Math.sin(i * step)),
      "few values": (i, step) => ((i * step) % 5) - 2,
    };
    for (const [title, value] of Object.entries(odd))
      for (const bits of [8, 4])
        test(`gradients of ${title} give the reference's numbers in ${bits} bits`, () =>
          expectConformance(engine, {
            recipe: adam({ bits }),
            sizes: [257, 4097],
            options: quantizedAll,
            gradient: (size, _, step) =>
              Float32Array.from({ length: size }, (_, i) => value(i, step)),
          }));

    test("more than 2^24 elements are all reached", async () => {
      const size = 2 ** 24 + 77;
      const block = 256;
      const start = new Float32Array(size);
      const gradients = [new Float32Array(size), new Float32Array(size)];
      for (let i = 0; i < size; i++) {
        const hash = Math.imul(i, 0x9e3779b1) >> 8;
        start[i] = hash * 2 ** -23;
        gradients[0]![i] = (hash % 1000) * 1e-4;
        gradients[1]![i] = (hash % 777) * 1e-4;
      }
      const recipe = adamw({ bits: 8 });
      const { optimizer, parameters } = await optimizerOn(engine, recipe, {
        t0: start,
      });
      if (engine.slow) gradients.pop();
      for (const gradient of gradients) await optimizer.step({ t0: gradient });
      const state = await optimizer.state("t0");
      const result = parameters.t0!;
      optimizer.dispose();
      // Blocks do not know of each other, so a few of them can be run alone.
      const lastBlock = Math.floor(size / block) * block;
      for (const [from, to] of [
        [0, 1024],
        [2 ** 23 - 512, 2 ** 23 + 512],
        [2 ** 24 - 1024, 2 ** 24],
        [lastBlock - block, size],
      ] as const) {
        const part = await optimizerOn(
          { open: async () => ({ device: "reference" }) },
          recipe,
          { t0: start.slice(from, to) },
          quantizedAll,
        );
        for (const gradient of gradients)
          await part.optimizer.step({ t0: gradient.slice(from, to) });
        const expected = await part.optimizer.state("t0");
        const distance = result
          .subarray(from, to)
          .reduce(
            (max, value, i) =>
              Math.max(max, Math.abs(value - part.parameters.t0![i]!)),
            0,
          );
        expect(distance, `elements ${from} to ${to}`).toBeLessThanOrEqual(
          engine.exact ? 0 : 3e-7,
        );
        for (const name of ["m", "v"]) {
          const [actual, wanted] = [state[name]!, expected[name]!];
          if (actual.kind !== "quantized" || wanted.kind !== "quantized")
            throw new Error("not quantized");
          const codes = actual.codes.subarray(from, to);
          const different = codes.filter(
            (code, i) => code !== wanted.codes[i],
          ).length;
          const far = codes.filter(
            (code, i) => Math.abs(code - wanted.codes[i]!) > 1,
          ).length;
          expect(
            different,
            `codes of ${name} from ${from}`,
          ).toBeLessThanOrEqual(engine.exact ? 0 : 2);
          expect(far).toBe(0);
          const scales = actual.scales.slice(
            from / block,
            Math.ceil(to / block),
          );
          scales.forEach((scale, i) =>
            expect(Math.abs(scale / wanted.scales[i]! - 1)).toBeLessThanOrEqual(
              1e-6,
            ),
          );
        }
        part.optimizer.dispose();
      }
      // Every element moved, the gradient being 0 for few.
      let still = 0;
      for (let i = 0; i < size; i++)
        if (result[i] === start[i] && gradients[0]![i] !== 0 && start[i] !== 0)
          still++;
      expect(still).toBe(0);
    }, 300_000);
  },
  ({ name }) => name !== "reference",
);

// An engine that differs from another in how it shares the work alone.
for (const engine of engines) {
  const twin = engines.find(({ name }) => name === engine.twinOf);
  if (!twin) continue;
  const same = async (
    recipe: Recipe,
    options: OptimizerOptions = { maxGradNorm: 1, minQuantizedSize: 0 },
    spoil: (gradient: Float32Array) => void = () => {},
  ) => {
    const sizes = [3, 4097, 150_001, 0, 65_536];
    const one = await optimizerOn(engine, recipe, startOf(sizes), options);
    const two = await optimizerOn(twin, recipe, startOf(sizes), options);
    for (let t = 1; t <= 4; t++) {
      const gradients = gradientsOf({ sizes }, t);
      spoil(gradients.t4!);
      await one.optimizer.step(gradients);
      await two.optimizer.step(gradients);
    }
    for (const name of Object.keys(one.parameters)) {
      expectSameBits(name, one.parameters[name]!, two.parameters[name]!);
      expectSameStates(
        name,
        await one.optimizer.state(name),
        await two.optimizer.state(name),
      );
    }
    one.optimizer.dispose();
    two.optimizer.dispose();
  };
  describe(
    `${engine.name}, beside ${twin.name}`,
    { skip: !!engine.skipReason, meta: { skipReason: engine.skipReason } },
    () => {
      for (const [name, factory] of optimizers())
        test(`${name} is the same to the bit`, () => same(factory()));
      for (let bits = 2; bits <= 8; bits++)
        test(`${bits} bits with different blocks are the same to the bit`, () =>
          same(
            adamw({
              state: {
                m: { bits, blockSize: 64 },
                v: { bits, blockSize: 2048 },
              },
            }),
          ));
      test("stochastic rounding is the same to the bit", () =>
        same(
          adamw({
            bits: 4,
            state: {
              m: { rounding: "stochastic" },
              v: { rounding: "stochastic", blockSize: 32 },
            },
          }),
        ));
      test("one scale a tensor is the same to the bit", () =>
        same(
          adamw({
            bits: 8,
            state: { m: { scale: "tensor" }, v: { scale: "tensor" } },
          }),
        ));
      for (const [name, factory] of Object.entries(formulas))
        test(`the formula '${name}' is the same to the bit`, () =>
          same(factory({ bits: 8 })));
      test("gradients that are not finite are left out alike, to the bit", () =>
        same(adamw({ bits: 8 }), { maxGradNorm: 1, minQuantizedSize: 0 }, (g) =>
          g.set([NaN, Infinity, -Infinity]),
        ));
      test("small tensors in 32 bits are the same to the bit", () =>
        same(adamw({ bits: 4 }), {}));
    },
  );
}
