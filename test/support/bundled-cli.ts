/**
 * The command line in one file, which starts in half the time: for tests that
 * start it a hundred times.
 */
import fs from "node:fs";
import path from "node:path";
import * as esbuild from "esbuild";

const root = path.resolve(import.meta.dirname, "../..");

/** @returns the file to run with Node; `folder` is to be removed when done. */
export async function bundleCli(folder: string): Promise<string> {
  const modules = path.join(folder, "node_modules");
  fs.mkdirSync(modules, { recursive: true });
  for (const [name, target] of [
    ["lowbit", root],
    ["@jax-js", path.join(root, "node_modules/@jax-js")],
    ["typescript", path.join(root, "node_modules/typescript")],
  ] as const)
    fs.symlinkSync(target, path.join(modules, name), "junction");
  await esbuild.build({
    entryPoints: [path.join(root, "cli/main.ts")],
    bundle: true,
    splitting: true,
    platform: "node",
    format: "esm",
    outdir: folder,
    outExtension: { ".js": ".mjs" },
    conditions: ["lowbit-source"],
    external: ["@jax-js/jax", "webgpu"],
    logLevel: "error",
  });
  return path.join(folder, "main.mjs");
}
