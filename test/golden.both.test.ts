// Runs of bitsandbytes, torchao and lpmm on a GPU, replayed step by step on
// every engine, within the tolerances of the table below.

import {
  createOptimizer,
  dequantize,
  quantize,
  unpackCodes,
  type ReadState,
} from "lowbit";
import { describe, expect, test } from "vitest";
import { describeEngines, type EngineEntry } from "./support/engines.ts";
import { recognise } from "./support/golden.ts";
import type { Replay } from "./support/golden-run.ts";
import { codeDistance, relativeDistance } from "./support/numbers.ts";
import {
  recordings,
  unreadable,
  type Recording,
} from "./support/recordings.ts";
import {
  expectParameters,
  expectSameCodebook,
  expectState,
  tolerance,
} from "./support/replay.ts";

// A file that cannot be read fails under its name, and the others are replayed.
const all = (await recordings()).flatMap((recording) => {
  const known = recogniseOr(recording);
  return known ? [{ ...recording, known }] : [];
});

test("every file of the folder can be read", () => {
  expect(unreadable).toEqual([]);
});

function recogniseOr(recording: Recording) {
  try {
    return recognise(recording);
  } catch (error) {
    unreadable.push({ name: recording.name, reason: String(error) });
    return undefined;
  }
}

describeEngines((engine) => {
  for (const { name, known } of all) {
    if (known.kind === "quantize") continue;
    test(`${name} is replayed`, async ({ skip }) => {
      if (known.kind === "skip") return skip(known.reason);
      if (known.reductions && engine.noReductions) {
        const attempt = engine.open().then((device) => replay(known, device));
        await expect(attempt, "it can now").rejects.toThrow();
        return skip(engine.noReductions);
      }
      await replay(known, await engine.open());
    });
  }
});

async function replay(
  run: Replay,
  device: Awaited<ReturnType<EngineEntry["open"]>>,
) {
  const data = run.start.slice();
  const optimizer = await createOptimizer(
    run.recipe,
    { p: { data, shape: run.shape } },
    { ...device, minQuantizedSize: 0 },
  );
  try {
    expectCodebooks(run, await optimizer.state("p"));
    for (let t = 1; t <= run.steps; t++) {
      await optimizer.step({ p: run.gradient(t) });
      expectParameters(run, t, data);
      const states = await optimizer.state("p");
      for (const [name, expected] of Object.entries(run.state(t)))
        expectState(
          `${name} after step ${t}`,
          states[name]!,
          expected,
          run,
          run.brokenBlocks[name],
        );
    }
  } finally {
    optimizer.dispose();
  }
}

function expectCodebooks(
  run: Replay,
  states: Readonly<Record<string, ReadState>>,
) {
  for (const [name, theirs] of Object.entries(run.codebooks)) {
    const { format } = states[name]!;
    if (format.kind !== "quantized")
      throw new Error(`${name} is not quantized`);
    expectSameCodebook(name, format.values, theirs);
  }
}

for (const { name, known } of all) {
  if (known.kind !== "quantize") continue;
  describe(`quantizations of ${name}`, () => {
    for (const [name, { ours, theirs }] of Object.entries(known.codebooks))
      test(`the codebook ${name} is the same`, () => {
        expectSameCodebook(name, ours, theirs);
      });

    test.for(known.cases.map((one) => [one.title, one] as const))(
      "%s give the same codes and values",
      ([, one]) => {
        const quantized = quantize(one.input, one.format);
        if (one.codebook)
          expectSameCodebook("codebook", quantized.format.values, one.codebook);
        expect(
          relativeDistance(quantized.scales, one.scales),
        ).toBeLessThanOrEqual(tolerance.scale);
        const { values, bits, blockSize } = quantized.format;
        const codes = unpackCodes(quantized.codes, bits, one.input.length);
        const expected =
          one.codes ??
          Uint8Array.from(one.values, (value, i) =>
            nearestIndex(
              values,
              value / one.scales[Math.floor(i / blockSize)]!,
            ),
          );
        const distance = codeDistance(codes, expected);
        expect(distance.equal).toBeGreaterThanOrEqual(tolerance.equalCodes);
        expect(distance.furthest).toBeLessThanOrEqual(1);
        // Decoding the same codes gives the same values.
        const same = dequantize(quantized);
        const wrong = same.findIndex(
          (value, i) =>
            codes[i] === expected[i] &&
            !(
              Math.abs(value - one.values[i]!) <=
              1e-5 * Math.abs(one.values[i]!) + 1e-8
            ),
        );
        expect(wrong, "first wrong decoded value").toBe(-1);
      },
    );
  });
}

function nearestIndex(sorted: Float32Array, x: number): number {
  let best = 0;
  sorted.forEach((value, i) => {
    if (Math.abs(value - x) < Math.abs(sorted[best]! - x)) best = i;
  });
  return best;
}
