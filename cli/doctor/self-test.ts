/** Steps of an engine against the same steps of the plain reference. */
import {
  createOptimizer,
  optimizerByName,
  unpackCodes,
  type Device,
  type ReadState,
} from "lowbit";

/** One of each kind of kernel: blocks, rank-1 scales, reductions, rows and columns, no codes. */
const recipes = [
  "adamw8bit",
  "adamw4bitRank1",
  "lamb8bit",
  "factor4bit",
  "adamw4bitBlock",
  "sgd8bit",
  "adamw32bit",
];

/** With tails, and one below what is quantized. */
const shapes: Readonly<Record<string, readonly number[]>> = {
  matrix: [70, 101],
  vector: [4133],
  small: [63],
};
const STEPS = 3;
const LR = 1e-3;
/** Compiling for a software GPU takes seconds a recipe: what is not reached is told. */
const BUDGET = 5000;

export interface RecipeTest {
  readonly recipe: string;
  readonly passed: boolean;
  /** Part of the codes that are equal; 1 when there are none. */
  readonly equalCodes: number;
  /** Largest distance between two codes. */
  readonly furthestCode: number;
  /** Part of the parameters within 0.2 % of lr of the reference. */
  readonly nearParameters: number;
}

export interface Tested {
  /** The engine in its own words. */
  readonly device: string;
  readonly passed: boolean;
  readonly recipes: readonly RecipeTest[];
  /** Recipes for which there was no time. */
  readonly left: readonly string[];
  readonly milliseconds: number;
}

/** Runs the recipes one after the other, for about five seconds. */
export async function selfTest(device: Device): Promise<Tested> {
  const begun = performance.now();
  const done: RecipeTest[] = [];
  let words = "";
  for (const recipe of recipes) {
    if (done.length > 0 && performance.now() - begun > BUDGET) break;
    const mine = await run(recipe, device);
    words ||= mine.device;
    done.push(compare(recipe, mine, await run(recipe, "reference")));
  }
  return {
    device: words,
    passed: done.every(({ passed }) => passed),
    recipes: done,
    left: recipes.slice(done.length),
    milliseconds: performance.now() - begun,
  };
}

interface Outcome {
  readonly device: string;
  readonly parameters: readonly Float32Array[];
  readonly states: readonly ReadState[];
}

async function run(name: string, device: Device): Promise<Outcome> {
  const random = randomSource(7);
  const normal = () => random() + random() + random() + random() - 2;
  const data = Object.fromEntries(
    Object.entries(shapes).map(([key, shape]) => [
      key,
      { shape, data: Float32Array.from({ length: size(shape) }, normal) },
    ]),
  );
  const optimizer = await createOptimizer(
    optimizerByName(name)({ lr: LR }),
    data,
    { device },
  );
  try {
    for (let step = 0; step < STEPS; step++)
      await optimizer.step(
        Object.fromEntries(
          Object.entries(shapes).map(([key, shape]) => [
            key,
            Float32Array.from({ length: size(shape) }, () =>
              // Some elements never receive anything, others much.
              random() < 0.01 ? 0 : normal() * Math.exp(4 * normal()),
            ),
          ]),
        ),
      );
    const states: ReadState[] = [];
    for (const key of Object.keys(shapes))
      states.push(...Object.values(await optimizer.state(key)));
    return {
      device: optimizer.device,
      parameters: Object.values(data).map((one) => one.data),
      states,
    };
  } finally {
    optimizer.dispose();
  }
}

/** As the test suite holds engines to the reference: see docs/architecture.md. */
function compare(recipe: string, mine: Outcome, theirs: Outcome): RecipeTest {
  let codes = 0;
  let equal = 0;
  let furthest = 0;
  mine.states.forEach((state, s) => {
    const other = theirs.states[s]!;
    if (state.kind !== "quantized" || other.kind !== "quantized") return;
    const { bits } = state.format;
    const length = Math.floor(state.codes.length * (bits <= 4 ? 2 : 1));
    const a = unpackCodes(state.codes, bits, length);
    const b = unpackCodes(other.codes, bits, length);
    a.forEach((code, i) => {
      codes++;
      const distance = Math.abs(code - b[i]!);
      if (distance === 0) equal++;
      if (distance > furthest) furthest = distance;
    });
  });
  let parameters = 0;
  let near = 0;
  mine.parameters.forEach((values, p) =>
    values.forEach((value, i) => {
      parameters++;
      // Not "greater": a NaN is far.
      if (Math.abs(value - theirs.parameters[p]![i]!) <= 2e-3 * LR) near++;
    }),
  );
  const equalCodes = codes > 0 ? equal / codes : 1;
  const nearParameters = near / parameters;
  return {
    recipe,
    passed: equalCodes >= 0.999 && furthest <= 1 && nearParameters >= 0.99,
    equalCodes,
    furthestCode: furthest,
    nearParameters,
  };
}

const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

/** Uniform in [0, 1); a linear congruential generator is enough here. */
function randomSource(seed: number): () => number {
  let state = seed >>> 0;
  return () =>
    (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
}
