/**
 * What every engine must do alike, held against the reference engine. Both run
 * from the same start and take the same gradients; after each step everything
 * is compared. Where rounding made a difference, the reference's values are
 * written into the engine before the next step, so that each step is judged on
 * its own and one code's difference cannot grow.
 */
import {
  createOptimizer,
  unpackCodes,
  type Format,
  type OptimizerHandle,
  type OptimizerOptions,
  type ReadState,
  type Recipe,
} from "lowbit";
import { expect } from "vitest";
import type { EngineEntry } from "./engines.ts";
import {
  bitsOf,
  codeDistance,
  gradientAt,
  normals,
  relativeDistance,
} from "./numbers.ts";

/** How far an engine may be from the reference after one step from the same state. */
const tolerance = {
  /** Part of all codes of a state that may differ (one may always), by one step. */
  differentCodes: 1e-3,
  scale: 8e-6,
  /** Of the largest scale of the state, beside that. */
  scaleOfLargest: 1.2e-7,
  /** Of a parameter: this part of its change in the step, and of itself (2 ulp). */
  parameter: { ofChange: 2e-5, ofItself: 2.4e-7 },
  /** Of a float32 state: relative, and of the largest in the tensor (cancellation). */
  float: { relative: 1e-5, ofLargest: 1e-6 },
  /**
   * Where a difference of nearly equal numbers is taken, a GPU's fused
   * multiply-adds and looser divisions show: this part of all elements (one may
   * always) may be this many times further off.
   */
  cancelled: { part: 1e-3, times: 100 },
  gradNorm: 1e-6,
};

/** For tensors of any size. */
export const quantizedAll = { minQuantizedSize: 0 };

export interface Case {
  readonly recipe: Recipe;
  /** Elements of each tensor; they are called t0, t1, ... */
  readonly sizes: readonly number[];
  /** Their shapes, where they have more than one axis. */
  readonly shapes?: readonly (readonly number[])[];
  readonly steps?: number;
  readonly options?: Omit<OptimizerOptions, "device" | "threads">;
  readonly gradient?: (
    size: number,
    tensor: number,
    step: number,
  ) => Float32Array;
  /** Whether equal bits are expected of an engine whose arithmetic is exact. Default true. */
  readonly exact?: boolean;
  /** Default: a schedule that changes every step. */
  readonly lr?: number | ((step: number) => number);
}

const changingRate = (step: number) =>
  1e-3 * (1 + 0.5 * Math.sin(step)) * Math.min(1, step / 5);

type Tensors = Record<string, Float32Array<ArrayBuffer>>;

/** Parameters with ordinary values, by name. */
export function startOf(sizes: readonly number[]): Tensors {
  return Object.fromEntries(
    sizes.map((size, i) => [`t${i}`, normals(size, 100 + i, 0.5)]),
  );
}

export function gradientsOf(
  { sizes, gradient }: Pick<Case, "sizes" | "gradient">,
  step: number,
): Tensors {
  return Object.fromEntries(
    sizes.map((size, i) => [
      `t${i}`,
      (gradient
        ? gradient(size, i, step)
        : gradientAt(size, 1 + i, step)) as Float32Array<ArrayBuffer>,
    ]),
  );
}

/** An optimizer on an engine, over copies of the parameters. */
export async function optimizerOn(
  engine: Pick<EngineEntry, "open">,
  recipe: Recipe,
  start: Tensors,
  options: Case["options"] = {},
  shapes: Case["shapes"] = undefined,
): Promise<{ optimizer: OptimizerHandle; parameters: Tensors }> {
  const parameters = Object.fromEntries(
    Object.entries(start).map(([name, data]) => [name, data.slice()]),
  );
  const optimizer = await createOptimizer(
    recipe,
    Object.fromEntries(
      Object.entries(parameters).map(([name, data], i) => [
        name,
        { data, shape: shapes?.[i] ?? [data.length] },
      ]),
    ),
    { ...options, ...(await engine.open()) },
  );
  return { optimizer, parameters };
}

const reference = { open: async () => ({ device: "reference" as const }) };

/** Runs a case on the engine and on the reference, and compares after every step. */
export async function expectConformance(
  engine: EngineEntry,
  one: Case,
): Promise<void> {
  const { recipe, steps = 20, options = {}, lr = changingRate } = one;
  const sizes = one.sizes.filter((size) => !engine.slow || size < 10_000);
  const start = startOf(sizes);
  const shapes = one.shapes;
  const ours = await optimizerOn(engine, recipe, start, options, shapes);
  const theirs = await optimizerOn(reference, recipe, start, options, shapes);
  const bits = engine.exact && one.exact !== false;
  try {
    ours.optimizer.lr = lr as number;
    theirs.optimizer.lr = lr as number;
    for (let t = 1; t <= steps; t++) {
      const gradients = gradientsOf({ ...one, sizes }, t);
      const before = Object.fromEntries(
        Object.entries(theirs.parameters).map(([name, data]) => [
          name,
          data.slice(),
        ]),
      );
      await ours.optimizer.step(gradients);
      await theirs.optimizer.step(gradients);
      expectSameStats(
        await ours.optimizer.stats(),
        await theirs.optimizer.stats(),
      );
      const tally = new Map<string, { codes: number; different: number }>();
      for (const name of Object.keys(start)) {
        const label = `${name} (${start[name]!.length} elements) after step ${t}`;
        expectParameter(
          label,
          ours.parameters[name]!,
          theirs.parameters[name]!,
          before[name]!,
          bits,
        );
        const [mine, yours] = [
          await ours.optimizer.state(name),
          await theirs.optimizer.state(name),
        ];
        expect(Object.keys(mine)).toEqual(Object.keys(yours));
        let same = true;
        for (const state of Object.keys(yours)) {
          const counts = expectState(
            `${state} of ${label}`,
            mine[state]!,
            yours[state]!,
            start[name]!.length,
            bits,
          );
          same &&= counts.same;
          const sum = tally.get(state) ?? { codes: 0, different: 0 };
          sum.codes += counts.codes;
          sum.different += counts.different;
          tally.set(state, sum);
        }
        if (!same) await ours.optimizer.setState(name, yours);
        ours.parameters[name]!.set(theirs.parameters[name]!);
      }
      for (const [state, { codes, different }] of tally)
        expect(
          different,
          `different codes of ${state} after step ${t}, of ${codes}`,
        ).toBeLessThanOrEqual(Math.max(1, tolerance.differentCodes * codes));
    }
  } finally {
    ours.optimizer.dispose();
    theirs.optimizer.dispose();
  }
}

function expectSameStats(
  mine: Awaited<ReturnType<OptimizerHandle["stats"]>>,
  yours: Awaited<ReturnType<OptimizerHandle["stats"]>>,
) {
  const { gradNorm: norm, ...rest } = mine;
  const { gradNorm: expected, ...others } = yours;
  expect(rest).toEqual(others);
  expect(norm === undefined).toBe(expected === undefined);
  if (expected)
    expect(
      Math.abs(norm! - expected) / expected,
      "gradNorm",
    ).toBeLessThanOrEqual(tolerance.gradNorm);
}

function expectParameter(
  label: string,
  actual: Float32Array,
  expected: Float32Array,
  before: Float32Array,
  bits: boolean,
) {
  if (bits) return expectSameBits(label, actual, expected);
  const { ofChange, ofItself } = tolerance.parameter;
  expectNear(
    label,
    actual,
    expected,
    (i) =>
      ofChange * Math.abs(expected[i]! - before[i]!) +
      ofItself * Math.abs(expected[i]!),
  );
}

/** Fails with the first value that is too far off; a few may lie within the wider bound. */
function expectNear(
  label: string,
  actual: Float32Array,
  expected: Float32Array,
  bound: (i: number) => number,
) {
  const { part, times } = tolerance.cancelled;
  let few = Math.max(1, part * actual.length);
  const wrong = actual.findIndex((value, i) => {
    if (Object.is(value, expected[i]!)) return false;
    const distance = Math.abs(value - expected[i]!);
    if (distance <= bound(i)) return false;
    return !(distance <= times * bound(i) && few-- >= 1);
  });
  if (wrong >= 0)
    expect.fail(
      `${label}: element ${wrong} is ${actual[wrong]}, the reference has ${expected[wrong]}`,
    );
}

/** Fails with the first element whose bits differ. */
export function expectSameBits(
  label: string,
  actual: Float32Array,
  expected: Float32Array,
): void {
  expect(actual.length, label).toBe(expected.length);
  const [a, b] = [bitsOf(actual), bitsOf(expected)];
  const wrong = a.findIndex((value, i) => value !== b[i]);
  if (wrong >= 0)
    expect.fail(
      `${label}: element ${wrong} is ${actual[wrong]}, expected ${expected[wrong]}, bit for bit`,
    );
}

function expectState(
  label: string,
  actual: ReadState,
  expected: ReadState,
  length: number,
  bits: boolean,
) {
  if (actual.kind === "float" && expected.kind === "float") {
    if (bits) expectSameBits(label, actual.values, expected.values);
    if (expected.format.bits === 16)
      return expectHalves(label, actual.values, expected.values);
    const { relative, ofLargest } = tolerance.float;
    const largest = expected.values.reduce(
      (max, value) => Math.max(max, Math.abs(value)),
      0,
    );
    expectNear(
      label,
      actual.values,
      expected.values,
      (i) => relative * Math.abs(expected.values[i]!) + ofLargest * largest,
    );
    const same = actual.values.every((value, i) =>
      Object.is(value, expected.values[i]),
    );
    return { codes: 0, different: 0, same };
  }
  if (actual.kind !== "quantized" || expected.kind !== "quantized")
    throw new Error(`${label}: ${actual.kind} against ${expected.kind}`);
  const format = actual.format as Format & { kind: "quantized" };
  expect(actual.codes.length, `bytes of codes of ${label}`).toBe(
    expected.codes.length,
  );
  if (bits)
    expectSameBits(`scales of ${label}`, actual.scales, expected.scales);
  // A scale of few elements may be what a cancellation left of larger ones: ulps
  // of those count then, as in a float32 state.
  const largestScale = expected.scales.reduce((a, b) => Math.max(a, b), 0);
  const wrongScale = actual.scales.findIndex(
    (scale, i) =>
      !(
        Math.abs(scale - expected.scales[i]!) <=
        tolerance.scale * expected.scales[i]! +
          tolerance.scaleOfLargest * largestScale
      ),
  );
  if (wrongScale >= 0)
    expect.fail(
      `${label}: scale ${wrongScale} is ${actual.scales[wrongScale]}, the reference has ${expected.scales[wrongScale]}`,
    );
  const codes = codeDistance(
    unpackCodes(actual.codes, format.bits, length),
    unpackCodes(expected.codes, format.bits, length),
  );
  expect(
    codes.furthest,
    `steps between the codes ${codes.at} of ${label}`,
  ).toBeLessThanOrEqual(1);
  if (bits) expect(codes.equal, `equal codes of ${label}`).toBe(1);
  const different = Math.round((1 - codes.equal) * length);
  return {
    codes: length,
    different,
    same:
      different === 0 && relativeDistance(actual.scales, expected.scales) === 0,
  };
}

/** bfloat16 values are like codes: few may differ, and by one step. */
function expectHalves(
  label: string,
  actual: Float32Array,
  expected: Float32Array,
) {
  // Beside the largest, a few of its millionths are nothing.
  const largest = expected.reduce((max, x) => Math.max(max, Math.abs(x)), 0);
  const near = actual.map((value, i) =>
    Math.abs(value - expected[i]!) <= 2 * tolerance.float.ofLargest * largest
      ? expected[i]!
      : value,
  );
  const steps = (values: Float32Array) =>
    bitsOf(values).map((bits) => bits >>> 16);
  const codes = codeDistance(steps(near), steps(expected));
  expect(
    codes.furthest,
    `steps between values of ${label}`,
  ).toBeLessThanOrEqual(1);
  const different = Math.round((1 - codes.equal) * actual.length);
  const same = codeDistance(steps(actual), steps(expected)).equal === 1;
  return { codes: actual.length, different, same };
}

/** Fails unless stored states are equal to the bit. */
export function expectSameStates(
  label: string,
  actual: Readonly<Record<string, ReadState>>,
  expected: Readonly<Record<string, ReadState>>,
): void {
  expect(Object.keys(actual), label).toEqual(Object.keys(expected));
  for (const [name, wanted] of Object.entries(expected)) {
    const given = actual[name]!;
    if (given.kind === "float" && wanted.kind === "float")
      expectSameBits(`${name} of ${label}`, given.values, wanted.values);
    else if (given.kind === "quantized" && wanted.kind === "quantized") {
      expectSameBits(
        `scales of ${name} of ${label}`,
        given.scales,
        wanted.scales,
      );
      expect(
        codeDistance(given.codes, wanted.codes).equal,
        `equal bytes of ${name} of ${label}`,
      ).toBe(1);
    } else
      expect.fail(`${name} of ${label}: ${given.kind} against ${wanted.kind}`);
  }
}
