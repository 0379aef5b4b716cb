// `lowbit convert`, `inspect` and `doctor` as a user runs them, from source.

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { writeSafetensors } from "lowbit/io";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { pythonState } from "./support/python-state.ts";
import { byName } from "./support/interchange.ts";

const main = path.resolve(import.meta.dirname, "../cli/main.ts");
let home: string;
beforeAll(() => {
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-interchange-"));
  for (const name of ["bnb_adamw8bit", "ao_adamw8bit", "lpmm_adamw4_block"])
    write(`${name}.safetensors`, pythonState(byName(name), 2).bytes);
});
afterAll(() => fs.rmSync(home, { recursive: true }));

const at = (name: string) => path.join(home, name);
const write = (name: string, content: string | Uint8Array) =>
  fs.writeFileSync(at(name), content);
const read = (name: string) => fs.readFileSync(at(name));

function lowbit(args: string[], node: string[] = []) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ["--conditions=lowbit-source", ...node, main, ...args],
    { cwd: home, encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } },
  );
  return { status, stdout, stderr };
}

function good(args: string[]) {
  const run = lowbit(args);
  expect(run.stderr).toBe("");
  expect(run.status).toBe(0);
  return run.stdout;
}

function bad(args: string[], words: RegExp) {
  const { status, stderr, stdout } = lowbit(args);
  expect(stdout).toBe("");
  expect(stderr).toMatch(words);
  expect(stderr.trim().split("\n").length, stderr).toBe(1);
  expect(status).toBe(2);
}

describe("lowbit convert", () => {
  test("there and back is the same file", () => {
    const from = "ao_adamw8bit.safetensors";
    const text = good(["convert", from, "a.safetensors", "--to", "lowbit"]);
    expect(text).toMatch(/torchao, adamw after 2 steps, 1 parameter, 5,120/);
    expect(text).toMatch(/1 state kept as stored: 8-bit signed dynamic, bl/);
    for (const out of ["b.safetensors", "c.safetensors"])
      good(["convert", "a.safetensors", out, "--to", "torchao", "--quiet"]);
    expect(read("b.safetensors")).toEqual(read("c.safetensors"));
    good(["convert", "b.safetensors", "d.safetensors", "--to", "lowbit"]);
    expect(read("d.safetensors")).toEqual(read("a.safetensors"));
  });

  test("tells programs what was requantized", () => {
    const report = JSON.parse(
      good(
        "convert ao_adamw8bit.safetensors four.safetensors --to lpmm --bits 4 --json".split(
          " ",
        ),
      ),
    );
    expect(report).toMatchObject({
      from: "torchao",
      to: "lpmm",
      optimizer: "adamw",
      step: 2,
      elements: 5120,
      bytes: read("four.safetensors").length,
    });
    for (const change of report.changes) {
      expect(change.change).toBe("requantized");
      expect(change.error.relative).toBeGreaterThan(0.001);
    }
  });

  test("takes shapes from a model", () => {
    const { tensors } = pythonState(byName("lpmm_adamw4_block"), 2);
    const metadata = { names: '["w"]', optimizer: "AdamW" };
    write("flat.safetensors", writeSafetensors(tensors, metadata));
    const model = (name: string) =>
      writeSafetensors({
        [name]: {
          dtype: "F32",
          shape: [40, 130],
          data: new Float32Array(5200),
        },
      });
    write("model.safetensors", model("w"));
    write("other.safetensors", model("W"));
    const args = ["convert", "flat.safetensors", "g.safetensors", "--to"];
    bad([...args, "lowbit"], /padded, so that its shape must be known/);
    bad(
      [...args, "lowbit", "--model", "other.safetensors"],
      /its parameter 'w' is not among those given, only that of 'W'/,
    );
    good([...args, "lowbit", "--model", "model.safetensors"]);
    const { tensors: found } = JSON.parse(
      good(["inspect", "g.safetensors", "--json"]),
    );
    expect(found[0].shape).toEqual([40, 130]);
  });

  test("says in a sentence what cannot be", () => {
    const file = "bnb_adamw8bit.safetensors";
    const to = (...rest: string[]) => ["convert", file, "x", ...rest];
    bad(["convert", file], /give the file to read and the file to write/);
    bad(to("--to", "torcha"), /did you mean 'torchao'/);
    bad(to("--to", "lowbit", "--recipe", "adam9bit"), /unknown optimizer/);
    bad(to("--tou", "lowbit"), /unknown option '--tou'; did you mean '--to'/);
    bad(["convert", "no.safetensors", "x", "--to", "lowbit"], /no such file/);
    bad(["convert", file, file, "--to", "lowbit"], /into itself/);
    write("there", "something");
    bad(["convert", file, "there", "--to", "lowbit"], /there already/);
    write("optimizer.pt", new Uint8Array([0x50, 0x4b, 3, 4, 0, 0]));
    bad(["convert", "optimizer.pt", "x", "--to", "lowbit"], /torch.save/);
    expect(fs.existsSync(at("x"))).toBe(false);
  });

  test("leaves nothing behind when the data are broken", () => {
    const python = pythonState(byName("ao_adamwfp8"), 2);
    const codes = python.tensors["state.0.exp_avg_sq.codes"]!.data;
    (codes as Uint8Array)[5000] = 0x7f;
    const { tensors, metadata } = python;
    write("nan.safetensors", writeSafetensors(tensors, metadata));
    write("kept.safetensors", "before");
    bad(
      "convert nan.safetensors kept.safetensors --to lowbit --overwrite".split(
        " ",
      ),
      /exp_avg_sq.codes' has a NaN at element 5000/,
    );
    expect(read("kept.safetensors").toString()).toBe("before");
    expect(fs.readdirSync(home).filter((one) => /part/.test(one))).toEqual([]);
  });
});

describe("lowbit inspect", () => {
  test("counts what is in a state", () => {
    const found = JSON.parse(
      good(["inspect", "bnb_adamw8bit.safetensors", "--json"]),
    );
    const { tensors } = pythonState(byName("bnb_adamw8bit"), 2);
    const codes = tensors["state.0.state1"]!.data as Uint8Array;
    const scales = tensors["state.0.absmax1"]!.data as Float32Array;
    const table = tensors["state.0.qmap1"]!.data as Float32Array;
    const values = [...codes].map((code, i) => table[code]! * scales[i >> 8]!);
    expect(found).toMatchObject({
      layout: "bitsandbytes",
      optimizer: "adamw",
      step: 2,
      parameters: 1093,
      stateBytes: 2 * (1093 + 4 * 5),
      stateBytes32: 8 * 1093,
    });
    const { m } = found.tensors[0].states;
    const counts = new Array(256).fill(0);
    for (const code of codes) counts[code]++;
    expect(m.codes.histogram).toEqual(counts);
    expect(m.codes.saturated).toBeCloseTo((counts[0] + counts[255]) / 1093, 12);
    expect(m.values.zeros).toBeCloseTo(
      values.filter((value) => value === 0).length / 1093,
      12,
    );
    const sum = values.reduce((a, value) => a + value ** 2, 0);
    expect(m.values.rms).toBeCloseTo(Math.sqrt(sum / 1093), 6);
    expect(m.codes.scales).toMatchObject({
      count: 5,
      zero: 0,
      largest: Math.max(...scales),
      smallest: Math.min(...scales),
    });
  });

  test("expects about the error that quantization makes", () => {
    // From 32 to 8 bits and back: what convert measured, inspect estimates.
    good("convert ao_adamw8bit.safetensors f --to float32".split(" "));
    const { changes } = JSON.parse(
      good("convert f e --to torchao --bits 8 --json".split(" ")),
    );
    // It had those values, but a block's largest that is negative has no code.
    expect(changes[0].error.relative).toBeLessThan(2e-3);
    const { changes: lost } = JSON.parse(
      good("convert f h --to torchao --bits 4 --json".split(" ")),
    );
    const { tensors } = JSON.parse(good(["inspect", "h", "--json"]));
    const { m } = tensors[0].states;
    const ratio = m.codes.expectedError / lost[0].error.relative;
    expect(ratio).toBeGreaterThan(0.3);
    expect(ratio).toBeLessThan(3);
  });

  test("draws codes, and any other file's tensors", () => {
    const text = good(["inspect", "lpmm_adamw4_block.safetensors"]);
    expect(text).toMatch(/state of adamw after 2 steps, in the layout of lpmm/);
    expect(text).toMatch(/Codes of m, 4-bit signed dynamic, block 128: 1\d of/);
    expect(text).toMatch(/█/);
    const name = "a\u001b[31mred";
    write(
      "model.bin",
      writeSafetensors(
        {
          [name]: {
            dtype: "F16",
            shape: [4],
            data: Uint16Array.of(0x3c00, 0xc000, 0, 0x7c00),
          },
        },
        { format: "pt" },
      ),
    );
    const model = good(["inspect", "model.bin"]);
    expect(model).toMatch(/no optimizer state among them/);
    // Letters that steer a terminal do not reach it.
    expect(model).toContain("a·[31mred");
    expect(model).not.toContain("\u001b");
    const { tensors } = JSON.parse(good(["inspect", "model.bin", "--json"]));
    expect(tensors[0].values).toEqual({
      elements: 4,
      largest: 2,
      rms: Math.sqrt(5 / 3),
      zeros: 0.25,
      nonFinite: 1,
    });
  });

  test("refuses what is no file of tensors", () => {
    write("text", "It was the best of times, it was the worst of times");
    bad(["inspect", "text"], /^lowbit: text: /);
    write("cut", read("bnb_adamw8bit.safetensors").subarray(0, 3000));
    bad(["inspect", "cut"], /^lowbit: cut: the header tells of/);
    bad(["inspect"], /give the file to look at/);
    fs.mkdirSync(at("run/step-5"), { recursive: true });
    write("run/model.safetensors", "");
    write("run/step-5/optimizer.safetensors", "");
    bad(
      ["inspect", "run"],
      /a folder; give .* run.step-5.optimizer.safetensors/,
    );
  });
});

describe("lowbit doctor", () => {
  /** A module that does something in the process that tries an engine. */
  const inProbe = (engine: string, what: string) => {
    const file = at(`${engine}-${what.length}.mjs`);
    fs.writeFileSync(
      file,
      `const has = (word) => process.argv.includes(word);
       if (has("--probe") && has("${engine}")) { ${what} }`,
    );
    return ["--import", pathToFileURL(file).href];
  };

  test("tests and measures every engine there is", () => {
    const run = lowbit(["doctor", "--json", "--limit", "300"]);
    expect(run.status, run.stdout + run.stderr).toBe(0);
    const { ok, machine, engines } = JSON.parse(run.stdout);
    expect(ok).toBe(true);
    expect(machine.cores).toBe(os.availableParallelism());
    expect(machine.webAssembly.simd).toBe(true);
    const of = (name: string) =>
      engines.find((one: { name: string }) => one.name === name);
    expect(of("wasm")).toMatchObject({ state: "passed" });
    expect(of("wasm").test.recipes.length).toBeGreaterThanOrEqual(5);
    for (const { recipe, equalCodes } of of("wasm").test.recipes)
      expect(equalCodes, recipe).toBe(1);
    expect(of("wasm").speed.nsPerParameter).toBeGreaterThan(0);
    expect(of("reference")).toMatchObject({ state: "passed" });
    // Where the tests have WebGPU the doctor has it, too.
    expect(of("webgpu").state).toBe(
      process.env.LOWBIT_NO_GPU ? "missing" : "passed",
    );
    if (of("webgpu").state === "passed")
      expect(of("webgpu").adapters[0].limits.maxBufferSize).toBeGreaterThan(0);
    else expect(of("webgpu").reason).toMatch(/webgpu/);
  });

  test("finds an engine that is wrong", () => {
    // The reference takes roots of JavaScript, the engine its own.
    const wrong = inProbe(
      "wasm",
      "const { sqrt } = Math; Math.sqrt = (x) => 1.01 * sqrt(x);",
    );
    const run = lowbit(["doctor", "--engine", "wasm"], wrong);
    expect(run.stdout).toMatch(/wasm: does not work/);
    expect(run.stdout).toMatch(/recipes DIFFER from the reference/);
    expect(run.stdout).toMatch(/adamw8bit: .* of the parameters near/);
    expect(run.status).toBe(1);
  });

  test("outlives a driver that crashes, or hangs", () => {
    const crash = inProbe("webgpu", "process.kill(process.pid, 'SIGSEGV');");
    const crashed = lowbit(["doctor", "--engine", "webgpu"], crash);
    expect(crashed.stdout).toMatch(/webgpu: not here/);
    expect(crashed.stdout).toMatch(/its process was ended by SIGSEGV/);
    expect(crashed.status).toBe(0);
    const hang = inProbe("wasm", "for (;;);");
    const hung = lowbit(["doctor", "--engine", "wasm", "--limit", "1"], hang);
    expect(hung.stdout).toMatch(/wasm: does not work/);
    expect(hung.stdout).toMatch(/it did not end within 1 seconds/);
    expect(hung.status).toBe(1);
  });

  test("takes only what it knows", () => {
    bad(["doctor", "--engine", "cuda"], /--engine must be one of wasm, webgpu/);
    bad(["doctor", "--limit", "x"], /--limit must be 1 to 3600 seconds/);
  });
});
