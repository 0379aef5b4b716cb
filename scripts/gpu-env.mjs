// Finds a way to run WebGPU without a GPU: in Node (Dawn, npm `webgpu`) and in
// a real headless browser. A candidate counts only once a child process has
// used it, since a driver that exists may still be missing a library, hang, or
// crash natively. What was found is kept for `npx vitest`, which does not probe.
//
//   node scripts/gpu-env.mjs     prints what this machine has

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { browserCandidates, driverDirectory } from "./gpu/browsers.mjs";
import { npmChromium } from "./gpu/npm-chromium.mjs";

const ROOT = path.resolve(import.meta.dirname, "..");
const SETTINGS_FILE = path.join(ROOT, "node_modules/.cache/lowbit/gpu.json");

/**
 * The first lets a page have the software adapter at all. With the other three
 * a WebGPU canvas works too; without them it takes the GPU process down.
 */
export const CHROME_ARGS = [
  "--enable-unsafe-webgpu",
  "--enable-features=Vulkan",
  "--use-vulkan=swiftshader",
  "--use-angle=swiftshader",
];

/**
 * @typedef {object} Half What is known about WebGPU in one of the two places.
 * @property {boolean} ok
 * @property {string} [adapter] the adapter's own name
 * @property {Record<string, string>} [env] what the process needs in its environment
 * @property {string} [exe] the browser's executable
 * @property {string[]} tried each candidate that failed, with the reason
 *
 * @typedef {{ node: Half, browser: Half }} GpuSettings
 */

/** Probes this machine and keeps the answer. @returns {Promise<GpuSettings>} */
export async function detectGpu(log = (/** @type {string} */ _line) => {}) {
  const browsers = [...browserCandidates()];
  // A browser the user named is the one to use, working or not.
  if (!browsers.some((b) => b.named)) {
    const chromium = await npmChromium(ROOT);
    if (chromium) browsers.push(chromium);
  }
  const settings = {
    browser: probeBrowsers(browsers, log),
    node: probeDrivers(browsers, log),
  };
  fs.mkdirSync(path.dirname(SETTINGS_FILE), { recursive: true });
  fs.writeFileSync(SETTINGS_FILE, JSON.stringify(settings, null, 2));
  return settings;
}

/** What the test runner found in this run, or else the last probe found. */
export function readGpuSettings() {
  const json = process.env.LOWBIT_GPU ?? readIfThere(SETTINGS_FILE);
  if (json) return /** @type {GpuSettings} */ (JSON.parse(json));
  return noGpu("this machine was not probed yet: run `npm test` once");
}

/** @returns {GpuSettings} */
export function noGpu(/** @type {string} */ why) {
  const none = { ok: false, tried: [why] };
  return { node: none, browser: none };
}

export function installAdvice() {
  const { platform, arch } = process;
  const ways = {
    linux:
      arch === "x64"
        ? "`npm ci` brings a Chromium for Linux x64; is node_modules complete?"
        : "Debian: apt-get install chromium-headless-shell libvulkan1 fonts-liberation",
    darwin: "Install Google Chrome, or: npx playwright install chromium",
    win32: "Install Google Chrome or Edge, or: npx playwright install chromium",
  };
  const way = /** @type {Record<string, string>} */ (ways)[platform];
  return [
    `To test WebGPU and the browser here (${platform} ${arch}):`,
    `  ${way ?? "npx playwright install chromium"}`,
    "  or name a browser: CHROME_PATH=/path/to/chrome npm test",
    "GPU_TESTS=off leaves them out knowingly.",
  ].join("\n");
}

/** @returns {Half} */
function probeBrowsers(
  /** @type {import("./gpu/browsers.mjs").Browser[]} */ browsers,
  /** @type {(line: string) => void} */ log,
) {
  const tried = [];
  for (const { exe, env } of browsers) {
    const job = JSON.stringify({ exe, env, args: CHROME_ARGS });
    const found = probe("probe-browser.mjs", { PROBE_BROWSER: job });
    if (found.ok) {
      log(`browser: ${found.adapter} (${exe})`);
      return { ok: true, adapter: found.adapter, exe, env, tried };
    }
    tried.push(`browser ${exe}: ${found.why}`);
  }
  if (browsers.length === 0) tried.push("browser: none was found");
  return { ok: false, tried };
}

/** @returns {Half} */
function probeDrivers(
  /** @type {import("./gpu/browsers.mjs").Browser[]} */ browsers,
  /** @type {(line: string) => void} */ log,
) {
  const tried = [];
  for (const { name, env } of driverCandidates(browsers)) {
    const found = probe("probe-node.mjs", env);
    if (found.ok) {
      log(`node: ${found.adapter} (with ${name})`);
      return { ok: true, adapter: found.adapter, env, tried };
    }
    tried.push(`node with ${name}: ${found.why}`);
  }
  return { ok: false, tried };
}

/**
 * A real driver first, then the software driver (SwiftShader) that lies beside
 * each Chromium, then the same with that folder's own Vulkan loader.
 */
function* driverCandidates(
  /** @type {import("./gpu/browsers.mjs").Browser[]} */ browsers,
) {
  /** @type {Record<string, string>} */
  const base = {};
  // Mesa complains on stderr where this is missing, and uses it for nothing.
  if (process.platform === "linux")
    base.XDG_RUNTIME_DIR = process.env.XDG_RUNTIME_DIR ?? os.tmpdir();
  yield { name: "the system's driver", env: base };

  const dirs = browsers
    .map((b) => driverDirectory(b.exe))
    .filter((d) => d !== undefined);
  for (const dir of new Set(dirs)) {
    const icd = path.join(dir, "vk_swiftshader_icd.json");
    // The loader's old and new name for the same variable.
    const env = { ...base, VK_DRIVER_FILES: icd, VK_ICD_FILENAMES: icd };
    yield { name: `SwiftShader of ${dir}`, env };
    const libraries = [dir, process.env.LD_LIBRARY_PATH].filter(Boolean);
    yield {
      name: `SwiftShader and Vulkan loader of ${dir}`,
      env: { ...env, LD_LIBRARY_PATH: libraries.join(":") },
    };
  }
}

/**
 * Runs a probe in a process of its own; it prints one line of JSON.
 * @returns {{ ok: boolean, adapter?: string, why?: string }}
 */
function probe(
  /** @type {string} */ file,
  /** @type {Record<string, string>} */ env,
) {
  const run = spawnSync(
    process.execPath,
    [path.join(import.meta.dirname, "gpu", file)],
    {
      cwd: ROOT,
      env: { ...process.env, ...env },
      encoding: "utf8",
      timeout: 45_000,
      killSignal: "SIGKILL",
    },
  );
  const answer = run.stdout.split("\n").find((line) => line.startsWith("{"));
  if (answer) {
    const found = JSON.parse(answer);
    const warning = run.stderr.match(/^Warning: (.*)$/m)?.[1];
    if (!found.ok && warning) found.why += ` (${warning.slice(0, 160)})`;
    return found;
  }
  if (run.signal) return { ok: false, why: `ended by ${run.signal}` };
  const lastWords = run.stderr.trim().split("\n").slice(-3).join(" | ");
  return { ok: false, why: lastWords || `exit status ${run.status}` };
}

function readIfThere(/** @type {string} */ file) {
  return fs.existsSync(file) ? fs.readFileSync(file, "utf8") : undefined;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { node, browser } = await detectGpu(console.log);
  if (!node.ok || !browser.ok) {
    console.error([...browser.tried, ...node.tried].join("\n"));
    console.error(installAdvice());
    process.exitCode = 1;
  }
}
