// `lowbit train --save-every`, killed whenever it hurts, and `--resume`: the end
// is that of the run nobody killed.

import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bundleCli } from "./support/bundled-cli.ts";
import { randomSource } from "./support/numbers.ts";

const KILLS = 56;
const CHAINS = 2;
const STEPS = 200;

const sizes = ["layers=1", "heads=1", "width=8", "context=4", "batch=1"]
  .concat(["threads=1", "sample-length=4", "eval-every=16"])
  .map((option) => `--${option}`);
/** Two tensors of it have 8-bit states. */
const small = [...sizes, "--min-quantized-size=256"];

let home: string;
let main: string;
beforeAll(async () => {
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-resume-"));
  main = await bundleCli(path.join(home, "cli"));
  const text = Array.from({ length: 200 }, (_, i) => `${i} lines of text\n`);
  fs.writeFileSync(path.join(home, "text.txt"), text.join(""));
  fs.writeFileSync(path.join(home, "other.txt"), text.join("").toUpperCase());
});
afterAll(() => fs.rmSync(home, { recursive: true }));

const environment = { ...process.env, NO_COLOR: "1" };
const read = (...names: string[]) => fs.readFileSync(path.join(home, ...names));
const lowbit = (...args: string[]) =>
  spawnSync(process.execPath, [main, ...args], {
    cwd: home,
    encoding: "utf8",
    env: environment,
  });
const train = (out: string, ...more: string[]) =>
  lowbit("train", ...small, "--data=text.txt", `--out=${out}`, ...more);

/** What a run comes to, without times. */
function outcome(folder: string) {
  const log = read(folder, "log.jsonl").toString().trim().split("\n");
  const {
    seconds: _,
    tokensPerSecond: __,
    optimizerShare: ___,
    text: { sha256: text },
    ...summary
  } = JSON.parse(read(folder, "summary.json").toString());
  return {
    model: read(folder, "model.safetensors").toString("hex"),
    samples: read(folder, "samples.txt").toString(),
    log: log.map((line) => {
      const { tokensPerSecond: _, ...rest } = JSON.parse(line);
      return rest;
    }),
    summary: { ...summary, text },
  };
}

const newest = (folder: string) =>
  fs
    .readdirSync(path.join(home, folder, "checkpoints"))
    .filter((name) => /^step-\d+$/.test(name))
    .sort()
    .at(-1)!;

/** When the next process is killed. */
type Moment =
  | { readonly when: "start"; readonly after: number }
  | { readonly when: "step"; readonly after: number }
  /** While the n-th checkpoint is written. */
  | { readonly when: "write"; readonly count: number; readonly after: number };

/** Runs until it is killed, or to its end. @returns whether it was killed, and in mid-write. */
function runUntil(args: readonly string[], folder: string, moment: Moment) {
  const checkpoints = path.join(home, folder, "checkpoints");
  if (moment.when === "write") fs.mkdirSync(checkpoints, { recursive: true });
  const child = spawn(process.execPath, [main, ...args, "--json"], {
    cwd: home,
    env: environment,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let killed = false;
  const kill = () => {
    killed = true;
    child.kill("SIGKILL");
  };
  let errors = "";
  child.stderr.on("data", (text) => (errors += text));
  let seen = false;
  child.stdout.on("data", (text: Buffer) => {
    if (moment.when !== "step" || seen || !text.includes('"event":"step"'))
      return;
    seen = true;
    setTimeout(kill, moment.after);
  });
  if (moment.when === "start") setTimeout(kill, moment.after);
  let writes = 0;
  const watcher =
    moment.when === "write"
      ? fs.watch(checkpoints, (_, name) => {
          if (!/^step-\d+\.part$/.test(name ?? "") || seen) return;
          if (++writes < 2 * moment.count - 1) return; // made and renamed
          seen = true;
          if (moment.after === 0) kill();
          else setTimeout(kill, moment.after);
        })
      : undefined;
  return new Promise<{ killed: boolean; midWrite: boolean }>(
    (resolve, reject) =>
      child.on("close", (code, signal) => {
        watcher?.close();
        if (signal === "SIGKILL")
          return resolve({ killed, midWrite: isHalf(checkpoints) });
        if (code === 0) return resolve({ killed: false, midWrite: false });
        reject(new Error(`exit code ${code}: ${errors}`));
      }),
  );
}

/** Whether a checkpoint was begun and not ended. */
const isHalf = (checkpoints: string) =>
  fs.existsSync(checkpoints) &&
  fs.readdirSync(checkpoints).some((name) => /^step-\d+\.part$/.test(name));

describe("a run that is killed", () => {
  test(`${KILLS} times, also in mid-write, ends as the one nobody killed`, async () => {
    const whole = train("whole", `--steps=${STEPS}`, "--save-every=1");
    expect(whole).toMatchObject({ status: 0, stderr: "" });
    const wanted = outcome("whole");
    const state = (folder: string) =>
      read(folder, "checkpoints", newest(folder), "optimizer.safetensors");
    const counts = await Promise.all(
      Array.from({ length: CHAINS }, (_, chain) => killed(chain)),
    );
    const sum = (of: (count: (typeof counts)[0]) => number) =>
      counts.reduce((total, count) => total + of(count), 0);
    console.log(
      `killed ${sum(({ kills }) => kills)} times, ${sum(({ midWrite }) => midWrite)} of them in mid-write`,
    );
    expect(sum(({ kills }) => kills)).toBeGreaterThanOrEqual(50);
    expect(sum(({ midWrite }) => midWrite)).toBeGreaterThanOrEqual(5);
    for (const folder of counts.flatMap(({ folders }) => folders)) {
      expect(outcome(folder), folder).toEqual(wanted);
      expect(state(folder).equals(state("whole")), folder).toBe(true);
    }
  }, 600_000);

  /** A run that is killed again and again; when it comes to its end, another. */
  async function killed(chain: number) {
    const folders = [`chain${chain}`];
    let kills = 0;
    let midWrite = 0;
    for (const moment of momentsOf(chain)) {
      const folder = folders.at(-1)!;
      const again = fs.existsSync(path.join(home, folder, "config.json"));
      const args = again
        ? ["train", "--resume", folder]
        : ["train", ...small, "--data=text.txt", `--steps=${STEPS}`].concat(
            "--save-every=1",
            `--out=${folder}`,
            "--overwrite",
          );
      const end = await runUntil(args, folder, moment);
      if (end.killed) kills++;
      if (end.midWrite) midWrite++;
      if (!end.killed || hasEnded(folder))
        folders.push(`chain${chain}-${folders.length}`);
    }
    const last = folders.pop()!;
    if (!fs.existsSync(path.join(home, last, "config.json")))
      return { kills, midWrite, folders };
    const end = lowbit("train", "--resume", last, "--quiet");
    expect(end).toMatchObject({ status: 0, stderr: "" });
    return { kills, midWrite, folders: [...folders, last] };
  }

  /** Killed when all was done. */
  const hasEnded = (folder: string) =>
    fs.existsSync(path.join(home, folder, "summary.json"));

  function momentsOf(chain: number): Moment[] {
    const random = randomSource(chain);
    return Array.from({ length: Math.ceil(KILLS / CHAINS) }, (_, i) =>
      i % 8 === 1
        ? { when: "start", after: 500 * random() }
        : i % 8 < 4
          ? { when: "step", after: 40 * random() }
          : {
              when: "write",
              count: 1 + Math.floor(3 * random()),
              after: i % 2 ? 0 : 3 * random(),
            },
    );
  }
});

describe("--resume", () => {
  test("goes on after Ctrl-C, and says how", async () => {
    const args = ["train", ...small, "--data=text.txt", "--steps=40"];
    const whole = lowbit(...args, "--out=straight", "--quiet");
    expect(whole.status).toBe(0);
    const child = spawn(process.execPath, [main, ...args, "--out=stopped"], {
      cwd: home,
      env: environment,
    });
    let screen = "";
    let asked = false;
    child.stdout.on("data", (text) => {
      screen += text;
      if (asked || !/^step +4\/40/m.test(screen)) return;
      asked = true;
      child.kill("SIGINT");
    });
    expect(await new Promise((resolve) => child.on("close", resolve))).toBe(
      130,
    );
    expect(screen).toMatch(/go on with +lowbit train --resume stopped\n$/);
    const { status, steps } = JSON.parse(
      read("stopped", "summary.json").toString(),
    );
    expect(status).toBe("interrupted");
    expect(newest("stopped")).toBe(`step-${String(steps).padStart(8, "0")}`);
    const resumed = lowbit("train", "--resume", "stopped");
    expect(resumed).toMatchObject({ status: 0, stderr: "" });
    expect(resumed.stdout).toContain(`goes on     after ${steps} steps`);
    expect(outcome("stopped")).toEqual(outcome("straight"));
  });

  test("begins again where the run had come to no checkpoint", () => {
    fs.mkdirSync(path.join(home, "early"));
    fs.cpSync(
      path.join(home, "straight/config.json"),
      path.join(home, "early/config.json"),
    );
    expect(lowbit("train", "--resume", "early", "--quiet").status).toBe(0);
    expect(outcome("early")).toEqual(outcome("straight"));
  });

  test("on another device comes to the same, within rounding", () => {
    // cpu: jax-js and the optimizer in plain JavaScript.
    fs.cpSync(path.join(home, "whole"), path.join(home, "moved"), {
      recursive: true,
    });
    const all = path.join(home, "moved/checkpoints");
    fs.rmSync(path.join(all, `step-${String(STEPS).padStart(8, "0")}`), {
      recursive: true,
    });
    fs.rmSync(path.join(home, "moved/summary.json"));
    const run = lowbit("train", "--resume", "moved", "--device=cpu");
    expect(run).toMatchObject({ status: 0, stderr: "" });
    const { last } = JSON.parse(
      read("moved", "summary.json").toString(),
    ).validationLoss;
    const there = JSON.parse(
      read("whole", "summary.json").toString(),
    ).validationLoss;
    expect(last).toBeCloseTo(there.last, 4);
    expect(JSON.parse(read("moved", "config.json").toString()).device).toBe(
      "cpu",
    );
  });

  test("falls back to the checkpoint before when the newest is damaged", () => {
    train("damaged", "--steps=20", "--save-every=10");
    fs.rmSync(path.join(home, "damaged/summary.json"));
    const file = path.join(
      home,
      "damaged/checkpoints/step-00000020/model.safetensors",
    );
    const bytes = fs.readFileSync(file);
    bytes[bytes.length - 1]! ^= 1;
    fs.writeFileSync(file, bytes);
    const run = lowbit("train", "--resume", "damaged");
    expect(run).toMatchObject({ status: 0, stderr: "" });
    expect(run.stdout).toContain(
      "step-00000020 cannot be used: model.safetensors has",
    );
    expect(run.stdout).toContain("after 10 steps");
    expect(
      fs.readdirSync(path.join(home, "damaged/checkpoints")).sort(),
    ).toEqual(["step-00000010", "step-00000020", "step-00000020.bad"]);
  });

  test("--overwrite clears an earlier run's checkpoints away", () => {
    const again = train("damaged", "--steps=3", "--overwrite", "--quiet");
    expect(again).toMatchObject({ status: 0, stderr: "" });
    expect(fs.existsSync(path.join(home, "damaged/checkpoints"))).toBe(false);
  });
});
