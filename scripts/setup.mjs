// The first step of npm's commands: installs what is missing; with `--built`,
// builds when nothing has been built. It runs before anything is installed,
// under whatever Node npm itself runs on (20 or newer), so it is plain
// JavaScript without dependencies. What it says goes to stderr: stdout is the
// command's, which may print JSON.

import { execSync, spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const OLDEST_NODE = "22.18"; // the first that runs TypeScript as it is
const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");

if (!isInstalled()) install();
checkNode();
if (process.argv.includes("--built") && !isBuilt()) build();

/** Whether node_modules holds what package-lock.json asks for. */
function isInstalled() {
  // npm's own record of what it put into node_modules. We compare contents, as
  // the files' dates say nothing after a `git checkout`.
  const record = path.join(root, "node_modules/.package-lock.json");
  if (!fs.existsSync(record)) return false;
  const installed = readPackages(record);
  const wanted = readPackages(path.join(root, "package-lock.json"));
  return Object.entries(wanted).every(
    ([place, { version, optional, link }]) =>
      !place.startsWith("node_modules/") || // the workspaces themselves
      link ||
      (optional && !installed[place]) || // for another platform
      installed[place]?.version === version,
  );
}

function readPackages(/** @type {string} */ lockfile) {
  return JSON.parse(fs.readFileSync(lockfile, "utf8")).packages;
}

function install() {
  console.error("Installing what is missing (npm ci) ...");
  // All kinds by name, as NODE_ENV=production would leave some out.
  npm("ci", "--include=dev", "--include=optional");
}

function isBuilt() {
  return fs.existsSync(path.join(root, "dist/cli/main.js"));
}

function build() {
  console.error("Building, once (npm run build) ...");
  npm("run", "--silent", "build:run");
}

function npm(/** @type {string[]} */ ...args) {
  const { npm_execpath: script, npm_node_execpath: node } = process.env;
  /** @type {import("node:child_process").SpawnSyncOptions} */
  const options = { cwd: root, stdio: ["inherit", 2, 2] };
  const result = script
    ? // With npm's own Node: `npm ci` deletes the one in node_modules.
      spawnSync(node ?? process.execPath, [script, ...args], options)
    : spawnSync(`npm ${args.join(" ")}`, { ...options, shell: true });
  if (result.status === 0) return;
  console.error(`setup: \`npm ${args[0]}\` failed; its messages are above.`);
  process.exit(1);
}

/** The next steps run under the first `node` on the path: is it new enough? */
function checkNode() {
  const pinned = path.join(root, "node_modules/.bin");
  const PATH = [pinned, process.env.PATH].join(path.delimiter);
  // Through a shell, as npm does it: on Windows the pinned one is a .cmd file.
  const version = execSync("node -p process.versions.node", {
    env: { ...process.env, PATH },
    encoding: "utf8",
  }).trim();
  const [major, minor] = version.split(".").map(Number);
  const [oldestMajor, oldestMinor] = OLDEST_NODE.split(".").map(Number);
  if (major > oldestMajor || (major === oldestMajor && minor >= oldestMinor))
    return;
  console.error(
    `setup: Node ${OLDEST_NODE} or newer is needed to develop lowbit, and this is ${version}.\n` +
      `npm brings a Node 24 on Linux and on Windows x64; here (${process.platform} ${process.arch}) it brought none.\n` +
      "Install Node 24 from https://nodejs.org and run this again.",
  );
  process.exit(1);
}
