// Runs of bitsandbytes, torchao and lpmm on a GPU, replayed step by step on
// every engine, within the tolerances of the table below.

import {
  createOptimizer,
  dequantize,
  quantize,
  unpackCodes,
  type ReadState,
} from "lowbit";
import { afterAll, describe, expect, test } from "vitest";
import { engines } from "./support/engines.ts";
import {
  recognise,
  type ExpectedState,
  type Replay,
} from "./support/golden.ts";
import { codeDistance, relativeDistance, ulps } from "./support/numbers.ts";
import { recordings } from "./support/recordings.ts";

/** How far a replay may be from its recording. */
const tolerance = {
  /** Part of the codes that must be equal; the others one step away at most. */
  equalCodes: 0.995,
  scale: 1e-5,
  codebookUlps: 1,
  /** Part of the parameters that must be near, in units of lr. */
  near: { part: 0.99, within: 2e-3 },
  /** None further than this, in units of lr, but for a part at 4 bits. */
  furthest: { within: 0.5, partAt4Bits: 0.003 },
  /** float32 states, relative to the value, and to the largest for those near 0. */
  float: { relative: 1e-5, ofLargest: 1e-7 },
};

const all = await recordings();

for (const engine of engines) {
  describe(
    `on ${engine.name}`,
    { skip: !!engine.skipReason, meta: { skipReason: engine.skipReason } },
    () => {
      afterAll(() => engine.close?.());

      for (const recording of all) {
        const known = recognise(recording);
        if (known.kind === "quantize") continue;
        test(`${recording.name} is replayed`, async ({ skip }) => {
          if (known.kind === "skip") return skip(known.reason);
          if (known.reductions && engine.noReductions) {
            const attempt = engine
              .open()
              .then((device) => replay(known, device));
            await expect(attempt, "it can now").rejects.toThrow();
            return skip(engine.noReductions);
          }
          await replay(known, await engine.open());
        });
      }
    },
  );
}

async function replay(
  run: Replay,
  device: Awaited<ReturnType<(typeof engines)[number]["open"]>>,
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

function expectSameCodebook(
  name: string,
  ours: Float32Array,
  theirs: Float32Array,
) {
  expect(ours.length, `values of ${name}`).toBe(theirs.length);
  ours.forEach((value, i) =>
    expect(ulps(value, theirs[i]!), `${name}, value ${i}`).toBeLessThanOrEqual(
      tolerance.codebookUlps,
    ),
  );
}

function expectParameters(run: Replay, t: number, actual: Float32Array) {
  const expected = run.parameter(t);
  let near = 0;
  let far = 0;
  let compared = 0;
  for (let i = 0; i < actual.length; i++) {
    if (run.brokenBlocks.p?.includes(Math.floor(i / run.blockSize))) continue;
    compared++;
    const distance = Math.abs(actual[i]! - expected[i]!) / run.lr;
    if (distance <= tolerance.near.within) near++;
    // Not "greater": a NaN is far.
    if (!(distance <= tolerance.furthest.within)) far++;
  }
  const label = `parameters after step ${t}`;
  expect(near / compared, `near ${label}`).toBeGreaterThanOrEqual(
    tolerance.near.part,
  );
  expect(far / compared, `far ${label}`).toBeLessThanOrEqual(
    run.bits <= 4 ? tolerance.furthest.partAt4Bits : 0,
  );
}

function expectState(
  label: string,
  actual: ReadState,
  expected: ExpectedState,
  run: Replay,
  broken: readonly number[] = [],
) {
  if (actual.kind === "float" && expected.kind === "float") {
    const largest = expected.values.reduce(
      (max, value) => Math.max(max, Math.abs(value)),
      0,
    );
    const { relative, ofLargest } = tolerance.float;
    expect(actual.values.length).toBe(expected.values.length);
    const wrong = actual.values.findIndex(
      (value, i) =>
        !(
          Math.abs(value - expected.values[i]!) <=
          relative * Math.abs(expected.values[i]!) + ofLargest * largest
        ),
    );
    expect(wrong, `first wrong element of ${label}`).toBe(-1);
    return;
  }
  if (
    actual.kind !== "quantized" ||
    expected.kind !== "quantized" ||
    actual.format.kind !== "quantized"
  )
    throw new Error(`${label}: ${actual.kind} here, ${expected.kind} recorded`);
  const { format } = actual;
  const clipped = run.clippedScale;
  const length = expected.codes.length;
  const codes = unpackCodes(actual.codes, format.bits, length);
  expect(actual.scales.length, `scales of ${label}`).toBe(
    expected.scales.length,
  );
  // An all-zero group may hold any code: there is nothing to compare but its 0.
  const counts = (i: number) =>
    expected.scales[i]! > clipped && !broken.includes(i);
  const groups = [...expected.scales.keys()];
  for (const i of groups.filter((i) => !counts(i) && !broken.includes(i)))
    expect(actual.scales[i], `scale ${i} of ${label}`).toBeLessThanOrEqual(
      clipped,
    );
  const living = groups.filter(counts);
  expect(
    relativeDistance(
      living.map((i) => actual.scales[i]!),
      living.map((i) => expected.scales[i]!),
    ),
    `scales of ${label}`,
  ).toBeLessThanOrEqual(tolerance.scale);
  const kept = (_: number, i: number) =>
    counts(Math.floor(i / format.blockSize));
  const distance = codeDistance(
    codes.filter(kept),
    expected.codes.filter(kept),
  );
  expect(distance.equal, `equal codes of ${label}`).toBeGreaterThanOrEqual(
    tolerance.equalCodes,
  );
  expect(
    distance.furthest,
    `steps between codes of ${label}`,
  ).toBeLessThanOrEqual(1);
}

for (const recording of all) {
  const known = recognise(recording);
  if (known.kind !== "quantize") continue;
  describe(`quantizations of ${recording.name}`, () => {
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
