// Every example runs, and the code in the README is the code of the examples.
import { execFile } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";

const root = path.resolve(import.meta.dirname, "..");
const read = (file: string) => fs.readFileSync(path.join(root, file), "utf8");
const run = async (file: string, ...args: string[]) =>
  (
    await promisify(execFile)(
      process.execPath,
      ["--conditions=lowbit-source", path.join("examples", file), ...args],
      { cwd: root },
    )
  ).stdout;

describe("the README", () => {
  const blocks = [
    ...read("README.md").matchAll(/```ts file=(\S+)\n([^]*?)```/g),
  ].map(([, file, code]) => ({ file: file!, code: code! }));

  test("shows no code of its own", () => {
    expect(blocks.length).toBeGreaterThanOrEqual(5);
    expect(read("README.md").match(/```(ts|js)\n/g)).toBeNull();
  });

  test.each(blocks)("shows $file as it is", ({ file, code }) => {
    expect(code).toBe(read(file));
  });
});

const pages = [
  "README.md",
  "CONTRIBUTING.md",
  "bench/gpu/notes.md",
  ...fs.readdirSync(path.join(root, "docs")).map((name) => `docs/${name}`),
].filter((name) => name.endsWith(".md"));

describe.each(pages)("%s", (page) => {
  const text = read(page).replace(/^```[^]*?^```/gm, "");

  test("shows examples as they are", () => {
    for (const [, file, code] of read(page).matchAll(
      /```ts file=(\S+)\n([^]*?)```/g,
    ))
      expect(code, file).toBe(read(file!));
  });

  test("has tables that are tables", () => {
    const lines = text.split("\n");
    const cells = (line: string) => line.split(/(?<!\\)\|/).length;
    const wrong = lines.filter((line, i) => {
      if (!line.startsWith("|") || lines[i - 1]?.startsWith("|")) return false;
      const below = lines[i + 1] ?? "";
      return !/^\|( *:?-+:? *\|)+$/.test(below) || cells(below) !== cells(line);
    });
    expect(wrong).toEqual([]);
  });

  test("links to what is there", () => {
    const slug = (heading: string) =>
      heading
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-");
    const broken = [...text.matchAll(/\]\(([^)\s]+)\)/g)]
      .map(([, target]) => target!)
      .filter((target) => {
        if (/^https?:/.test(target)) return false;
        const [file, anchor] = target.split("#");
        const place = file
          ? path.join(root, path.dirname(page), file)
          : path.join(root, page);
        if (!fs.existsSync(place)) return true;
        if (!anchor) return false;
        const headings = fs.readFileSync(place, "utf8").matchAll(/^#+ (.*)$/gm);
        return ![...headings].some(([, heading]) => slug(heading!) === anchor);
      });
    expect(broken).toEqual([]);
  });
});

describe("the examples", () => {
  test("quick-start: changes the weights and says where the bytes go", async () => {
    const output = await run("quick-start.ts");
    expect(output).toContain("step: 1");
    expect(output).toContain("532480");
    expect(output).toContain("fewer than minQuantizedSize 4096");
  });

  test("new-optimizer: runs in 4 bits on the spot", async () => {
    // One step of 1e-4 along the sign; half a byte and a scale per 128.
    expect(await run("new-optimizer.ts")).toMatch(/^0\.0000?9999\d* 0\.53125/);
  });

  test("checkpoint: saves, goes on, and changes formats midway", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-example-"));
    const output = await run("checkpoint.ts", path.join(folder, "a"));
    expect(fs.readdirSync(folder)).toEqual(["a"]);
    fs.rmSync(folder, { recursive: true });
    expect(output).toContain("goes on after step 1");
    expect(output).toMatch(/'8-bit signed dynamic, block 256'.*'4-bit signed/);
  });

  test("control: estimates, limits and accumulates", async () => {
    const output = await run("control.ts");
    const [wte, norm, head] = [50257 * 768, 768, 768 * 50257];
    const blocks = Math.ceil(head / 256);
    const bytes = 8 * wte + 8 * norm + 2 * head + 8 * blocks;
    expect(output).toContain(
      `${bytes} bytes, in 32 bits ${8 * (wte + norm + head)}`,
    );
    expect(output).toContain("1 step at learning rate");
  });

  test("around: schedules, groups, percentiles, accumulation, an average", async () => {
    const output = await run("around.ts");
    // Half the calls are steps; the last of a straight line to 0.
    expect(output).toContain("40 steps, the last at 0");
    const [, now, average] = /^(\S+) average (\S+)$/m.exec(output)!;
    expect(Number(now)).toBeLessThan(0.9);
    expect(Number(average)).toBeGreaterThan(Number(now));
    expect(output).toMatch(/group 'biases' \(\/bias\$\/\).* 0.001 /);
  });

  test("jax: trains to the target", async () => {
    // With 32-bit state it ends at 0.003 as well: Adam slows down near the target.
    const [, error] = /largest error (\S+)/.exec(await run("jax.ts"))!;
    expect(Number(error)).toBeLessThan(5e-3);
  });

  test("jax-optax: a whole step under jit", async () => {
    const output = await run("jax-optax.ts");
    const [first, last] = [...output.matchAll(/loss (\S+)/g)].map(([, x]) =>
      Number(x),
    );
    expect(first).toBe(1);
    expect(last).toBeLessThan(5e-3);
  });

  test("tfjs: fits, with a quarter of the state", async () => {
    const output = await run("tfjs.ts");
    const [, loss] = /loss Tensor\s+(\S+)/.exec(output)!;
    expect(Number(loss)).toBeLessThan(1e-3);
    expect(output).toMatch(/dense_Dense1\/kernel.*8-bit.* 16640 .* 65536 /);
  });

  test("train: a model of its own text learns, with a quarter of the state", async () => {
    const output = await run("train.ts");
    const [, bytes, bytes32] = /state: (\d+) bytes; in 32-bit: (\d+)/.exec(
      output,
    )!;
    expect(Number(bytes)).toBeLessThan(Number(bytes32) / 2);
    const losses = [...output.matchAll(/: ([\d.]+) nats a byte/g)].map(
      ([, loss]) => Number(loss),
    );
    expect(losses[0]).toBeGreaterThan(5);
    expect(losses.at(-1)).toBeLessThan(losses[0]! - 1);
  });
});
