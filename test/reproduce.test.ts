// The papers' ablations in miniature, in seconds: the command's own code on its
// smallest model, held to what the papers say of maps, blocks and zeros.

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Choice } from "../bench/reproduce/choices.ts";
import { momenta, noiseFloor } from "../bench/reproduce/noise-floor.ts";
import { reproduce, type Results } from "../bench/reproduce/report.ts";
import { quick } from "../bench/reproduce/sizes.ts";

const options = {
  task: {
    data: undefined,
    vocabulary: quick.vocabulary,
    settings: quick.settings,
  },
  seeds: [0],
  jobs: 1,
  only: quick.only,
};

describe("npm run reproduce:8bit -- --quick", () => {
  const shown: string[] = [];
  let results: Results;
  beforeAll(async () => {
    results = await reproduce("8bit", {
      ...options,
      parts: ["ablation8", "errors"],
      show: (title, text) => shown.push(`${title}\n${text}`),
    });
  });
  const row = (name: string) =>
    results.rows["ablation8"]!.find((one) => one.name === name)!;

  test("linear maps diverge, dynamic blocks lose nothing", () => {
    expect(row("linear, tensor").outcomes[0]!.diverged).toBeLessThan(100);
    const baseline = row("32-bit").outcomes[0]!;
    expect(baseline.diverged).toBeUndefined();
    // Guessing by frequency alone is far above it.
    expect(baseline.loss).toBeLessThan(3.2);
    expect(Math.abs(row("dynamic, block 2048").gaps[0]!)).toBeLessThan(0.03);
  });

  test("the update's error falls from linear to dynamic to blocks, in every tensor", () => {
    const median = (name: string, tensor: string) =>
      results.errors!.get(name)!.get(tensor)!.median;
    for (const tensor of ["embedding", "outer"]) {
      const order = [
        "linear, tensor",
        "dynamic, tensor",
        "dynamic, block 2048",
        "dynamic, block 256",
      ].map((name) => median(name, tensor));
      expect(
        [...order].sort((a, b) => b - a),
        tensor,
      ).toEqual(order);
      // Nothing stored, nothing lost.
      expect(median("exact", tensor)).toBe(0);
    }
  });

  test("prints a table for each part", () => {
    expect(shown).toHaveLength(2);
    expect(shown[0]).toMatch(/\| linear, tensor \| 1 of 1, at \d+ \|/);
    expect(shown[0]).toMatch(
      /\| dynamic, block 2048 \| 0 of 1 \| \d\.\d{3} \| [+-]0\.0/,
    );
  });
});

describe("npm run reproduce:4bit -- --quick", () => {
  let results: Results;
  beforeAll(async () => {
    results = await reproduce("4bit", {
      ...options,
      parts: ["secondMoment", "errors"],
    });
  });
  const row = (name: string) =>
    results.rows["secondMoment"]!.find((one) => one.name === name)!;

  test("every second moment with a zero diverges, every one without trains", () => {
    for (const name of [
      "block 128 / dynamic",
      "block 128 / dynamic, stochastic",
      "block 128 / dynamic, stable embedding",
    ])
      expect(row(name).outcomes[0]!.diverged, name).toBeDefined();
    for (const name of [
      "block 128 / dynamic without zero",
      "rank-1 / linear without zero",
      "factored",
    ]) {
      const { outcomes, gaps } = row(name);
      expect(outcomes[0]!.diverged, name).toBeUndefined();
      expect(Math.abs(gaps[0]!), name).toBeLessThan(0.15);
    }
  });

  test("maps with a zero store much of v as 0, those without none", () => {
    for (const [name, byTensor] of results.errors!)
      for (const { zeros, histogram } of byTensor.values()) {
        expect(histogram.reduce((a, b) => a + b)).toBeCloseTo(1, 6);
        if (/^dynamic, block/.test(name)) expect(zeros).toBeGreaterThan(0.02);
        else if (!name.includes("preconditioner")) expect(zeros).toBe(0);
      }
  });

  test("rank-1 scales hold v better than one scale, tiles better still", () => {
    const decades = (scale: string) =>
      results.errors!.get(`linear without zero, ${scale}`)!.get("outer")!
        .decades;
    expect(decades("rank-1")).toBeLessThan(0.8 * decades("tensor"));
    expect(decades("tiles of 128")).toBeLessThan(1.02 * decades("rank-1"));
  });
});

test("lion4bit rounds m stochastically, since to nearest it stands still", async () => {
  const { recipes } = await reproduce("4bit", {
    ...options,
    parts: ["recipes"],
  });
  expect(recipes!.map(({ name, otherwise }) => [name, otherwise])).toEqual([
    ["lion4bit", "m rounded to nearest"],
  ]);
  const [{ own, other }] = recipes as [Choice];
  expect(own[0]).toBeLessThan(0.15);
  expect(other[0]! - own[0]!).toBeGreaterThan(0.1);
});

describe("what cannot be is one sentence, before anything is trained", () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-reproduce-"));
  const empty = path.join(folder, "empty.txt");
  fs.writeFileSync(empty, "");
  afterAll(() => fs.rmSync(folder, { recursive: true }));
  const script = path.resolve(import.meta.dirname, "../bench/reproduce.ts");

  test.each<[string[], string]>([
    [["--parts", "foo"], "--parts: unknown part 'foo'; there are ablation8,"],
    [["--rows", "foo"], "--rows: no row matches 'foo'; there are 32-bit;"],
    [["--rows", "["], "--rows: Invalid regular expression"],
    [["--data", empty], `${empty} has 0 words, too few to train on`],
    [["--data", folder], "--data takes files of text: EISDIR"],
    [["--json", `${folder}/none/x`], "--json: ENOENT"],
    [["--sead", "1"], "Unknown option '--sead'"],
  ])("%s", async (args, message) => {
    const { status, stderr, stdout } = spawnSync(
      process.execPath,
      ["--conditions=lowbit-source", script, "4bit", ...args],
      { encoding: "utf8" },
    );
    expect(stderr).toContain(`reproduce: ${message}`);
    expect(stderr.trim().split("\n")).toHaveLength(1);
    expect([status, stdout]).toEqual([2, ""]);
  });
});

test("theorem 1: quantizing the momentum raises SGD's floor in proportion to lr and to the variance", async () => {
  const floors = await Promise.all(
    [0.1, 0.05].flatMap((lr) =>
      Object.keys(momenta)
        .filter((name) => !name.includes("nearest"))
        .map((name) => noiseFloor(name, lr, 400, 1)),
    ),
  );
  const raise = (name: string, lr: number) => {
    const of = (wanted: string) =>
      floors.find((one) => one.name === wanted && one.lr === lr)!;
    return of(name).reached - of("32-bit").reached;
  };
  for (const { ofMean, bound } of floors) expect(ofMean).toBeLessThan(bound);
  const four = "4-bit dynamic, stochastic";
  expect(raise(four, 0.1)).toBeGreaterThan(0);
  expect(raise(four, 0.1) / raise(four, 0.05)).toBeGreaterThan(1.4);
  expect(raise(four, 0.1) / raise(four, 0.05)).toBeLessThan(2.9);
  expect(raise("2-bit dynamic, stochastic", 0.1)).toBeGreaterThan(
    5 * raise(four, 0.1),
  );
});
