/**
 * `npm run bench`: measures on this machine and prints tables of ratios.
 *
 *   --size 24      log2 of the number of parameters; for jax also the number: 1e7
 *   --rounds 12    interleaved rounds
 *   --only NAME    kernels, hosts, jax (wasm), jax-webgpu, tfjs (cpu, wasm;
 *                  10^7 parameters unless --size is given) or tfjs-webgpu
 */
import { parseArgs } from "node:util";
import { benchHosts } from "./hosts.ts";
import { benchJax } from "./jax.ts";
import { benchKernels } from "./kernels.ts";
import { benchTfjs } from "./tfjs.ts";

const parts = ["kernels", "hosts", "jax", "jax-webgpu", "tfjs", "tfjs-webgpu"];

/** Ends with one sentence about what cannot be. */
function refuse(sentence: string): never {
  console.error(`bench: ${sentence}`);
  process.exit(2);
}

function parse() {
  try {
    return parseArgs({
      options: {
        size: { type: "string" },
        rounds: { type: "string", default: "12" },
        only: { type: "string" },
      },
    }).values;
  } catch (error) {
    return refuse((error as Error).message.split(". To specify")[0]!);
  }
}

const values = parse();
const size = Number(values.size ?? 24);
const jaxSize = size > 40 ? size : 2 ** size;
const rounds = Number(values.rounds);
if (!(size >= 10 && size <= 30))
  refuse(`--size is a power of two from 10 to 30, given '${values.size}'`);
if (!Number.isInteger(rounds) || rounds < 1)
  refuse(`--rounds is a whole number from 1, given '${values.rounds}'`);
if (values.only !== undefined && !parts.includes(values.only))
  refuse(`--only is one of ${parts.join(", ")}, given '${values.only}'`);
if (values.only === undefined || values.only === "kernels")
  await benchKernels(size, rounds);
if (values.only === undefined || values.only === "hosts")
  await benchHosts(size, Math.min(rounds, 5));
if (values.only === undefined || values.only === "jax")
  await benchJax("wasm", jaxSize, rounds);
// By name alone: it needs the package webgpu and a GPU.
if (values.only === "jax-webgpu") await benchJax("webgpu", jaxSize, rounds);
const tfjsSize =
  values.size === undefined ? 1e7 : 10 * Math.floor(2 ** size / 10);
if (values.only === undefined || values.only === "tfjs")
  for (const backend of ["cpu", "wasm"] as const)
    await benchTfjs(backend, tfjsSize, Math.min(rounds, 5));
if (values.only === "tfjs-webgpu")
  await benchTfjs("webgpu", tfjsSize, Math.min(rounds, 5));
// Workers and hosts may keep handles; the tables are printed.
process.exit(0);
