// Every recipe of the registry: on every engine, with gradients of zero, in
// constant memory, and against its own 32-bit run on a small real task.

import fs from "node:fs";
import path from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  createOptimizer,
  defineOptimizer,
  estimateMemory,
  optimizers,
  type OptimizerOptions,
  type Recipe,
} from "lowbit";
import * as lowbit from "lowbit";
import { afterAll, describe, expect, test } from "vitest";
import { rates, train } from "./support/bytes-model.ts";
import { describeEngines, type EngineEntry } from "./support/engines.ts";
import { bitsOf, gradientAt, normals } from "./support/numbers.ts";

const shapes = {
  scalar: [],
  vector: [50],
  longer: [300],
  matrix: [24, 40],
  wide: [2, 513],
  batch: [3, 8, 10],
};
type Name = keyof typeof shapes;
const names = Object.keys(shapes) as Name[];
const lengthOf = (name: Name) =>
  (shapes[name] as number[]).reduce((a, b) => a * b, 1);
const byName = <T>(of: (name: Name, seed: number) => T) =>
  Object.fromEntries(names.map((name, i) => [name, of(name, i + 1)])) as Record<
    Name,
    T
  >;

const open = (
  recipe: Recipe,
  data: Record<Name, Float32Array>,
  options: OptimizerOptions,
) =>
  createOptimizer(
    recipe,
    byName((name) => ({ data: data[name], shape: shapes[name] })),
    { minQuantizedSize: 0, seed: 3, ...options },
  );

const starts = () => byName((name, seed) => normals(lengthOf(name), seed, 0.5));

/** Three steps; parameters and states after them. */
async function shortRun(recipe: Recipe, options: OptimizerOptions) {
  const data = starts();
  const optimizer = await open(recipe, data, options);
  try {
    for (let t = 1; t <= 3; t++)
      await optimizer.step(
        byName((name, seed) => gradientAt(lengthOf(name), seed, t)),
      );
    const { nonFinite } = await optimizer.stats();
    const { stateBytes } = optimizer.memory();
    return { data, nonFinite, stateBytes };
  } finally {
    optimizer.dispose();
  }
}

const recipes = [...optimizers()].filter(([name]) => /\dbit/.test(name));

/** Whether any of its forms has reductions, or states that are not per element. */
const reduces = ({ optimizer }: Recipe) =>
  [optimizer, optimizer.vector!].some(({ program }) =>
    program.small.includes(true),
  );

describeEngines(
  (engine) => {
    for (const [name, factory] of recipes) {
      // A kernel takes a software GPU a while: there each formula once.
      if ((engine.slow || engine.twinOf) && !name.endsWith("8bit")) continue;
      test(`${name} goes the reference's way with tensors of every shape`, async ({
        skip,
      }) => {
        const attempt = expectReferencesWay(engine, factory());
        if (!engine.noReductions || !reduces(factory())) return attempt;
        await expect(attempt, "it can now").rejects.toThrow();
        skip(engine.noReductions);
      });
    }

    test("the ten lines of docs/optimizers.md run, in 8 bits", async () => {
      await expectReferencesWay(engine, documented()({ bits: 8 }));
    });
  },
  ({ name }) => name !== "reference",
);

async function expectReferencesWay(engine: EngineEntry, recipe: Recipe) {
  const ours = await shortRun(recipe, await engine.open());
  const theirs = await shortRun(recipe, { device: "reference" });
  expect(ours.nonFinite).toBe(0);
  expect(ours.stateBytes).toBe(
    estimateMemory(shapes, recipe, { minQuantizedSize: 0 }).stateBytes,
  );
  const start = starts();
  for (const name of names) {
    const change = theirs.data[name].map((x, i) => x - start[name][i]!);
    const most = change.reduce((a, x) => Math.max(a, Math.abs(x)), 0);
    expect(most, `${name} moves`).toBeGreaterThan(0);
    // A code may fall on the other side of a midpoint, and then some more may.
    const far = ours.data[name].filter(
      (x, i) =>
        !(
          Math.abs(x - theirs.data[name][i]!) <=
          1e-4 * most + 3e-7 * Math.abs(x)
        ),
    );
    expect(far.length, `${name}: far from the reference`).toBeLessThanOrEqual(
      engine.exact && !reduces(recipe) ? 0 : 0.02 * lengthOf(name),
    );
  }
}

/** The first optimizer defined in docs/optimizers.md, as it is printed there. */
function documented(): lowbit.OptimizerFactory {
  const page = fs.readFileSync(
    path.resolve(import.meta.dirname, "../docs/optimizers.md"),
    "utf8",
  );
  const [, block] =
    /```ts\n([^`]*?defineOptimizer\((?:[^`]|`(?!``))*?)```/.exec(page)!;
  const body = block!.slice(block!.indexOf("= defineOptimizer(") + 2);
  expect(body.split("\n").length).toBeLessThanOrEqual(11);
  return new Function("defineOptimizer", `return ${body}`)(
    defineOptimizer,
  ) as lowbit.OptimizerFactory;
}

test("the documented optimizer does what its text says", async () => {
  const data = Float32Array.of(1, -2);
  const optimizer = await createOptimizer(
    documented()({ lr: 0.1 }),
    { p: { data, shape: [2] } },
    { device: "reference" },
  );
  await optimizer.step({ p: Float32Array.of(3, -4) });
  await optimizer.step({ p: Float32Array.of(0.5, 1) });
  optimizer.dispose();
  // Sign momentum: m = 0.9 m + 0.1 g, a step of lr against the sign of m.
  expect(data[0]).toBeCloseTo(1 - 0.1 - 0.1, 6);
  expect(data[1]).toBeCloseTo(-2 + 0.1 + 0.1, 6);
});

/** Recipes, and the forms that options choose. */
const forms: [string, (options: object) => Recipe][] = [
  ...recipes,
  ...[
    { name: "adam", amsgrad: true },
    { name: "adamw", amsgrad: true },
    { name: "rmsprop", momentum: 0.9 },
    { name: "adafactor", beta1: 0.9 },
    { name: "lamb", maxUnorm: 1 },
    { name: "lars", maxUnorm: 0.02 },
    { name: "sm3", momentum: 0 },
  ].flatMap(({ name, ...chosen }) =>
    [32, 8, 4].map((bits): [string, (options: object) => Recipe] => [
      `${name}${bits}bit with ${Object.keys(chosen).join()}`,
      (options) =>
        lowbit.optimizerByName(`${name}${bits}bit`)({ ...chosen, ...options }),
    ]),
  ),
];

describe("gradients of zero", () => {
  for (const [name, factory] of forms)
    test(`${name} leaves parameters alone for 1,000 steps`, async () => {
      const data = starts();
      const optimizer = await open(factory({ weightDecay: 0, lr: 0.1 }), data, {
        device: "wasm",
        threads: 1,
      });
      const zeros = byName((name) => new Float32Array(lengthOf(name)));
      for (let t = 1; t <= 1000; t++) await optimizer.step(zeros);
      const { nonFinite } = await optimizer.stats();
      optimizer.dispose();
      expect(nonFinite).toBe(0);
      for (const [one, start] of Object.entries(starts()))
        expect(bitsOf(data[one as Name])).toEqual(bitsOf(start));
    });

  for (const [name, factory] of forms)
    test(`${name} leaves alone what never has a gradient beside what has`, async () => {
      const data = starts();
      const optimizer = await open(factory({ weightDecay: 0, lr: 0.1 }), data, {
        device: "wasm",
        threads: 1,
      });
      for (let t = 1; t <= 50; t++)
        await optimizer.step(
          byName((name, seed) =>
            gradientAt(lengthOf(name), seed, t).map((g, i) => (i % 3 ? g : 0)),
          ),
        );
      optimizer.dispose();
      for (const [one, start] of Object.entries(starts())) {
        const moved = [...data[one as Name]].flatMap((x, i) =>
          Object.is(x, start[i]) ? [] : [i % 3],
        );
        expect(moved).not.toContain(0);
        if (start.length > 1)
          expect(moved.length).toBeGreaterThan(start.length / 2);
      }
    });
});

test("no recipe takes more memory with time", async () => {
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as () => void;
  // Buffers are freed beside the collection, so: twice, with a pause.
  const bytesNow = async () => {
    gc();
    await new Promise((resolve) => setTimeout(resolve, 5));
    gc();
    const { arrayBuffers, external } = process.memoryUsage();
    return arrayBuffers + external;
  };
  for (const [name, factory] of recipes) {
    const data = starts();
    const optimizer = await open(factory(), data, {
      device: "wasm",
      threads: 1,
    });
    const g = byName((name, seed) => gradientAt(lengthOf(name), seed, 1));
    for (let t = 1; t <= 20; t++) await optimizer.step(g);
    const report = optimizer.memory();
    const before = await bytesNow();
    for (let t = 1; t <= 200; t++) await optimizer.step(g);
    const after = await bytesNow();
    expect(optimizer.memory(), name).toEqual(report);
    // Of 2,500 elements a copy a step would be two million bytes by now.
    expect(after - before, name).toBeLessThan(100_000);
    optimizer.dispose();
  }
});

describe("low bits learn like 32, on the characters of lib.es5.d.ts", () => {
  const steps = 400;
  const rows: string[] = [];
  afterAll(() =>
    console.log(
      ["loss: in 32 bits, what 8 and 4 bits add", ...rows].join("\n"),
    ),
  );

  test("there is a rate for every optimizer", () => {
    expect(Object.keys(rates)).toEqual([
      ...new Set(recipes.map(([, factory]) => factory().optimizer.name)),
    ]);
  });

  const forms: [title: string, name: string, options: object][] = [
    ...Object.entries(rates).map(([name, lr]): (typeof forms)[number] => [
      name,
      name,
      { lr },
    ]),
    ["adamw, amsgrad", "adamw", { lr: 0.01, amsgrad: true }],
    ["rmsprop, momentum", "rmsprop", { lr: 0.001, momentum: 0.9 }],
    ["adafactor, beta1", "adafactor", { lr: 0.1, beta1: 0.9 }],
    ["lamb, maxUnorm", "lamb", { lr: 0.01, maxUnorm: 1 }],
    ["lars, maxUnorm", "lars", { lr: 0.5, maxUnorm: 0.02 }],
  ];
  test.each(forms)("%s", async (title, name, options) => {
    const run = (bits: number) =>
      train(lowbit.optimizerByName(`${name}${bits}bit`)(options), steps);
    const { before, after } = await run(32);
    const eight = (await run(8)).after - after;
    const four = (await run(4)).after - after;
    rows.push(
      `${title.padEnd(18)} ${after.toFixed(3)} ${eight.toFixed(4).padStart(8)} ${four.toFixed(4).padStart(8)}`,
    );
    expect(after).toBeLessThan(before - 1.5);
    expect(Math.abs(eight)).toBeLessThan(0.03);
    expect(four).toBeLessThan(0.15);
  });

  test("adamw4bit, with NF4 for m, adds less than paper 2's blocks, over three seeds", async () => {
    const mean = async (factory: typeof lowbit.adamw) => {
      let sum = 0;
      for (const seed of [1, 2, 3])
        sum += (await train(factory({ lr: 0.01 }), steps, seed)).after / 3;
      return sum;
    };
    const exact = await mean(lowbit.adamw32bit);
    const added: Record<string, number> = {};
    for (const name of ["adamw4bit", "adamw4bitBlock"] as const) {
      added[name] = (await mean(lowbit[name])) - exact;
      rows.push(`${name}, 3 seeds: ${added[name].toFixed(4)}`);
    }
    expect(added["adamw4bit"]).toBeLessThan(added["adamw4bitBlock"]! - 0.01);
  });
});
