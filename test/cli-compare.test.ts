// `lowbit compare` as a user runs it, from source, and its report in a browser.

import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import type { Browser, Page } from "playwright";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildPage } from "../scripts/build.mjs";
import { describeBrowser, openBrowser } from "./support/browser.ts";

const main = path.resolve(import.meta.dirname, "../cli/main.ts");
const program = ["--conditions=lowbit-source", main];

/** Everything small, so that a run takes a second. */
const tiny = ["layers=1", "heads=1", "width=16", "context=8", "batch=2"]
  .concat(["threads=1", "steps=12"])
  .map((option) => `--${option}`);
const optimizers = ["adamw32bit", "adamw8bit", "adamw4bit", "factor4bit"];

interface Run {
  config: { optimizer: string; seed: number; lr: number };
  status: string;
  steps: number;
  trainLoss: number[];
  validationLoss: [number, number][];
  stateBytes: number;
  peakBytes: number;
  stepMilliseconds: number;
  optimizerMilliseconds: number;
  codes: { state: string; counts: number[] }[];
  errors: Record<string, { state: string; relativeError: number }[]>;
}
interface Row {
  optimizer: string;
  validationLoss: { mean: number; deviation: number; count: number };
  difference?: { mean: number; deviation: number };
  stateBytes: number;
}

let home: string;
let screen: string;
let results: { runs: Run[]; summary: Row[]; planned: number };

beforeAll(() => {
  buildPage(); // as `npm run build` does; source runs it from dist/
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-compare-test-"));
  fs.writeFileSync(
    path.join(home, "text.txt"),
    "Shall I compare thee to a summer's day? </script><b>$&\n".repeat(40),
  );
  const args = ["--data", "text.txt", "--seeds", "2", "--seed", "5"];
  const run = lowbit("compare", ...tiny, ...args, "--out", "all");
  expect(run.stderr).toBe("");
  expect(run.status).toBe(0);
  screen = run.stdout;
  results = readJson("all/results.json");
}, 120_000);
afterAll(() => fs.rmSync(home, { recursive: true }));

const env = { ...process.env, NO_COLOR: "1" };

const lowbit = (...args: string[]) =>
  spawnSync(process.execPath, [...program, ...args], {
    ...{ cwd: home, encoding: "utf8", env },
  });

const readJson = (name: string) =>
  JSON.parse(fs.readFileSync(path.join(home, name), "utf8"));

describe("a comparison", () => {
  test("trains every optimizer from every seed", () => {
    const which = results.runs.map(({ config }) => [
      config.seed,
      config.optimizer,
    ]);
    expect(which).toEqual(
      [5, 6].flatMap((seed) => optimizers.map((name) => [seed, name])),
    );
    for (const run of results.runs) {
      expect(run.status).toBe("finished");
      expect(run.trainLoss).toHaveLength(12);
      expect(run.stepMilliseconds).toBeGreaterThan(run.optimizerMilliseconds);
      // A Node process with jax-js in it.
      expect(run.peakBytes).toBeGreaterThan(4e7);
    }
    const files = fs.readdirSync(path.join(home, "all")).sort();
    expect(files).toEqual(["config.json", "report.html", "results.json"]);
  });

  test.each([
    ["adamw32bit", 6],
    ["adamw4bit", 5],
    ["factor4bit", 6],
  ])("equals `lowbit train --optimizer %s --seed %d`", (optimizer, seed) => {
    const out = `${optimizer}-${seed}`;
    const one = lowbit(
      ...["train", ...tiny, "--data", "text.txt", "--out", out, "--quiet"],
      ...["--optimizer", optimizer, "--seed", String(seed)],
    );
    expect(one.status).toBe(0);
    const alone = readJson(`${out}/summary.json`);
    const log = fs
      .readFileSync(path.join(home, out, "log.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    const run = results.runs.find(
      ({ config }) => config.optimizer === optimizer && config.seed === seed,
    )!;
    expect(run.validationLoss.at(-1)).toEqual([12, alone.validationLoss.last]);
    expect(run.stateBytes).toBe(alone.stateBytes);
    expect(run.trainLoss).toEqual(log.flatMap(({ loss }) => loss ?? []));
  });

  test("sums up by mean, standard deviation, and difference seed by seed", () => {
    const last = (optimizer: string) =>
      results.runs
        .filter(({ config }) => config.optimizer === optimizer)
        .map(({ validationLoss }) => validationLoss.at(-1)![1]);
    const base = last("adamw32bit");
    for (const { optimizer, validationLoss, difference } of results.summary) {
      const [a, b] = last(optimizer) as [number, number];
      expect(validationLoss.mean).toBeCloseTo((a + b) / 2, 10);
      expect(validationLoss.deviation).toBeCloseTo(
        Math.abs(a - b) / Math.sqrt(2),
        10,
      );
      if (optimizer === "adamw32bit") expect(difference).toBeUndefined();
      else
        expect(difference!.mean).toBeCloseTo(
          (a - base[0]! + b - base[1]!) / 2,
          10,
        );
    }
  });

  test("prints the table", () => {
    expect(screen).toMatch(/\[8\/8\] factor4bit seed 6: 12 steps in/);
    for (const { optimizer, validationLoss } of results.summary) {
      const { mean, deviation } = validationLoss;
      const line = screen.split("\n").find((l) => l.startsWith(optimizer))!;
      expect(line).toContain(`${mean.toFixed(3)} ± ${deviation.toFixed(3)}`);
      expect(line).toMatch(/ ms .* ms .* MB$/);
    }
    expect(screen).not.toMatch(/[\x1b\r]/); // no terminal
  });

  test("measures codes and errors on real states", () => {
    const [first] = results.runs;
    // wte and the MLP's matrices are quantized; the errors fall with the bits.
    const error = (name: string, state: string) =>
      first!.errors[name]!.find((one) => one.state === state)!.relativeError;
    expect(error("adamw8bit", "m")).toBeLessThan(0.03);
    expect(error("adamw4bit", "m")).toBeGreaterThan(
      3 * error("adamw8bit", "m"),
    );
    expect(error("adamw4bit", "v")).toBeGreaterThan(
      3 * error("adamw8bit", "v"),
    );
    const eight = results.runs[1]!.codes;
    expect(eight.map(({ state }) => state)).toEqual(["m", "v"]);
    for (const { counts } of eight) {
      expect(counts).toHaveLength(256);
      expect(counts.reduce((a, b) => a + b)).toBe(256 * 16);
    }
  });

  test("its config.json repeats it", () => {
    // Side by side, which must make no difference.
    const again = ["--config", "all/config.json", "--out", "again", "--json"];
    again.push("--jobs", "2");
    const { status, stdout } = lowbit("compare", ...again, "--seeds", "1");
    expect(status).toBe(0);
    const events = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    const ran = events.filter(({ event }) => event === "ran");
    expect(ran).toHaveLength(4);
    for (const { optimizer, validationLoss } of ran)
      expect(validationLoss).toEqual(
        results.runs.find(({ config }) => config.optimizer === optimizer)!
          .validationLoss,
      );
    expect(events[0]).toMatchObject({ event: "start" });
    expect(events.filter(({ event }) => event === "step")).toHaveLength(48);
    const end = events.at(-1);
    expect(end).toMatchObject({ event: "end", folder: "again" });
    expect(end.summary[0].validationLoss).not.toHaveProperty("deviation");
  });
});

test("Ctrl-C ends after the step under way and reports what is done", async () => {
  const args = ["compare", ...tiny, "--steps", "700", "--json", "--out", "cut"];
  const child = spawn(
    process.execPath,
    [
      ...program,
      ...args,
      "--data",
      "text.txt",
      "--optimizers",
      "sgd32bit,sgd8bit",
    ],
    { cwd: home, stdio: ["ignore", "pipe", "inherit"], env },
  );
  let seen = "";
  child.stdout.on("data", (chunk) => {
    const before = seen;
    seen += chunk;
    const second = `"event":"step","optimizer":"sgd8bit"`;
    if (seen.includes(second) && !before.includes(second)) child.kill("SIGINT");
  });
  const code = await new Promise((resolve) => child.on("close", resolve));
  expect(code).toBe(130);
  const { runs, planned, summary } = readJson("cut/results.json");
  expect(planned).toBe(2);
  expect(runs.map(({ status }: Run) => status)).toEqual([
    "finished",
    "interrupted",
  ]);
  expect(runs[1].steps).toBeLessThan(700);
  // Losses after different numbers of steps say nothing of each other.
  expect(summary[1].difference).toBeUndefined();
  expect(fs.existsSync(path.join(home, "cut/report.html"))).toBe(true);
});

test("runs that fail are told, leave no outputs, and end with exit code 1", () => {
  const breaking = `globalThis.setImmediate = () => { throw new Error("broken") }`;
  const args = ["compare", ...tiny, "--data", "text.txt", "--out", "deep/out"];
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [
      `--import=data:text/javascript,${breaking}`,
      ...[...program, ...args, "--optimizers", "sgd32bit,sgd8bit"],
    ],
    { cwd: home, encoding: "utf8", env },
  );
  expect(status).toBe(1);
  expect(stderr).toMatch(/Error: broken\n +at /);
  expect(stdout).toMatch(/sgd32bit seed 0: failed: the run of sgd32bit ended/);
  expect(stdout).toMatch(/sgd8bit +seed 0: failed/);
  expect(fs.existsSync(path.join(home, "deep"))).toBe(false);
});

describe("what cannot work ends with one sentence and exit code 2:", () => {
  test.each([
    ["an unknown recipe", ["--optimizers", "adamw9bit"], /did you mean/],
    ["a recipe twice", ["--optimizers", "sgd8bit,SGD_8bit"], /'sgd8bit' twice/],
    ["no seeds", ["--seeds", "0"], /seeds must be a whole number from 1/],
    ["one optimizer's flag", ["--optimizer", "sgd8bit"], /'--optimizers'/],
    [
      "an option that one of them lacks",
      ["--optimizers", "adamw8bit,sgd8bit", "--beta1", "0.9"],
      /sgd8bit: unknown option 'beta1'/,
    ],
    ["a short text", ["--context", "5000"], /text has 2200 bytes/],
    ["a full folder", ["--out", "all"], /'all' is not empty/],
  ])("%s", (_, args, message) => {
    const before = fs.readdirSync(home);
    const { status, stdout, stderr } = lowbit(
      ...["compare", "--data", "text.txt", ...args],
    );
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^lowbit: .*\n$/);
    expect(stdout).toBe("");
    expect(status).toBe(2);
    expect(fs.readdirSync(home)).toEqual(before);
  });
});

test("lowbit compare --help explains every option", () => {
  const { status, stdout } = lowbit("compare", "--help");
  expect(status).toBe(0);
  const own = ["optimizers", "seeds", "jobs", "data", "out", "json"];
  for (const flag of [...own, "layers", "lr", "warmup", "threads"])
    expect(stdout).toMatch(new RegExp(`^  --${flag}[ .]`, "m"));
  expect(Math.max(...stdout.split("\n").map((l) => l.length))).toBeLessThan(90);
});

describeBrowser("the report in a browser", () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await openBrowser();
  });
  afterAll(() => browser.close());

  /** Opens it as a file, with everything that went wrong or was asked for. */
  async function open(options: Parameters<Browser["newPage"]>[0]) {
    const page = await browser.newPage(options);
    const [faults, requests]: string[][] = [[], []];
    page.on("pageerror", (error) => faults.push(String(error)));
    page.on("console", (message) => {
      if (message.type() !== "log") faults.push(message.text());
    });
    page.on("request", (request) => requests.push(request.url()));
    const address = pathToFileURL(path.join(home, "all/report.html")).href;
    await page.goto(address);
    await page.waitForSelector("figure[data-chart=training] svg");
    await page.waitForSelector("figure[data-chart^=codes] svg");
    return { page, faults, requests, address };
  }

  const marks = (page: Page, chart: string, selector: string) =>
    page.locator(`figure[data-chart="${chart}"] ${selector}`);

  test.each(["light", "dark"] as const)(
    "is drawn in %s, asking for nothing",
    async (colorScheme) => {
      const { page, faults, requests, address } = await open({ colorScheme });
      // Every chart has axes with labels, and a mark for each series.
      const charts = await page.$$eval("figure[data-chart]", (figures) =>
        figures.map((figure) => ({
          name: (figure as HTMLElement).dataset.chart!,
          ticks: figure.querySelectorAll("[aria-label$='tick label'] text")
            .length,
          height: figure.getBoundingClientRect().height,
        })),
      );
      expect(charts.map(({ name }) => name)).toEqual([
        ...["validation", "difference", "training", "memory", "time"],
        ...["magnitude-m", "magnitude-v", "tensor-m", "tensor-v"],
        ...["codes-adamw8bit-m", "codes-adamw8bit-v"],
        ...["codes-adamw4bit-m", "codes-adamw4bit-v", "codes-factor4bit-m"],
      ]);
      for (const { name, ticks, height } of charts) {
        expect(ticks, name).toBeGreaterThanOrEqual(4);
        expect(height, name).toBeGreaterThan(60);
      }
      const lines = (name: string) =>
        marks(page, name, "[aria-label=line] path").count();
      expect(await lines("validation")).toBe(4);
      expect(await lines("difference")).toBe(3);
      expect(await lines("training")).toBe(4);
      expect(await lines("magnitude-m")).toBe(3); // each in a format of its own
      const bars = marks(page, "memory", "[aria-label=bar] rect");
      expect(await bars.count()).toBe(12);
      const codes = (name: string) =>
        marks(page, name, "[aria-label=rect] rect").count();
      expect(await codes("codes-adamw8bit-m")).toBe(256);
      expect(await codes("codes-adamw4bit-v")).toBe(16);
      expect(faults).toEqual([]);
      expect(requests).toEqual([address]);
      await page.close();
    },
  );

  test("draws the numbers of the runs", async () => {
    const { page } = await open({});
    // Dots from the top down are losses from the largest down.
    const dots = await marks(
      ...[page, "validation", "[aria-label=dot] circle"],
    ).evaluateAll((all) => all.map((one) => Number(one.getAttribute("cy"))));
    const looks = results.runs[0]!.validationLoss.map(([step]) => step);
    const means = optimizers.flatMap((optimizer) =>
      looks.map((_, i) => {
        const all = results.runs
          .filter(({ config }) => config.optimizer === optimizer)
          .map(({ validationLoss }) => validationLoss[i]![1]);
        return all.reduce((a, b) => a + b) / all.length;
      }),
    );
    expect(dots).toHaveLength(means.length);
    // A linear axis: the same factor between losses and places everywhere.
    const [top, bottom] = [
      means.indexOf(Math.max(...means)),
      means.indexOf(Math.min(...means)),
    ];
    const slope = (dots[top]! - dots[bottom]!) / (means[top]! - means[bottom]!);
    expect(slope).toBeLessThan(0);
    for (const [i, mean] of means.entries())
      expect(dots[i]).toBeCloseTo(
        dots[bottom]! + slope * (mean - means[bottom]!),
        3,
      );
    // The state's part of a bar is as wide as its bytes say.
    const widths = await marks(
      ...[page, "memory", "[aria-label=bar] rect"],
    ).evaluateAll((all) => all.map((one) => Number(one.getAttribute("width"))));
    const states = results.summary.map(({ stateBytes }) => stateBytes);
    // Parameters, gradients, state of each optimizer in turn.
    const drawn = widths.filter((_, i) => i % 3 === 2);
    for (const [i, bytes] of states.entries())
      expect(drawn[i]! / drawn[0]!).toBeCloseTo(bytes / states[0]!, 3);
    // The table.
    const table = await page.locator("table").first().innerText();
    for (const { optimizer, validationLoss } of results.summary) {
      const { mean, deviation } = validationLoss;
      const line = table.split("\n").find((l) => l.startsWith(optimizer))!;
      expect(line).toContain(`${mean.toFixed(3)} ± ${deviation.toFixed(3)}`);
    }
    await page.close();
  });

  test("reads well in both colour schemes", async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      const { page } = await open({ colorScheme });
      const { paper, ink, series } = await page.evaluate(() => {
        const color = (of: Element, property: string) =>
          getComputedStyle(of).getPropertyValue(property);
        const swatches = document.querySelectorAll("td .swatch");
        return {
          paper: color(document.body, "background-color"),
          ink: color(document.body, "color"),
          series: [...swatches].map((one) => color(one, "background-color")),
        };
      });
      expect(luminance(paper) > 0.5).toBe(colorScheme === "light");
      expect(contrast(ink, paper)).toBeGreaterThan(7);
      expect(new Set(series).size).toBe(4);
      // WCAG's 3 : 1 for what is drawn.
      for (const one of series) expect(contrast(one, paper)).toBeGreaterThan(3);
      await page.close();
    }
  });

  test("fits a phone, and no text of the user's becomes code", async () => {
    const { page } = await open({ viewport: { width: 360, height: 740 } });
    const width = await page.evaluate(
      () => document.documentElement.scrollWidth,
    );
    expect(width).toBeLessThanOrEqual(360);
    const widest = await page.$$eval("figure svg", (all) =>
      Math.max(...all.map((one) => one.getBoundingClientRect().right)),
    );
    expect(widest).toBeLessThanOrEqual(360);
    expect(await page.locator("main b, main script").count()).toBe(0);
    const policy = page.locator("meta[http-equiv=Content-Security-Policy]");
    expect(await policy.getAttribute("content")).toMatch(/default-src 'none'/);
    await page.close();
  });
});

/** Of `rgb(1, 2, 3)`, as WCAG 2 defines it. */
function luminance(color: string): number {
  const [r, g, b] = color.match(/\d+/g)!.map((part) => {
    const value = Number(part) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
}

function contrast(a: string, b: string): number {
  const [x, y] = [luminance(a), luminance(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
}
