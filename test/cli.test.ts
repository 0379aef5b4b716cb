// `lowbit train` as a user runs it, from source.

import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { readSafetensors } from "lowbit/trainer";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

const main = path.resolve(import.meta.dirname, "../cli/main.ts");
const node = ["--conditions=lowbit-source", main];
const sonnet =
  "Shall I compare thee to a summer's day?\nThou art more lovely and more temperate:\n".repeat(
    30,
  );

/** Everything small, so that a run takes a second. */
const tiny = ["layers=1", "heads=1", "width=16", "context=8", "batch=2"]
  .concat(["threads=1", "steps=6", "sample-length=5"])
  .map((option) => `--${option}`);

let home: string;
beforeAll(() => {
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-cli-"));
  write("text.txt", sonnet);
});
afterAll(() => fs.rmSync(home, { recursive: true }));

function write(name: string, content: string) {
  const file = path.join(home, name);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, content);
}

const read = (...names: string[]) =>
  fs.readFileSync(path.join(home, ...names), "utf8");
const readJson = (...names: string[]) => JSON.parse(read(...names));
const readLog = (folder: string): Record<string, number>[] =>
  read(folder, "log.jsonl")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

function lowbit(args: string[], input = "", program = node) {
  const env = { ...process.env, NO_COLOR: "1" };
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [...program, ...args],
    { cwd: home, encoding: "utf8", input, env },
  );
  return { status, stdout, stderr };
}

function train(args: string[], input = "") {
  const run = lowbit(["train", ...tiny, ...args], input);
  expect(run.stderr).toBe("");
  expect(run.status).toBe(0);
  return run.stdout;
}

/** Runs that several tests look at. */
let screen: string;
beforeAll(() => {
  screen = train(["--data", "text.txt", "--out", "first"]);
});

describe("a run", () => {
  test("leaves its outputs and nothing else", () => {
    expect(fs.readdirSync(path.join(home, "first")).sort()).toEqual([
      "config.json",
      "log.jsonl",
      "model.safetensors",
      "samples.txt",
      "summary.json",
    ]);
  });

  test("shows configuration, parameters, state bytes, samples and the outcome", () => {
    const { stateBytes, stateBytes32 } = readJson("first", "summary.json");
    const grouped = (value: number) => value.toLocaleString("en-US");
    expect(screen).toMatch(/^model +GPT of [\d,]+ parameters: 1 layer,/);
    expect(screen).toContain(`${grouped(stateBytes)} bytes (`);
    expect(screen).toContain(`in 32-bit ${grouped(stateBytes32)} bytes`);
    expect(screen).toContain("the model's text before training:");
    expect(screen).toContain("step 6/6 loss ");
    expect(screen).toContain("the model's text after 6 steps:");
    expect(screen).toMatch(/validation +loss \d\.\d{3} -> \d\.\d{3} nats/);
    expect(screen).toMatch(/outputs +first\n$/);
    // Not a terminal: no escapes, no lines written over.
    expect(screen).not.toMatch(/[\x1b\r]/);
  });

  test("logs each step, and the validation loss before, between and after", () => {
    const log = readLog("first");
    const steps = log.filter((line) => "loss" in line);
    expect(steps.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6]);
    for (const line of steps)
      expect(line).toEqual({
        step: expect.any(Number),
        loss: expect.any(Number),
        lr: expect.any(Number),
        gradNorm: expect.any(Number),
        tokensPerSecond: expect.any(Number),
      });
    const looks = log.filter((line) => "validationLoss" in line);
    expect(looks.map(({ step }) => step)).toEqual([0, 2, 4, 6]);
  });

  test("saves the weights by name, in float32", () => {
    const file = fs.readFileSync(path.join(home, "first/model.safetensors"));
    const { tensors, metadata } = readSafetensors(file);
    expect(tensors["h.0.attn.w"]).toMatchObject({
      dtype: "F32",
      shape: [16, 48],
    });
    expect(tensors.wte!.shape).toEqual([256, 16]);
    expect(metadata).toMatchObject({ step: "6" });
    const all = Object.values(tensors).flatMap(({ data }) => Number(data[0]));
    expect(all.every(Number.isFinite)).toBe(true);
  });

  test("is the same again from its config.json, in another process", () => {
    const config = ["--config", "first/config.json"];
    const run = lowbit(["train", ...config, "--out", "again", "--json"]);
    expect(run).toMatchObject({ status: 0, stderr: "" });
    expect(losses("again")).toEqual(losses("first"));
    expect(read("again", "samples.txt")).toBe(read("first", "samples.txt"));
    expect(readJson("again", "config.json")).toEqual(
      readJson("first", "config.json"),
    );
    const other = [...config, "--seed", "1", "--out", "other", "--quiet"];
    expect(lowbit(["train", ...other]).stdout).toBe("other\n");
    expect(losses("other")).not.toEqual(losses("first"));
  });

  test("with --json prints an object a line", () => {
    const out = train(["--data", "text.txt", "--out", "json", "--json"]);
    const events = out
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(events.map(({ event }) => event).join(" ")).toBe(
      "start validation sample step step validation step step validation step step validation sample end",
    );
    expect(events[0].memory.tensors[0]).toMatchObject({ name: "wte" });
    expect(events.at(-1)).toMatchObject({ status: "finished", folder: "json" });
  });
});

const losses = (folder: string) =>
  readLog(folder).map(({ loss, validationLoss }) => loss ?? validationLoss);

describe("the text", () => {
  const sha256 = (folder: string) =>
    readJson(folder, "summary.json").text.sha256;

  test("may come from files, a folder, a glob or standard input", () => {
    write("many/b.txt", sonnet.slice(500));
    write("many/a/a.txt", sonnet.slice(0, 500));
    write("many/.hidden", "not read");
    write("many/node_modules/x.js", "not read");
    train(["--data", "many", "--out", "folder"]);
    train(["--data", "many/*/*.txt", "many/b.txt", "--out", "glob"]);
    train(["--data", "-", "--out", "stdin"], sonnet);
    const whole = sha256("first");
    expect(["folder", "glob", "stdin"].map(sha256)).toEqual([
      whole,
      whole,
      whole,
    ]);
    expect(readJson("folder", "summary.json").text.files).toBe(2);
  });

  test("is TypeScript's declaration files when none is given", () => {
    train(["--steps", "1", "--out", "default", "--sample-length", "0"]);
    const { text } = readJson("default", "summary.json");
    expect(text.files).toBeGreaterThan(50);
    expect(text.bytes).toBeGreaterThan(1e6);
    expect(text.trainBytes + text.validationBytes).toBe(text.bytes);
    expect(readJson("default", "config.json")).not.toHaveProperty("data");
  });
});

describe("the configuration file", () => {
  test("gives options, and flags win over it", () => {
    write(
      "config.json",
      JSON.stringify({ data: "text.txt", lr: 0.5, seed: 7 }),
    );
    train(["--config", "config.json", "--lr", "0.25", "--out", "config"]);
    const config = readJson("config", "config.json");
    expect(config).toMatchObject({ lr: 0.25, seed: 7, steps: 6 });
    expect(config.data).toEqual([path.join(fs.realpathSync(home), "text.txt")]);
  });
});

describe("what cannot work ends with one sentence, exit code 2, and no outputs:", () => {
  beforeAll(() => {
    write("empty.txt", "");
    write("short.txt", "hello");
    write("list.json", "[]");
    write("broken.json", "{");
    write("key.json", '{"weightdecay": 1}');
    write("type.json", '{"steps": "many"}');
    write("full/file", "mine");
    fs.mkdirSync(path.join(home, "folder-without-files"));
  });

  const text = ["--data", "text.txt"];
  test.each([
    ["no such file", ["--data", "nowhere.txt"], /no file 'nowhere.txt'/],
    ["an empty file", ["--data", "empty.txt"], /empty.txt has 0 bytes/],
    ["an empty folder", ["--data", "folder-without-files"], /has 0 bytes/],
    ["empty input", ["--data", "-"], /standard input has 0 bytes/],
    ["a glob of nothing", ["--data", "*.pdf"], /no file matches '\*.pdf'/],
    ["a short text", ["--data", "short.txt"], /5 bytes.* 130 or more/],
    ["indivisible width", [...text, "--width", "30"], /width 30 and heads 4/],
    [
      "an unknown optimizer",
      [...text, "--optimizer", "adamw8bits"],
      /did you mean 'adamw8bit'/,
    ],
    [
      "an optimizer without that option",
      [...text, "--optimizer", "sgd8bit", "--beta1", "0.9"],
      /sgd8bit: unknown option 'beta1'/,
    ],
    ["lr NaN", [...text, "--lr", "NaN"], /lr must be a number.*given "NaN"/],
    ["a negative lr", [...text, "--lr", "-1"], /of 0 or more, given -1/],
    ["negative steps", [...text, "--steps", "-5"], /1 or more, given -5/],
    ["fractional steps", [...text, "--steps", "1.5"], /whole number/],
    ["beta2 of 1", [...text, "--beta2", "1"], /from 0 to below 1, given 1/],
    ["an unknown device", [...text, "--device", "gpu"], /wasm, webgpu, cpu/],
    [
      "more than WebAssembly's memory",
      [...text, "--batch", "100000"],
      /GiB, and WebAssembly can have 4 GiB/,
    ],
    [
      "a model beyond all memory",
      [...text, "--layers", "1000", "--width", "1000000"],
      /WebAssembly can have 4 GiB/,
    ],
    ["a full folder", [...text, "--out", "full"], /'full' is not empty/],
    ["a file as folder", [...text, "--out", "text.txt"], /is a file/],
    ["no configuration", ["--config", "no.json"], /cannot be read/],
    ["a configuration of no JSON", ["--config", "broken.json"], /is not JSON/],
    ["a configuration that is a list", ["--config", "list.json"], /object/],
    ["an unknown key", ["--config", "key.json"], /mean 'weightDecay'/],
    ["a value of wrong type", ["--config", "type.json"], /given "many"/],
    ["an unknown flag", ["--batchsize", "8"], /unknown option '--batchsize'/],
    ["a near miss", ["--step", "8"], /did you mean '--steps'/],
    ["a flag without value", ["--data", "--quiet"], /--data needs a value/],
    ["a value for a switch", ["--quiet=yes"], /--quiet takes no value/],
    ["a stray argument", ["text.txt"], /comes after --data/],
  ])("%s", (_, args, message) => {
    const before = fs.readdirSync(home);
    const { status, stdout, stderr } = lowbit(["train", ...args]);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^lowbit: .*\n$/); // one line, no stack
    expect(stdout).toBe("");
    expect(status).toBe(2);
    expect(fs.readdirSync(home)).toEqual(before);
    expect(fs.readdirSync(path.join(home, "full"))).toEqual(["file"]);
  });

  test("a folder that cannot be made", () => {
    const args = ["--data", "text.txt", "--out", "text.txt/deep", "--json"];
    const { status, stderr } = lowbit(["train", ...tiny, ...args]);
    expect(status).toBe(2);
    expect(stderr).toMatch(/^lowbit: cannot write to .*\n$/);
  });

  test("an unknown command", () => {
    const { status, stderr } = lowbit(["trai"]);
    expect(status).toBe(2);
    expect(stderr).toMatch(/unknown command 'trai'; did you mean 'train'/);
  });
});

test("--overwrite replaces the outputs of a run, and leaves other files alone", () => {
  train(["--data", "text.txt", "--out", "over", "--steps", "2"]);
  write("over/notes.txt", "mine");
  train(["--data", "text.txt", "--out", "over", "--steps", "3", "--overwrite"]);
  expect(readJson("over", "summary.json").steps).toBe(3);
  expect(readLog("over").filter((line) => "loss" in line)).toHaveLength(3);
  expect(read("over", "notes.txt")).toBe("mine");
});

describe("Ctrl-C", () => {
  const children: ChildProcess[] = [];
  afterEach(() => {
    for (const child of children.splice(0)) child.kill("SIGKILL");
  });

  /** Starts a run of a minute, and sends the signals when their event comes. */
  function interrupt(folder: string, when: Record<string, NodeJS.Signals>) {
    const args = ["train", ...tiny, "--steps", "20000", "--json"];
    const child = spawn(
      process.execPath,
      [...node, ...args, "--data", "text.txt", "--out", folder],
      { cwd: home, stdio: ["ignore", "pipe", "inherit"] },
    );
    children.push(child);
    let seen = "";
    const left = { ...when };
    child.stdout.on("data", (chunk) => {
      seen += chunk;
      for (const [event, signal] of Object.entries(left))
        if (seen.includes(`"event":"${event}"`)) {
          delete left[event];
          child.kill(signal);
        }
    });
    return new Promise<number | null>((resolve) => child.on("close", resolve));
  }

  test("ends after the step under way, keeps what is done, exit code 130", async () => {
    expect(await interrupt("stopped", { step: "SIGINT" })).toBe(130);
    const summary = readJson("stopped", "summary.json");
    expect(summary.status).toBe("interrupted");
    expect(summary.steps).toBeGreaterThan(0);
    const steps = readLog("stopped").filter((line) => "loss" in line);
    expect(steps).toHaveLength(summary.steps);
    const file = fs.readFileSync(path.join(home, "stopped/model.safetensors"));
    expect(readSafetensors(file).metadata.step).toBe(String(summary.steps));
    const files = fs.readdirSync(path.join(home, "stopped"));
    expect(files.filter((name) => name.endsWith(".part"))).toEqual([]);
  });

  test("during the first sample keeps what is done, too", async () => {
    expect(await interrupt("early", { validation: "SIGINT" })).toBe(130);
    expect(readJson("early", "summary.json").status).toBe("interrupted");
  });

  test("twice ends at once, with no file half written", async () => {
    const both = { step: "SIGINT", interrupted: "SIGINT" } as const;
    expect(await interrupt("twice", both)).toBe(130);
    const folder = path.join(home, "twice");
    for (const name of fs
      .readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((name) => !name.includes(".part"))) {
      if (fs.statSync(path.join(folder, name)).isDirectory()) continue;
      const bytes = fs.readFileSync(path.join(folder, name));
      if (name.endsWith(".json")) JSON.parse(bytes.toString());
      if (name.endsWith(".safetensors")) readSafetensors(bytes);
    }
  });

  test("a reader that leaves, as in `lowbit train | head`, ends it politely", async () => {
    const closed = interrupt("piped", {});
    const { stdout } = children.at(-1)!;
    await new Promise((resolve) => stdout!.once("data", resolve));
    stdout!.destroy();
    expect(await closed).toBe(141);
    expect(readJson("piped", "summary.json").status).toBe("interrupted");
  });

  test("SIGTERM does the same, exit code 143", async () => {
    expect(await interrupt("terminated", { step: "SIGTERM" })).toBe(143);
    expect(readJson("terminated", "summary.json").status).toBe("interrupted");
  });
});

test("a mistake in the program keeps its stack, exit code 1, and leaves nothing", () => {
  const breaking = `globalThis.setImmediate = () => { throw new Error("broken") }`;
  const program = [`--import=data:text/javascript,${breaking}`, ...node];
  const args = ["train", ...tiny, "--data", "text.txt", "--out", "deep/broken"];
  const { status, stderr } = lowbit(args, "", program);
  expect(status).toBe(1);
  expect(stderr).toMatch(/Error: broken\n +at /);
  expect(fs.existsSync(path.join(home, "deep"))).toBe(false);
});

describe("without the optional packages", () => {
  /** The package's own files, in a folder where nothing is installed. */
  let bare: string[];
  beforeAll(() => {
    const root = path.resolve(import.meta.dirname, "..");
    for (const name of ["package.json", "src", "cli"])
      fs.cpSync(path.join(root, name), path.join(home, "bare", name), {
        recursive: true,
      });
    bare = [node[0]!, path.join(home, "bare/cli/main.ts")];
  });

  test.each([
    ["typescript", [], /pass --data FILE, or install typescript/],
    [
      "jax-js",
      ["--data", "text.txt"],
      /jax-js, which is not installed: npm install @jax-js\/jax/,
    ],
  ])("%s, train says what to do", (_, args, message) => {
    const run = lowbit(["train", ...tiny, "--out", "none", ...args], "", bare);
    expect(run.stderr).toMatch(message);
    expect(run.stderr).toMatch(/^lowbit: .*\n$/);
    expect(run.status).toBe(2);
    expect(fs.existsSync(path.join(home, "none"))).toBe(false);
  });

  test("help and version still work", () => {
    expect(lowbit(["train", "--help"], "", bare).status).toBe(0);
    expect(lowbit(["--version"], "", bare).status).toBe(0);
  });
});

describe("help", () => {
  test("lowbit --help lists the commands, lowbit --version prints it", () => {
    expect(lowbit(["--help"])).toMatchObject({ status: 0, stderr: "" });
    expect(lowbit(["--help"]).stdout).toContain("  train ");
    expect(lowbit([]).status).toBe(2);
    expect(lowbit(["--version"]).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  test("lowbit train --help explains every option", () => {
    const { status, stdout } = lowbit(["train", "--steps", "x", "--help"]);
    expect(status).toBe(0);
    for (const key of Object.keys(readJson("first", "config.json"))) {
      const flag = key.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
      expect(stdout).toMatch(new RegExp(`^  --${flag}[ .]`, "m"));
    }
    expect(Math.max(...stdout.split("\n").map((l) => l.length))).toBeLessThan(
      90,
    );
  });
});
