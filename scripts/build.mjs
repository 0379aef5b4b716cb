// src/ -> dist/ and cli/ -> dist/cli/, only what changed.

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(import.meta.dirname, "..");

export function build() {
  const tsc = path.join(root, "node_modules/typescript/bin/tsc");
  const run = spawnSync(
    process.execPath,
    [tsc, "--build", "tsconfig.cli.json"],
    { cwd: root, stdio: "inherit" },
  );
  removeLeftovers();
  return run.status === 0;
}

/** tsc never deletes: a file renamed in src/ would stay in dist/, and ship. */
function removeLeftovers() {
  const dist = path.join(root, "dist");
  if (!fs.existsSync(dist)) return;
  for (const name of fs.readdirSync(dist, { recursive: true }).map(String)) {
    const output = name.match(/^(.*?)(\.d\.ts|\.js)(\.map)?$/);
    if (!output) continue;
    const base = output[1].split(path.sep).join("/");
    const source = base.startsWith("cli/") ? `${base}.ts` : `src/${base}.ts`;
    if (!fs.existsSync(path.join(root, source)))
      fs.rmSync(path.join(dist, name));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  process.exitCode = build() ? 0 : 1;
