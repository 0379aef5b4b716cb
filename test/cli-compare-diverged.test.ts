// `lowbit compare` where training diverges: what is no number must not look like
// a loss of 0, the best there is.

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RunResult } from "../cli/compare/protocol.ts";
import { divergence, summarize } from "../cli/compare/summary.ts";
import { buildPage } from "../scripts/build.mjs";
import { describeBrowser, openBrowser } from "./support/browser.ts";

const main = path.resolve(import.meta.dirname, "../cli/main.ts");
let home: string;
let screen: string;
beforeAll(() => {
  buildPage();
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-diverged-"));
  fs.writeFileSync(path.join(home, "text.txt"), "to be or not ".repeat(99));
  const sizes = ["layers=1", "heads=1", "width=16", "context=8", "batch=2"];
  const run = spawnSync(
    process.execPath,
    [
      ...["--conditions=lowbit-source", main, "compare", "--data=text.txt"],
      ...["threads=1", "steps=4", "lr=1e30", "max-grad-norm=0", "out=out"]
        .concat(sizes, ["optimizers=adamw32bit,adamw8bit"])
        .map((option) => `--${option}`),
    ],
    { cwd: home, encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } },
  );
  expect(run.stderr).toBe("");
  expect(run.status).toBe(0);
  screen = run.stdout;
}, 60_000);
afterAll(() => fs.rmSync(home, { recursive: true }));

test("the screen and results.json say so", () => {
  expect(
    screen.match(/diverged: its validation loss is no number/g),
  ).toHaveLength(2);
  expect(screen).toMatch(/^adamw8bit +diverged /m);
  expect(screen).not.toMatch(/NaN|0\.000/);
  const file = path.join(home, "out/results.json");
  const { summary } = JSON.parse(fs.readFileSync(file, "utf8"));
  for (const row of summary) {
    expect(row).toMatchObject({ diverged: 1 });
    expect(row).not.toHaveProperty("validationLoss");
    expect(row).not.toHaveProperty("difference");
  }
});

test("a recipe's mean leaves out the seeds that diverged, and counts them", () => {
  const run = (optimizer: string, seed: number, loss: number) =>
    ({
      config: { optimizer, seed },
      status: "finished",
      steps: 1,
      validationLoss: [[1, loss]],
    }) as unknown as RunResult;
  const [first, second] = summarize(
    ["a", "b"],
    [run("a", 0, 2), run("a", 1, 4), run("b", 0, NaN), run("b", 1, 4.5)],
  );
  expect(first).toMatchObject({ diverged: 0, validationLoss: { mean: 3 } });
  expect(divergence(first!)).toBe("");
  expect(second).toMatchObject({
    diverged: 1,
    validationLoss: { mean: 4.5, count: 1 },
    difference: { mean: 0.5, count: 1 },
  });
  expect(divergence(second!)).toBe("1 of 2 diverged");
});

describeBrowser("the report", () => {
  test("says so, and its curves end where the numbers do", async () => {
    const browser = await openBrowser();
    const page = await browser.newPage();
    const faults: string[] = [];
    page.on("pageerror", (error) => faults.push(String(error)));
    await page.goto(pathToFileURL(path.join(home, "out/report.html")).href);
    const chart = page.locator("figure[data-chart=validation] svg");
    await chart.waitFor();
    const table = await page.locator("table").first().innerText();
    expect(table).toMatch(/adamw8bit\s+diverged/);
    expect(table).not.toMatch(/NaN|0\.000/);
    const findings = await page.locator(".findings").innerText();
    expect(findings).toMatch(/diverged: a validation loss that is no number/);
    // Only the look before training has a loss.
    const dots = page.locator(
      "figure[data-chart=validation] [aria-label=dot] circle",
    );
    expect(await dots.count()).toBe(2);
    expect(faults).toEqual([]);
    await browser.close();
  });
});

describe("a run of train that diverged", () => {
  test("goes on, and ends with what it has", () => {
    const sizes = ["layers=1", "heads=1", "width=8", "context=4", "batch=1"];
    const train = (...more: string[]) =>
      spawnSync(
        process.execPath,
        ["--conditions=lowbit-source", main, "train", ...more],
        { cwd: home, encoding: "utf8" },
      );
    const options = ["threads=1", "steps=4", "sample-length=0", "lr=1e30"]
      .concat(sizes, ["max-grad-norm=0", "save-every=2", "out=nan"])
      .map((option) => `--${option}`);
    expect(train("--data=text.txt", ...options).status).toBe(0);
    // As after a crash when all was saved; JSON has null for NaN.
    fs.rmSync(path.join(home, "nan/summary.json"));
    const again = train("--resume=nan");
    expect(again.stderr).toBe("");
    expect(again.status).toBe(0);
  });
});
