// Checks who imports whom. A folder in src/ is a room; a file right in src/ is
// a door, which is all that a user sees. From left to right, each may import
// only what stands further right (an import of types counts too):
//
//   cli web examples bench test -> doors -> train, interchange -> hosts -> nn, plan
//     -> core -> io -> engines -> optimizers -> formats, formula

import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const LEVELS = [
  ["train", "interchange"],
  ["hosts"],
  ["nn", "plan"],
  ["core"],
  ["io"],
  ["engines"],
  ["optimizers"],
  ["formats", "formula"],
];

/** Rooms whose folders stand apart; they share the files beside them. */
const APART = ["engines", "hosts"];

const OUTSIDE = ["cli", "web", "examples", "bench", "test"];

/** The packages src/ may import, and where. */
const PACKAGES = [
  { name: /^@jax-js\//, only: ["src/hosts/jax/", "src/train/"] },
  { name: /^@tensorflow\//, only: ["src/hosts/tfjs/"] },
  { name: /^node:/, only: ["src/"] },
  { name: /^webgpu$/, only: ["src/"] },
];

/**
 * What is wrong with this import, or undefined.
 * @param {string} from the importing file, as src/engines/wasm/run.ts
 * @param {string} specifier as written in the file
 */
export function importFault(from, specifier) {
  const inside = from.startsWith("src/");
  // A test beside its file may reach for anything in the rooms.
  const isTest = inside && /\.test\.ts$/.test(from);
  if (/^lowbit(\/|$)/.test(specifier))
    return inside && !isTest ? "nothing in src/ imports a door" : undefined;
  if (!specifier.startsWith("."))
    return inside && !isTest ? packageFault(from, specifier) : undefined;

  const to = path.posix.join(path.posix.dirname(from), specifier);
  if (!/\.(ts|mjs|js|json)$/.test(to))
    return "write the file's extension, as in './adamw.ts'";
  if (!inside) return outsideFault(from, to);
  if (isTest) return undefined;
  if (!to.startsWith("src/")) return `src/ imports nothing outside of it`;
  return roomFault(from, to);
}

function packageFault(
  /** @type {string} */ from,
  /** @type {string} */ specifier,
) {
  const rule = PACKAGES.find(({ name }) => name.test(specifier));
  if (!rule) return `src/ has no dependencies, and this is a package`;
  if (rule.only.some((folder) => from.startsWith(folder))) return undefined;
  return `only ${rule.only.join(" and ")} may import this package`;
}

function outsideFault(/** @type {string} */ from, /** @type {string} */ to) {
  const [here] = from.split("/");
  const [there, ...rest] = to.split("/");
  if (there === "src")
    return rest.length === 1
      ? undefined
      : "come in by a door: import from 'lowbit', 'lowbit/webgpu', ...";
  if (there === here || !OUTSIDE.includes(there)) return undefined;
  if (to.startsWith("test/support/")) return undefined;
  // Tests try out everything.
  return here === "test" ? undefined : `${here}/ does not import ${there}/`;
}

function roomFault(/** @type {string} */ from, /** @type {string} */ to) {
  const [room, ...inRoom] = roomPath(from);
  const [target, ...inTarget] = roomPath(to);
  if (target === undefined) return "nothing in src/ imports a door";
  if (room === undefined) return undefined; // a door opens any room
  for (const name of [room, target])
    if (level(name) < 0)
      return `src/${name}/ has no place in the order: add it to LEVELS in scripts/imports.mjs`;
  if (room === target) {
    const apart = inRoom.length > 1 && inTarget.length > 1;
    if (APART.includes(room) && apart && inRoom[0] !== inTarget[0])
      return `${room}/${inRoom[0]} and ${room}/${inTarget[0]} share only the files in src/${room}/`;
    return undefined;
  }
  if (level(target) > level(room)) return undefined;
  const right = LEVELS.slice(level(room) + 1).flat();
  return `${room} may import only ${[...right, "itself"].join(", ")}`;
}

/** src/engines/wasm/run.ts -> engines, wasm, run.ts; of a door, nothing. */
function roomPath(/** @type {string} */ file) {
  const parts = file.split("/").slice(1);
  return parts.length > 1 ? parts : [];
}

function level(/** @type {string} */ room) {
  return LEVELS.findIndex((rooms) => rooms.includes(room));
}

/** Every fault in the tree, a line each. */
export function findFaults(/** @type {string} */ root) {
  const faults = [];
  for (const folder of ["src", ...OUTSIDE]) {
    if (!fs.existsSync(path.join(root, folder))) continue;
    const names = fs.readdirSync(path.join(root, folder), { recursive: true });
    for (const name of names.map(String)) {
      if (!name.endsWith(".ts") || name.includes("node_modules")) continue;
      const from = `${folder}/${name.split(path.sep).join("/")}`;
      const text = fs.readFileSync(path.join(root, from), "utf8");
      for (const { fileName } of ts.preProcessFile(text).importedFiles) {
        const fault = importFault(from, fileName);
        if (fault) faults.push(`${from} imports '${fileName}': ${fault}`);
      }
    }
  }
  return faults;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const faults = findFaults(path.resolve(import.meta.dirname, ".."));
  for (const fault of faults) console.error(fault);
  if (faults.length > 0) process.exitCode = 1;
}
