// What machines do to the command line: full disks, odd files, Ctrl-C.

import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { readSafetensors, writeSafetensors } from "lowbit/trainer";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeFolder } from "../cli/system.ts";
import { openTerminal } from "../cli/terminal.ts";
import { readPieces } from "../cli/train/text.ts";
import { buildPage } from "../scripts/build.mjs";
import { bundleCli } from "./support/bundled-cli.ts";

const sizes = ["layers=1", "heads=1", "width=8", "context=4", "batch=1"]
  .concat(["threads=1"])
  .map((option) => `--${option}`);
const tiny = [...sizes, "--sample-length=4"];
const unix = process.platform !== "win32";

let home: string;
let main: string;
beforeAll(async () => {
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-faults-"));
  main = await bundleCli(path.join(home, "cli"));
  fs.writeFileSync(
    at("text.txt"),
    "Shall I compare thee to a day?\n".repeat(99),
  );
});
afterAll(() => fs.rmSync(home, { recursive: true }));

const at = (...names: string[]) => path.join(home, ...names);
const read = (...names: string[]) => fs.readFileSync(at(...names), "utf8");
const options = () =>
  ({
    cwd: home,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
    timeout: 50_000,
  }) as const;
const lowbit = (...args: string[]) =>
  spawnSync(process.execPath, [main, ...args], options());

/** Where no file may have more than so many half kilobytes: a disk that is full. */
const limited = (blocks: number, args: readonly string[]) =>
  spawnSync(
    "sh",
    ["-c", `ulimit -f ${blocks}; exec "$0" "$@"`, process.execPath, ...args],
    options(),
  );

/** One sentence, and nothing of it left. */
function expectRefused(
  { status, stdout, stderr }: ReturnType<typeof lowbit>,
  message: RegExp,
) {
  expect(stderr).toMatch(message);
  expect(stderr).toMatch(/^lowbit: .*\n$/);
  expect(stdout).toBe("");
  expect(status).toBe(2);
}

const parts = (folder: string) =>
  fs
    .readdirSync(at(folder), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".part"));

describe.runIf(unix)("a disk that is full", () => {
  const log = (folder: string) =>
    read(folder, "log.jsonl")
      .trim()
      .split("\n")
      .map((line) => {
        const { tokensPerSecond: _, ...rest } = JSON.parse(line);
        return rest;
      });

  test("ends no run: it says what is missing, and --resume makes it whole", () => {
    const train = ["train", ...tiny, "--data", "text.txt", "--steps=300"];
    const saved = [...train, "--save-every=100", "--min-quantized-size=256"];
    expect(lowbit(...saved, "--out=whole").status).toBe(0);
    // The model has 12 kB, the log comes to 40.
    const cut = limited(40, [main, ...saved, "--out=cut"]);
    expect(cut.stdout).toMatch(/log\.jsonl is behind from step \d+ on: EFBIG/);
    expect(cut.stdout).toMatch(/no checkpoint could be saved at step 300/);
    expect(cut.stdout).toMatch(/finished +300 steps/);
    expect(cut.stdout).toMatch(/outputs +cut, not whole/);
    expect(cut.stderr).toMatch(
      /^lowbit: not all outputs could be written to 'cut': .* lowbit train --resume cut goes on from step-00000100\n$/,
    );
    expect(cut.status).toBe(2);
    const model = () => fs.readFileSync(at("cut/model.safetensors"));
    expect(readSafetensors(model()).metadata.step).toBe("300");
    expect(fs.existsSync(at("cut/summary.json"))).toBe(false);

    const resumed = lowbit("train", "--resume=cut", "--quiet");
    expect(resumed).toMatchObject({ status: 0, stdout: "cut\n", stderr: "" });
    expect(log("cut")).toEqual(log("whole"));
    expect(model()).toEqual(fs.readFileSync(at("whole/model.safetensors")));
    expect(parts("cut")).toEqual([]);
  });

  test("from the beginning leaves nothing of train", () => {
    const train = ["train", ...tiny, "--data=text.txt", "--out=none", "--json"];
    const { status, stderr } = limited(0, [main, ...train]);
    expect(stderr).toMatch(/^lowbit: cannot write to '.*none': EFBIG.*\n$/);
    expect(status).toBe(2);
    expect(fs.existsSync(at("none"))).toBe(false);
  });

  test("leaves nothing of convert, and what was there", () => {
    const name = "state.0.exp_avg";
    const data = new Float32Array(20_000);
    const state = { dtype: "F32", shape: [data.length], data } as const;
    fs.writeFileSync(
      at("adam.safetensors"),
      writeSafetensors({ [name]: state, [`${name}_sq`]: state }),
    );
    fs.writeFileSync(at("old.safetensors"), "what was there");
    const to = [
      "convert",
      "adam.safetensors",
      "old.safetensors",
      "--to=float32",
    ];
    const run = limited(40, [main, ...to, "--overwrite"]);
    expectRefused(run, /cannot write to 'old\.safetensors': EFBIG/);
    expect(read("old.safetensors")).toBe("what was there");
    expect(fs.readdirSync(home).filter((one) => /part$/.test(one))).toEqual([]);
  });

  test("leaves compare its table, and no file half written", () => {
    buildPage();
    const source = path.resolve(import.meta.dirname, "../cli/main.ts");
    const { status, stdout, stderr } = limited(40, [
      ...["--conditions=lowbit-source", source, "compare", ...sizes],
      ...["--steps=3", "--data=text.txt", "--out=compared"],
      "--optimizers=sgd32bit,sgd8bit",
    ]);
    expect(stdout).toMatch(/cannot write to .*EFBIG.*; the runs go on/);
    expect(stdout).not.toMatch(/failed|report/);
    expect(stdout).toMatch(/^sgd8bit +\d\.\d{3} /m);
    expect(stderr).toMatch(/^lowbit: cannot write to '.*compared': EFBIG.*\n$/);
    expect(status).toBe(2);
    expect(parts("compared")).toEqual([]);
  });
});

test("compare finds out before it trains that nothing can be written", () => {
  const compare = ["compare", ...sizes, "--data=text.txt"];
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [
      "--conditions=lowbit-source",
      path.resolve(import.meta.dirname, "../cli/main.ts"),
      ...[...compare, "--out=text.txt/deep"],
    ],
    options(),
  );
  expect(stderr).toMatch(/^lowbit: cannot write to .*ENOTDIR.*\n$/);
  expect(stdout).toBe("");
  expect(status).toBe(2);
});

describe("--out", () => {
  const train = () => ["train", ...tiny, "--data=text.txt", "--steps=1"];

  test("without a name is refused, and what is here stays", () => {
    const before = fs.readdirSync(home);
    expectRefused(lowbit(...train(), "--out=", "--overwrite"), /has no name/);
    expect(fs.readdirSync(home)).toEqual(before);
  });

  test("--overwrite clears checkpoints away, and nothing else of that folder", () => {
    const folder = at("own/checkpoints");
    const left = ["step-00000002.part", "step-00000003.old.part"];
    for (const name of ["step-00000001", ...left, "step-00000004.bad", "mine"])
      fs.mkdirSync(path.join(folder, name), { recursive: true });
    fs.writeFileSync(path.join(folder, "mine/notes.txt"), "mine");
    const out = ["--out=own", "--overwrite", "--quiet"];
    expect(lowbit(...train(), ...out).status).toBe(0);
    expect(fs.readdirSync(folder)).toEqual(["mine"]);
    expect(read("own/checkpoints/mine/notes.txt")).toBe("mine");
  });

  test.runIf(process.platform === "linux")(
    "where there can be no folders ends, though mkdir -p in Node does not",
    () => {
      expect(() => makeFolder("/proc/lowbit/deep")).toThrow(/ENOENT/);
    },
  );
});

describe.runIf(unix)("odd files", () => {
  beforeAll(() => {
    fs.mkdirSync(at("odd/deep"), { recursive: true });
    fs.symlinkSync("nowhere", at("odd/broken"));
    fs.symlinkSync("round", at("odd/round"));
    spawnSync("mkfifo", [at("odd/pipe")]);
    fs.mkdirSync(at("linked"));
    fs.symlinkSync(at("text.txt"), at("linked/one.txt"));
    fs.symlinkSync(at("linked"), at("linked/again"));
    for (const [name, content] of [
      ["null", "null"],
      ["numbers", '{"weight_map": {"w": 3}}'],
      ["list", '{"weight_map": ["w", null]}'],
    ])
      fs.writeFileSync(at(`odd/${name}.safetensors.index.json`), content!);
  });

  const long = "long".repeat(100);
  test.each([
    [
      "a broken link",
      ["train", "--data", "odd/broken"],
      /no file 'odd\/broken'/,
    ],
    [
      "a glob of broken links",
      ["train", "--data", "odd/bro*"],
      /no file matches/,
    ],
    [
      "a link to itself",
      ["train", "--data", "odd/round"],
      /'odd\/round': ELOOP/,
    ],
    [
      "a name too long",
      ["train", "--data", long],
      /'long.*\.\.\.': ENAMETOOLONG/,
    ],
    ["a run that is a link", ["train", "--resume", "odd/round"], /ELOOP/],
    ["a model that is a link", ["plan", "odd/round"], /ELOOP/],
    ["a pipe to inspect", ["inspect", "odd/pipe"], /is no plain file/],
    [
      "a pipe to convert",
      ["convert", "odd/pipe", "x", "--to=lpmm"],
      /no plain/,
    ],
    ["a pipe to plan", ["plan", "odd/pipe"], /is no plain file/],
    ["-", ["convert", "odd/pipe", "-", "--to=lpmm"], /no plain|'-' is none/],
    ...["null", "numbers", "list"].map(
      (name) =>
        [
          `an index of ${name}`,
          ["plan", `odd/${name}.safetensors.index.json`],
          /has no weight_map of tensors to files/,
        ] as const,
    ),
  ] as const)("%s: one sentence", (_, args, message) => {
    expectRefused(lowbit(...args), message);
  });

  test("files that are links are part of a folder, folders are not", () => {
    const train = ["train", ...tiny, "--steps=1", "--quiet", "--out=links"];
    expect(lowbit(...train, "--data=linked").status).toBe(0);
    const { text } = JSON.parse(read("links/summary.json"));
    expect(text).toMatchObject({ files: 1, bytes: 31 * 99 });
  });

  test("what has no end is not read to its end", () => {
    const pieces = readPieces("/dev/zero", 3_000_000);
    let bytes = 0;
    expect(() => {
      for (const piece of pieces) bytes += piece.length;
    }).toThrow("'/dev/zero' goes on for more than 2 GiB");
    expect(bytes).toBeLessThanOrEqual(3_000_000);
    expect(Buffer.concat([...readPieces(at("text.txt"), 10_000)])).toEqual(
      fs.readFileSync(at("text.txt")),
    );
  });

  test("standard input may come slowly", async () => {
    const train = ["train", ...tiny, "--steps=1", "--quiet", "--out=slow"];
    const child = spawn(process.execPath, [main, ...train, "--data=-"], {
      cwd: home,
      stdio: ["pipe", "ignore", "inherit"],
    });
    const whole = read("text.txt");
    child.stdin.write(whole.slice(0, 100));
    await new Promise((resolve) => setTimeout(resolve, 700));
    child.stdin.end(whole.slice(100));
    expect(await new Promise((end) => child.on("close", end))).toBe(0);
    const { text } = JSON.parse(read("slow/summary.json"));
    expect(text.bytes).toBe(whole.length);
  });
});

test("Ctrl-C ends convert with no file half written", async () => {
  const data = new Float32Array(1e6);
  const states = Array.from({ length: 40 }, (_, i) =>
    ["exp_avg", "exp_avg_sq"].map(
      (key) =>
        [
          `state.${i}.${key}`,
          { dtype: "F32", shape: [data.length], data },
        ] as const,
    ),
  );
  fs.mkdirSync(at("large"));
  fs.writeFileSync(
    at("large/in.safetensors"),
    writeSafetensors(Object.fromEntries(states.flat())),
  );
  const to = ["convert", "large/in.safetensors", "large/out.safetensors"];
  const child = spawn(
    process.execPath,
    [main, ...to, "--to=bitsandbytes", "--bits=8"],
    { cwd: home, stdio: ["ignore", "pipe", "inherit"] },
  );
  const watcher = fs.watch(at("large"), () => {
    if (parts("large").length > 0) child.kill("SIGINT");
  });
  const code = await new Promise((end) => child.on("close", end));
  watcher.close();
  expect(code).toBe(130);
  expect(fs.readdirSync(at("large"))).toEqual(["in.safetensors"]);
});

describe("lowbit plan", () => {
  test.each([
    ["half a batch", ["gpt2", "--batch", "1.5"], /whole number.*'1\.5'/],
    ["half a layer", ["--layers", "2.5", "--width", "64"], /whole number/],
    [
      "a model for a preset",
      ["gpt2", "--preset", "paper1-table2"],
      /only --json goes with it; leave 'gpt2' out/,
    ],
    [
      "a memory for a preset",
      ["--preset", "paper1-table2", "--memory", "8GB"],
      /leave --memory out/,
    ],
  ])("refuses %s", (_, args, message) => {
    expectRefused(lowbit("plan", ...args), message);
  });

  test("says what is large without exponents", () => {
    const { stdout } = lowbit("plan", "opt-66b", "--host", "tfjs");
    expect(stdout).toContain("3.68 TB");
    expect(stdout).not.toMatch(/\de\+/);
  });

  test("takes parts of a million", () => {
    const args = ["--params", "1.3B", "--json", "--optimizers", "adamw8bit"];
    const { parameters } = JSON.parse(lowbit("plan", ...args).stdout);
    expect(parameters / 1.3e9).toBeCloseTo(1, 3);
  });
});

test("a terminal that does not know its width counts as 80 columns", () => {
  const stream = { isTTY: true, columns: 0 } as NodeJS.WriteStream;
  expect(openTerminal(stream).width()).toBe(80);
});

test("lowbit help is lowbit --help, also of a command", () => {
  expect(lowbit("help").stdout).toBe(lowbit("--help").stdout);
  expect(lowbit("help", "plan").stdout).toBe(lowbit("plan", "--help").stdout);
  expect(lowbit("help", "plan").stdout).toContain("lowbit plan [MODEL]");
});
