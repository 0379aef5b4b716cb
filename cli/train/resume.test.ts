// What --resume says before it does anything.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { InputError, resolveConfig } from "lowbit/trainer";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Checkpoints, type RunState } from "./checkpoints.ts";
import { sha256 } from "./durable.ts";
import { parseFlags } from "./flags.ts";
import { checkText, openRun } from "./resume.ts";

let home: string;
const place = (...names: string[]) => path.join(home, ...names);
const text = new TextEncoder().encode("the text of the run");

async function make(name: string, options: Record<string, unknown> = {}) {
  const config = resolveConfig({ threads: 1, steps: 50, ...options });
  fs.mkdirSync(place(name));
  fs.writeFileSync(
    place(name, "config.json"),
    JSON.stringify({ data: ["/old/text.txt"], ...config }),
  );
  const run: RunState = {
    position: { step: 20, batches: { words: [1, 2, 3, 4] } },
    config,
    data: ["/old/text.txt"],
    text: { bytes: text.length, sha256: sha256(text) },
    progress: {} as RunState["progress"],
    samples: [],
  };
  const checkpoints = new Checkpoints(place(name));
  for (const step of [10, 20])
    await checkpoints.save({
      run: { ...run, position: { ...run.position, step } },
      model: [],
      optimizer: [],
    });
  return run;
}

beforeAll(async () => {
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-resume-"));
  await make("run");
  await make("flat", { schedule: "constant" });
});
afterAll(() => fs.rmSync(home, { recursive: true }));

const resume = (name: string, ...flags: string[]) =>
  openRun(parseFlags(["--resume", place(name), ...flags]), place(name));

test("goes on with the run's configuration and text", () => {
  const past = resume("run");
  expect(past.options).toMatchObject({ steps: 50, seed: 0, threads: 1 });
  expect(past.data).toEqual(["/old/text.txt"]);
  expect(past.from!.name).toBe("step-00000020");
  const moved = resume(
    "run",
    "--data",
    "here.txt",
    "--threads=2",
    "--lr=0.0015",
  );
  expect(moved.data).toEqual(["here.txt"]);
  expect(moved.options).toMatchObject({ threads: 2, lr: 0.0015 });
});

test.each<[string, () => unknown, RegExp]>([
  [
    "a folder that is not there",
    () => resume("none"),
    /there is no folder '.*none'/,
  ],
  [
    "a file",
    () => resume("run/config.json"),
    /config.json' is a file; give the folder of a run/,
  ],
  [
    "a folder of something else",
    () => {
      fs.mkdirSync(place("else"), { recursive: true });
      return resume("else");
    },
    /else' is no run of lowbit train: it has neither a config.json nor checkpoints/,
  ],
  [
    "another learning rate",
    () => resume("run", "--lr=0.01"),
    /has lr 0.0015, given 0.01; it can only go on as it began: leave --lr out, or begin another run with --config .*run\/config.json/,
  ],
  [
    "another model",
    () => resume("run", "--width=64"),
    /has width 128, given 64/,
  ],
  [
    "another optimizer",
    () => resume("run", "--optimizer=adamw4bit"),
    /has optimizer "adamw8bit", given "adamw4bit"/,
  ],
  [
    "another end, while the learning rate falls towards it",
    () => resume("run", "--steps=100"),
    /has steps 50, given 100; it can only go on as it began, as its learning rate falls towards the last step/,
  ],
  [
    "another folder for the outputs",
    () => resume("run", "--out=there"),
    /--resume goes on in the run's own folder and with its configuration; leave --out out/,
  ],
  [
    "another configuration",
    () => resume("run", "--config=config.json"),
    /leave --config out/,
  ],
])("refuses %s", (_, act, message) => {
  expect(act).toThrow(InputError);
  expect(act).toThrow(message);
});

test("more steps are no other run where the schedule is constant", () => {
  expect(resume("flat", "--steps=100").options.steps).toBe(100);
});

test("refuses a config.json that was changed, and a run that has finished", () => {
  const file = place("flat", "config.json");
  const written = fs.readFileSync(file, "utf8");
  fs.writeFileSync(file, JSON.stringify({ ...JSON.parse(written), seed: 9 }));
  expect(() => resume("flat")).toThrow(
    /config.json in '.*flat' has been changed: it says seed 9, and the run was saved with 0/,
  );
  fs.writeFileSync(file, written);
  fs.writeFileSync(place("flat", "summary.json"), "{}");
  expect(resume("flat").from!.run.position.step).toBe(20);
  expect(() => resume("flat", "--steps=20")).toThrow(
    /has finished, all 20 steps/,
  );
});

test("refuses a text that is not the run's, and checkpoints that are all damaged", async () => {
  const run = await make("damaged");
  const files = { files: 1, description: "text.txt" };
  checkText(run, { bytes: text, ...files });
  const other = Uint8Array.from(text).fill(65, 3, 4);
  expect(() => checkText(run, { bytes: other, ...files })).toThrow(
    /the text has changed: the run began with 19 bytes \(sha256 [0-9a-f]{12}\.\.\.\), and text.txt has 19 others; a run can only go on/,
  );
  for (const name of new Checkpoints(place("damaged")).names())
    fs.writeFileSync(place("damaged/checkpoints", name, "run.json"), "{");
  expect(() => resume("damaged")).toThrow(
    /has no checkpoint that can be used: step-00000020 cannot be used: run.json is not JSON; step-00000010 /,
  );
});
