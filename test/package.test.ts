// The package as a user gets it: built, packed, and unpacked into a project
// that has nothing else.

import { execFileSync, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { gzipSync } from "node:zlib";
import * as esbuild from "esbuild";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

/** What "small" means here: the usual import, minified and gzipped. */
const SIZE_BUDGET = 20_000;
/** Of each engine, which a page loads when it first uses it. */
const ENGINE_BUDGET = 41_000;
const USUAL_IMPORT = `
  import { adamw8bit, createOptimizer } from "lowbit";
  console.log(adamw8bit, createOptimizer);`;

const root = path.resolve(import.meta.dirname, "..");
const source = readManifest(root);
const doors = Object.keys(source.exports)
  .filter((door) => door !== "./package.json")
  .map((door) => door.replace(".", "lowbit"));

/** A project that installed lowbit without its optional peers. */
let consumer: string;
/** The package inside of it. */
let unpacked: string;

beforeAll(() => {
  node("scripts/build.mjs");
  consumer = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-consumer-"));
  const tarball = pack(consumer);
  unpacked = path.join(consumer, "node_modules/lowbit");
  fs.mkdirSync(unpacked, { recursive: true });
  execFileSync("tar", [
    "-xzf",
    tarball,
    "-C",
    unpacked,
    "--strip-components=1",
  ]);
  write("package.json", JSON.stringify({ private: true, type: "module" }));
});

afterAll(() => {
  if (consumer) fs.rmSync(consumer, { recursive: true });
});

describe("the manifest", () => {
  test("has no dependencies, and only optional peers", () => {
    const manifest = readManifest(unpacked);
    expect(manifest.dependencies).toBeUndefined();
    expect(manifest.optionalDependencies).toBeUndefined();
    for (const peer of Object.keys(manifest.peerDependencies))
      expect(manifest.peerDependenciesMeta[peer]).toEqual({ optional: true });
  });

  test("asks for no install script", () => {
    const hooks = ["preinstall", "install", "postinstall", "prepare"];
    for (const hook of hooks) expect(source.scripts).not.toHaveProperty(hook);
  });

  test("names only files that are there", () => {
    const targets = Object.values(source.exports).flatMap((target) =>
      typeof target === "string" ? target : Object.values(target),
    );
    for (const file of [...targets, ...Object.values(source.bin)])
      expect(fs.existsSync(path.join(unpacked, file)), file).toBe(true);
  });

  test("ships neither tests nor tools", () => {
    const strays = allFiles(unpacked).filter((file) =>
      /\.test\.|^(test|tools|scripts|bench)\//.test(file),
    );
    expect(strays).toEqual([]);
  });

  test("starts the command line with a #! line", () => {
    const main = fs.readFileSync(
      path.join(unpacked, source.bin.lowbit),
      "utf8",
    );
    expect(main).toMatch(/^#!\/usr\/bin\/env node\n/);
  });
});

test("the command line plans without any peer, and has its report's page", () => {
  const main = path.join(unpacked, source.bin.lowbit);
  const json = execFileSync(process.execPath, [main, "plan", "gpt2", "--json"]);
  expect(JSON.parse(String(json)).parameters).toBe(124_439_808);
  const page = path.join(path.dirname(main), "compare/report.html");
  expect(fs.readFileSync(page, "utf8")).toContain("<!-- comparison -->");
});

describe("each door", () => {
  test.each(doors)("%s imports in plain Node", (door) => {
    if (/(trainer|jax)$/.test(door)) linkPeer("@jax-js/jax");
    if (door === "lowbit/tfjs") linkPeer("@tensorflow/tfjs-core");
    const script = `
      const door = await import(${JSON.stringify(door)});
      if (Object.keys(door).length === 0) throw new Error("it exports nothing");`;
    for (const exe of nodes())
      execFileSync(exe, ["--input-type=module", "-e", script], {
        cwd: consumer,
        stdio: "pipe",
      });
  });

  test.each([
    { module: "nodenext", moduleResolution: "nodenext" },
    { module: "esnext", moduleResolution: "bundler" },
  ])("has types under $moduleResolution", (resolution) => {
    linkPeer("@jax-js/jax");
    const lines = doors.map(
      (door, i) => `import * as door${i} from "${door}"; void door${i};`,
    );
    write("consumer.ts", lines.join("\n"));
    write(
      "tsconfig.json",
      JSON.stringify({
        compilerOptions: {
          ...resolution,
          strict: true,
          noEmit: true,
          target: "es2022",
          lib: ["es2022", "dom"],
          types: [],
        },
        files: ["consumer.ts"],
      }),
    );
    const tsc = path.join(root, "node_modules/typescript/bin/tsc");
    const run = spawnSync(process.execPath, [tsc, "--pretty", "false"], {
      cwd: consumer,
      encoding: "utf8",
    });
    // Faults in our peers' types are not ours to test.
    const ours = run.stdout
      .split("\n")
      .filter((line) => /^(consumer\.ts|node_modules\/lowbit\/)/.test(line));
    expect(ours).toEqual([]);
  });
});

describe("the code in dist/", () => {
  // `require("lowbit")` and some bundlers cannot load a module that awaits.
  test("has no top-level await", async () => {
    for (const { file, code } of distFiles())
      // esbuild refuses to turn such a module into CommonJS.
      await esbuild.transform(code, {
        format: "cjs",
        sourcefile: file,
        logLevel: "silent",
      });
  });

  // A page with a content security policy forbids it.
  test("makes no code out of text", async () => {
    for (const { file, code } of distFiles()) {
      const { code: bare } = await esbuild.transform(code, {
        minifyWhitespace: true, // leaves comments out
      });
      expect(bare, file).not.toMatch(/\beval\s*\(|\bnew\s+Function\b/);
    }
  });

  test("does nothing when it is imported", async () => {
    // Without our package.json, so that its "sideEffects: false" cannot make
    // the bundler drop what does have effects.
    const bare = path.join(consumer, "bare");
    fs.cpSync(path.join(unpacked, "dist"), bare, { recursive: true });
    const { text } = await split(`import "./bare/index.js";`);
    // Files that it shares with what is loaded later; nothing of them is used.
    const left = text.replaceAll(/import"\.\/chunk-\w+\.js";/g, "");
    expect(left.trim().slice(0, 500)).toBe("");
  });

  test(`is at most ${SIZE_BUDGET} bytes, minified and gzipped, for one optimizer`, async () => {
    const { loaded, later } = await split(USUAL_IMPORT);
    console.log(
      `size of one optimizer: ${loaded} bytes minified and gzipped (budget ${SIZE_BUDGET}); ` +
        `engines, loaded when used: ${later.map(({ name, size }) => `${name} ${size}`).join(", ")}`,
    );
    expect(loaded).toBeLessThanOrEqual(SIZE_BUDGET);
    expect(later.length).toBeGreaterThanOrEqual(2);
    for (const { name, size } of later)
      expect(size, name).toBeLessThanOrEqual(ENGINE_BUDGET);
  });
});

interface Manifest {
  exports: Record<string, string | Record<string, string>>;
  bin: { lowbit: string };
  scripts: Record<string, string>;
  dependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  peerDependencies: Record<string, string>;
  peerDependenciesMeta: Record<string, { optional: boolean }>;
}

function readManifest(folder: string): Manifest {
  const text = fs.readFileSync(path.join(folder, "package.json"), "utf8");
  return JSON.parse(text) as Manifest;
}

function node(script: string): void {
  execFileSync(process.execPath, [path.join(root, script)], {
    cwd: root,
    stdio: "inherit",
  });
}

/** The pinned Node, and the one that npm itself runs on, where it is another. */
function nodes(): string[] {
  const { npm_node_execpath: npmNode } = process.env;
  return [...new Set([process.execPath, npmNode ?? process.execPath])];
}

/** Packs the repository; gives the tarball's path. */
function pack(folder: string): string {
  const { npm_execpath: npm } = process.env;
  const args = ["pack", "--json", "--ignore-scripts"];
  const [command, ...before] = npm ? [process.execPath, npm] : ["npm"];
  const json = execFileSync(
    command!,
    [...before, ...args, "--pack-destination", folder],
    { cwd: root, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
  );
  const [{ filename }] = JSON.parse(json) as [{ filename: string }];
  return path.join(folder, filename);
}

function write(file: string, text: string): void {
  fs.writeFileSync(path.join(consumer, file), text);
}

/** Gives the consumer a peer, from our own node_modules. */
function linkPeer(name: string): void {
  const link = path.join(consumer, "node_modules", name);
  if (fs.existsSync(link)) return;
  fs.mkdirSync(path.dirname(link), { recursive: true });
  fs.symlinkSync(path.join(root, "node_modules", name), link, "junction");
}

function allFiles(folder: string): string[] {
  return fs
    .readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) =>
      path.relative(folder, path.join(entry.parentPath, entry.name)),
    );
}

function distFiles(): { file: string; code: string }[] {
  const dist = path.join(unpacked, "dist");
  return allFiles(dist)
    .filter((file) => file.endsWith(".js"))
    .map((file) => ({
      file,
      code: fs.readFileSync(path.join(dist, file), "utf8"),
    }));
}

interface Sizes {
  /** Bytes gzipped that the page loads for the import itself. */
  loaded: number;
  /** What the import leaves in the page's own file. */
  text: string;
  /** What it loads when an engine is first used. */
  later: { name: string; size: number }[];
}

/** Gzipped sizes of a bundle whose dynamic imports are files of their own. */
async function split(code: string): Promise<Sizes> {
  const { outputFiles, metafile } = await esbuild.build({
    stdin: { contents: code, resolveDir: consumer },
    bundle: true,
    minify: true,
    splitting: true,
    format: "esm",
    write: false,
    metafile: true,
    absWorkingDir: consumer,
    outdir: consumer,
    external: ["node:*", ...Object.keys(source.peerDependencies)],
    logLevel: "silent",
  });
  const sizes = new Map(
    outputFiles.map(({ path: file, contents }) => [
      path.relative(consumer, file),
      gzipSync(contents, { level: 9 }).length,
    ]),
  );
  const first = new Set<string>();
  const visit = (file: string) => {
    if (first.has(file)) return;
    first.add(file);
    for (const { path: next, kind } of metafile.outputs[file]!.imports)
      if (kind === "import-statement") visit(next);
  };
  visit("stdin.js");
  let loaded = 0;
  const { text } = outputFiles.find(({ path: file }) =>
    file.endsWith("stdin.js"),
  )!;
  const later: Sizes["later"] = [];
  for (const [file, size] of sizes) {
    const { entryPoint } = metafile.outputs[file]!;
    if (first.has(file)) loaded += size;
    else if (entryPoint) {
      const name = /engines\/(\w+)/.exec(entryPoint)?.[1] ?? entryPoint;
      later.push({ name, size });
    }
  }
  return { loaded, text, later };
}
