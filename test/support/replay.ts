/** Holds a replay to its recording. */
import { unpackCodes, type ReadState } from "lowbit";
import { expect } from "vitest";
import type { ExpectedState, Replay } from "./golden-run.ts";
import { codeDistance, relativeDistance, ulps } from "./numbers.ts";

/** How far a replay may be from its recording. */
export const tolerance = {
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

export function expectSameCodebook(
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

export function expectParameters(run: Replay, t: number, actual: Float32Array) {
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

export function expectState(
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
