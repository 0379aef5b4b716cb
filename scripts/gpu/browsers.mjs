// Where a Chromium may be on this machine, likeliest first.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";

/**
 * @typedef {object} Browser
 * @property {string} exe
 * @property {Record<string, string>} [env]
 * @property {boolean} [named] the user chose it in a variable
 */

const NAMED_IN = ["CHROME_PATH", "CHROME_BIN", "PUPPETEER_EXECUTABLE_PATH"];

const LINUX_COMMANDS = [
  "google-chrome-stable",
  "google-chrome",
  "chromium-headless-shell",
  "chromium",
  "chromium-browser",
  "microsoft-edge-stable",
  "microsoft-edge",
];

const WINDOWS_PATHS = [
  "Google\\Chrome\\Application\\chrome.exe",
  "Microsoft\\Edge\\Application\\msedge.exe",
];

/** @returns {Generator<Browser>} */
export function* browserCandidates() {
  for (const variable of NAMED_IN) {
    const exe = process.env[variable];
    if (exe) {
      yield { exe, named: true };
      return;
    }
  }
  for (const exe of systemPlaces()) if (isFile(exe)) yield { exe };
  for (const exe of downloadedBrowsers()) yield { exe };
}

function* systemPlaces() {
  const { env, platform } = process;
  if (platform === "linux") {
    for (const command of LINUX_COMMANDS) {
      const folders = (env.PATH ?? "").split(path.delimiter);
      const exe = folders.map((d) => path.join(d, command)).find(isFile);
      if (exe && !isSnap(exe)) yield exe;
    }
  } else if (platform === "darwin") {
    for (const app of ["Google Chrome", "Chromium", "Microsoft Edge"])
      yield `/Applications/${app}.app/Contents/MacOS/${app}`;
  } else if (platform === "win32") {
    const { ProgramFiles, LOCALAPPDATA } = env;
    for (const root of [ProgramFiles, env["ProgramFiles(x86)"], LOCALAPPDATA])
      for (const file of WINDOWS_PATHS) if (root) yield path.join(root, file);
  }
}

/** What `playwright install` and puppeteer left in their caches. */
function* downloadedBrowsers() {
  const home = os.homedir();
  const { env } = process;
  const playwright = {
    darwin: path.join(home, "Library/Caches/ms-playwright"),
    win32: path.join(env.LOCALAPPDATA ?? home, "ms-playwright"),
    linux: path.join(env.XDG_CACHE_HOME ?? `${home}/.cache`, "ms-playwright"),
  };
  const folders = [
    env.PLAYWRIGHT_BROWSERS_PATH,
    /** @type {Record<string, string>} */ (playwright)[process.platform],
    env.PUPPETEER_CACHE_DIR ?? path.join(home, ".cache/puppeteer"),
  ];
  const executable =
    /(^|[\\/])((chrome|headless_shell|chrome-headless-shell)(\.exe)?|MacOS[\\/](Chromium|Google Chrome for Testing))$/;
  for (const folder of folders) {
    if (!folder || !fs.existsSync(folder)) continue;
    const files = fs.readdirSync(folder, { recursive: true }).map(String);
    // Newest version first: the folders end in their version.
    for (const file of files
      .filter((f) => executable.test(f))
      .sort()
      .reverse())
      if (isFile(path.join(folder, file))) yield path.join(folder, file);
  }
}

/**
 * The folder with SwiftShader's Vulkan manifest, which lies beside the real
 * binary. The executable may be a link or, as Debian's, a shell script that
 * names the folder.
 * @returns {string | undefined}
 */
export function driverDirectory(/** @type {string} */ exe) {
  if (!isFile(exe)) return undefined;
  const folders = [path.dirname(exe), path.dirname(fs.realpathSync(exe))];
  if (isScript(exe)) {
    const named = readText(exe).matchAll(/\/(?:usr\/lib|opt)\/[\w./-]+/g);
    for (const [found] of named) folders.push(found, path.dirname(found));
    folders.push("/usr/lib/chromium");
  }
  return folders.find((d) => isFile(path.join(d, "vk_swiftshader_icd.json")));
}

/** Ubuntu's `chromium` is a stub for a snap, which cannot be driven from here. */
function isSnap(/** @type {string} */ exe) {
  if (fs.realpathSync(exe).includes("/snap")) return true;
  return isScript(exe) && /\/snap\/|snap install/.test(readText(exe));
}

function isScript(/** @type {string} */ exe) {
  return fs.statSync(exe).size < 65_536;
}

function readText(/** @type {string} */ file) {
  return fs.readFileSync(file, "latin1");
}

function isFile(/** @type {string} */ file) {
  return fs.statSync(file, { throwIfNoEntry: false })?.isFile() ?? false;
}
