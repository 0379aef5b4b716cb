// npm test: `npm run check`, then every test in Node and in a browser, then a
// summary whose last line is `tests: N passed, N failed, N skipped`.
//
//   npm test -- test/foo.test.ts     only this file, without the check
//
// GPU_TESTS says what to do where WebGPU or a browser is missing:
//   auto       leave those tests out, loudly (the default)
//   required   fail (the default where CI is set)
//   off        do not look for them

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { build } from "./build.mjs";
import { detectGpu, installAdvice, noGpu } from "./gpu-env.mjs";
import { printSummary } from "./summary.mjs";

const root = path.resolve(import.meta.dirname, "..");
const vitestArgs = process.argv.slice(2);
const everything = vitestArgs.length === 0;

let failed = false;
if (everything) failed = runNode("scripts/check.mjs") !== 0;
// Tests of the command line run what is in dist/.
if (everything || !fs.existsSync(path.join(root, "dist")))
  failed = !build() || failed;

const mode = gpuMode();
const gpu =
  mode === "off"
    ? noGpu("GPU_TESTS=off")
    : await detectGpu((line) => console.log(`gpu: ${line}`));
const notTested = [
  ...(gpu.node.ok ? [] : ["WebGPU in Node"]),
  ...(gpu.browser.ok ? [] : ["the browser (every *.browser and *.both test)"]),
];
printBanner();
const lacking = notTested.length > 0 && mode === "required";

// One of its own for this run, as several may go on at once.
const resultsFile = path.join(
  root,
  `node_modules/.cache/lowbit/results-${process.pid}.json`,
);
fs.mkdirSync(path.dirname(resultsFile), { recursive: true });
const status = runNode(
  "node_modules/vitest/vitest.mjs",
  ["run", "--project=node", ...(gpu.browser.ok ? ["--project=browser"] : [])]
    .concat(["--reporter=default", "--reporter=./scripts/reporter.mjs"])
    .concat(vitestArgs),
  { LOWBIT_GPU: JSON.stringify(gpu), LOWBIT_RESULTS: resultsFile },
);
printBanner();
if (lacking) console.error("GPU_TESTS is 'required', so this is a failure.");
if (failed) console.error("\nThe check or the build failed; see the top.");
const testsPassed = printSummary(resultsFile);
fs.rmSync(resultsFile, { force: true });
process.exitCode = status === 0 && testsPassed && !failed && !lacking ? 0 : 1;

function gpuMode() {
  const mode = process.env.GPU_TESTS ?? (process.env.CI ? "required" : "auto");
  if (["auto", "required", "off"].includes(mode)) return mode;
  console.error(`GPU_TESTS must be auto, required or off, got '${mode}'`);
  process.exit(1);
}

/** Before the run and after it: what is not tested must not go unseen. */
function printBanner() {
  if (notTested.length === 0) return;
  const bar = "!".repeat(72);
  const tried = [...new Set([...gpu.node.tried, ...gpu.browser.tried])];
  console.error(
    [
      `\n${bar}`,
      `!! NOT TESTED: ${notTested.join(" and ")}`,
      ...tried.map((line) => `!!   ${line}`),
      bar,
      mode === "off" ? "" : installAdvice(),
    ].join("\n"),
  );
}

function runNode(
  /** @type {string} */ script,
  /** @type {string[]} */ args = [],
  /** @type {Record<string, string>} */ env = {},
) {
  const run = spawnSync(process.execPath, [path.join(root, script), ...args], {
    cwd: root,
    stdio: "inherit",
    env: { ...process.env, ...env },
  });
  return run.status;
}
