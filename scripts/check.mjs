// npm run check: types, lint, format and import direction, side by side.

import { spawn } from "node:child_process";
import path from "node:path";
import { performance } from "node:perf_hooks";

const root = path.resolve(import.meta.dirname, "..");

/** @type {[name: string, script: string, ...args: string[]][]} */
const checks = [
  ["types", "node_modules/typescript/bin/tsc", "--noEmit", "--pretty"],
  ["lint", "node_modules/eslint/bin/eslint.js", ".", "--color"],
  ["format", "node_modules/prettier/bin/prettier.cjs", "--check", "."],
  ["imports", "scripts/imports.mjs"],
];

const results = await Promise.all(checks.map(run));
if (results.includes(false)) process.exitCode = 1;

/** @returns {Promise<boolean>} */
function run(/** @type {(typeof checks)[number]} */ [name, script, ...args]) {
  const start = performance.now();
  const child = spawn(process.execPath, [path.join(root, script), ...args], {
    cwd: root,
  });
  let output = "";
  child.stdout.on("data", (text) => (output += text));
  child.stderr.on("data", (text) => (output += text));
  return new Promise((resolve) => {
    child.on("close", (status) => {
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      const ok = status === 0;
      console.log(`check ${name}: ${ok ? "ok" : "FAILED"} (${seconds} s)`);
      // A passed check has nothing to say that we need to read.
      if (!ok) console.log(output);
      if (!ok && name === "format") console.log("Fix it with: npm run format");
      resolve(ok);
    });
  });
}
