// `lowbit plan` as a user runs it, from source.

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { writeSafetensors } from "lowbit/trainer";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { bundleCli } from "./support/bundled-cli.ts";

const cli = path.resolve(import.meta.dirname, "../cli");
let home: string;
let program: string;
let main: string;

beforeAll(async () => {
  program = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-plan-cli-"));
  main = await bundleCli(program);
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-plan-"));
  write("gpt2.json", {
    ...{ model_type: "gpt2", _name_or_path: "gpt2", vocab_size: 50257 },
    ...{ n_positions: 1024, n_embd: 768, n_layer: 12, n_head: 12 },
  });
  // A Llama with weights in two files, and what else may lie in them.
  write("llama/config.json", {
    ...{ model_type: "llama", vocab_size: 64, hidden_size: 16 },
    ...{ num_hidden_layers: 2, intermediate_size: 40, num_attention_heads: 4 },
  });
  write("llama/model.safetensors.index.json", {
    weight_map: { a: "1.safetensors", b: "2.safetensors" },
  });
  tensors("llama/1.safetensors", { "model.embed_tokens.weight": [64, 16] });
  tensors("llama/2.safetensors", {
    "model.layers.0.self_attn.q_proj.weight": [16, 16],
    "model.layers.0.self_attn.rotary_emb.inv_freq": [8],
    __proto__x: [3],
  });
  tensors("resnet.safetensors", {
    "conv1.weight": [64, 3, 7, 7],
    "layer4.conv.weight": [512, 512, 3, 3],
    "bn.running_mean": [64],
  });
  write("run.json", {
    ...{ layers: 2, heads: 2, width: 64, context: 32, batch: 4 },
    optimizer: "adamw8bit",
  });
});
afterAll(() => {
  for (const folder of [home, program]) fs.rmSync(folder, { recursive: true });
});

function write(name: string, content: unknown) {
  const file = path.join(home, name);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  const text = typeof content === "string" ? content : JSON.stringify(content);
  fs.writeFileSync(file, text);
}

function tensors(name: string, shapes: Record<string, number[]>) {
  const zeros = Object.entries(shapes).map(([key, shape]) => {
    const data = new Float32Array(shape.reduce((a, b) => a * b));
    return [key, { dtype: "F32" as const, shape, data }] as const;
  });
  const file = path.join(home, name);
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, writeSafetensors(Object.fromEntries(zeros)));
}

function plan(...args: string[]) {
  return spawnSync(process.execPath, [main, "plan", ...args], {
    cwd: home,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
  });
}

function planned(...args: string[]) {
  const { status, stdout, stderr } = plan(...args, "--json");
  expect(stderr).toBe("");
  expect(status).toBe(0);
  return JSON.parse(stdout);
}

test("a config.json: the table, the largest model alike, and the notes", () => {
  const { status, stdout } = plan("gpt2.json", "--memory", "4GB");
  expect(status).toBe(0);
  expect(stdout).toMatch(/^model +gpt2: 124,439,808 parameters\n/);
  expect(stdout).toMatch(/\nparameters +498 MB \(float32\)\ngradients +498 MB/);
  expect(stdout).toMatch(
    /\nactivations +2\.\d+ GB at batch 1 x 1024 tokens \(layers/,
  );
  expect(stdout).toMatch(/\nrecipe +state +a parameter +total +saved +fits/);
  expect(stdout).toMatch(/\nadamw32bit +996 MB +8\.00 bytes .* no\n/);
  expect(stdout).toMatch(/\nadamw8bit +253 MB +2\.04 bytes .* yes\n/);
  expect(stdout).toMatch(/\nThe largest model in the proportions of gpt2 /);
  expect(stdout).toMatch(/\n- WebGPU: one tensor /);
  expect(Math.max(...stdout.split("\n").map((l) => l.length))).toBeLessThan(
    130,
  );
});

test("sizes on the command line, in every unit", () => {
  const args = ["--params", "7B", "--layers", "32", "--width", "4096"];
  const { rows, parameters, memory, largest } = planned(
    ...args,
    ...["--memory", "80GiB", "--dtype", "bfloat16", "--context", "512"],
    ...["--optimizers", "adamw32bit, adamw4bit", "--reserve", "512MB"],
  );
  expect(Math.abs(parameters / 7e9 - 1)).toBeLessThan(0.001);
  expect(memory).toBe(80 * 2 ** 30);
  expect(rows.map(({ recipe }: { recipe: string }) => recipe)).toEqual([
    "adamw32bit",
    "adamw4bit",
  ]);
  expect(rows.map(({ fits }: { fits: boolean }) => fits)).toEqual([
    false,
    true,
  ]);
  expect(largest).toHaveLength(2);
  const { reserve } = planned("gpt2", "--reserve", "1.5 GB");
  expect(reserve).toBe(1.5e9);
});

describe("safetensors", () => {
  test("a folder: exact tensors from the files, layers from config.json", () => {
    const plan = planned("llama");
    expect(plan.parameters).toBe(64 * 16 + 16 * 16 + 3);
    expect(plan.activations.total).toBeGreaterThan(0);
  });

  test("a file without a configuration, as of a convolutional network", () => {
    const { parameters, activations, notes } = planned("resnet.safetensors");
    expect(parameters).toBe(64 * 3 * 49 + 512 * 512 * 9);
    expect(activations).toBeUndefined();
    expect(notes[0]).toMatch(/convolutional network.*hardly help/);
    const known = planned("resnet.safetensors", "--activations", "3GB");
    expect(known.activations.total).toBe(3e9);
  });
});

test("the config.json of a lowbit train run is planned for its host and batch", () => {
  const { host, batch, context, parameters } = planned("run.json");
  expect({ host, batch, context }).toEqual({
    ...{ host: "jax", batch: 4, context: 32 },
  });
  expect(parameters).toBe(
    256 * 64 + 32 * 64 + 2 * (12 * 64 * 64 + 13 * 64) + 128,
  );
});

test("TensorFlow.js's own Adam has a line with its temporaries", () => {
  const { rows } = planned("gpt2.json", "--host", "tfjs");
  expect(rows.at(-1)).toMatchObject({
    recipe: "tf.train.adam",
    temporaryBytes: 56 * 124_439_808,
  });
  const { stdout } = plan("gpt2.json", "--host", "tfjs");
  expect(stdout).toMatch(/temporaries/);
});

test("without a model, the largest public ones that fit", () => {
  const { stdout } = plan("--memory", "24GB", "--context", "512");
  expect(stdout).toMatch(/\nseries +adamw32bit +adamw8bit/);
  expect(stdout).toMatch(/\ngpt2 +gpt2-large \(.* GB\) +gpt2-xl \(/);
  const { series } = planned("--memory", "24GB");
  expect(series.length).toBeGreaterThan(5);
});

test.each(["paper1-table2", "paper2-table5"])(
  "--preset %s prints the paper's table with its assumptions",
  (name) => {
    const { stdout, status } = plan("--preset", name);
    expect(status).toBe(0);
    expect(stdout).toMatch(/arXiv 2\d{3}\.\d{5}, table/);
    expect(stdout).not.toMatch(/printed:/); // no cell differs
    expect(stdout).toMatch(/\n- assumed: /);
  },
);

describe("what cannot work ends with one sentence and exit code 2:", () => {
  beforeAll(() => {
    write("other.json", { model_type: "gpt3" });
    write("half.json", { model_type: "gpt2", n_embd: 768 });
    write("zero.json", { model_type: "opt", hidden_size: 0 });
    write("broken.json", "{");
    write("huge.safetensors", "\xff\xff\xff\xff\xff\xff\xff\xff{}");
    write("index/model.safetensors.index.json", {
      weight_map: { a: "1.safetensors" },
    });
    write("empty/readme", "");
    write("adapter/adapter_config.json", {
      ...{ r: 16, base_model_name_or_path: "gpt2" },
    });
  });

  test.each([
    ["nothing", [], /give a model, .* or --memory SIZE/],
    ["no such model", ["gpt2-mediun"], /did you mean 'gpt2-medium'/],
    ["another family", ["other.json"], /unknown model_type 'gpt3'.*'gpt2'/],
    ["a missing size", ["half.json"], /needs 'n_layer'/],
    ["a size of 0", ["zero.json"], /'hidden_size' must be a whole number/],
    ["no JSON", ["broken.json"], /neither a safetensors file nor JSON/],
    ["a huge header", ["huge.safetensors"], /huge.safetensors: a header of/],
    ["missing shards", ["index/model.safetensors.index.json"], /config.json/],
    ["an empty folder", ["empty"], /neither a config.json nor safetensors/],
    ["adapters alone", ["adapter"], /adapters for 'gpt2'; .* --lora 16/],
    ["a file and sizes", ["gpt2", "--params", "7B"], /not from both/],
    ["a wrong size", ["gpt2", "--memory", "lots"], /24GiB or 512MB/],
    ["a wrong number", ["--params", "-7B"], /as 1024 or 7B/],
    ["a long context", ["gpt2", "--context", "9999"], /1024 tokens at most/],
    ["a wrong preset", ["--preset", "paper1"], /did you mean|there are paper1/],
    ["an unknown flag", ["gpt2", "--mem", "8GB"], /unknown option '--mem'/],
  ])("%s", (_, args, message) => {
    const { status, stdout, stderr } = plan(...args);
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^lowbit: .*\n$/);
    expect(stdout).toBe("");
    expect(status).toBe(2);
  });
});

test("lowbit plan --help explains every flag", () => {
  const { status, stdout } = plan("--help");
  expect(status).toBe(0);
  const source = fs.readFileSync(path.join(cli, "plan/flags.ts"), "utf8");
  const flags = [...source.matchAll(/^ {2}(\w+): "(text|switch)"/gm)];
  expect(flags.length).toBeGreaterThan(15);
  for (const [, flag] of flags)
    expect(stdout).toMatch(new RegExp(`^  --${flag}[ .]`, "m"));
  expect(Math.max(...stdout.split("\n").map((l) => l.length))).toBeLessThan(90);
});

test("docs/tools.md shows examples/plan.ts, which runs", () => {
  const root = path.resolve(import.meta.dirname, "..");
  const read = (name: string) => fs.readFileSync(path.join(root, name), "utf8");
  const [, shown] = /```ts file=examples\/plan.ts\n([^]*?)```/.exec(
    read("docs/tools.md"),
  )!;
  expect(shown).toBe(read("examples/plan.ts"));
  const { stdout } = spawnSync(
    process.execPath,
    ["--conditions=lowbit-source", "examples/plan.ts"],
    { cwd: root, encoding: "utf8" },
  );
  expect(stdout).toMatch(/^adamw32bit 995518464 \d+ false\n/);
  expect(stdout).toMatch(/\nfactor4bit \d+ \d+ true\n/);
});
