/**
 * `npm run bench`: measures on this machine and prints tables of ratios.
 *
 *   --size 24      log2 of the number of parameters
 *   --rounds 12    interleaved rounds
 *   --only NAME    kernels, hosts, jax (wasm) or jax-webgpu
 */
import { parseArgs } from "node:util";
import { benchHosts } from "./hosts.ts";
import { benchJax } from "./jax.ts";
import { benchKernels } from "./kernels.ts";

const { values } = parseArgs({
  options: {
    size: { type: "string", default: "24" },
    rounds: { type: "string", default: "12" },
    only: { type: "string" },
  },
});
const size = Number(values.size);
const rounds = Number(values.rounds);
if (values.only === undefined || values.only === "kernels")
  await benchKernels(size, rounds);
if (values.only === undefined || values.only === "hosts")
  await benchHosts(size, Math.min(rounds, 5));
if (values.only === undefined || values.only === "jax")
  await benchJax("wasm", size, rounds);
// By name alone: it needs the package webgpu and a GPU.
if (values.only === "jax-webgpu") await benchJax("webgpu", size, rounds);
// Workers and hosts may keep handles; the tables are printed.
process.exit(0);
