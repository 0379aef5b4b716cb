import { readFile, rename, writeFile } from "node:fs/promises";
import { adamw4bit, adamw8bit, createOptimizer } from "lowbit";

const file = process.argv[2] ?? "adamw.safetensors";
const w = new Float32Array(8192).fill(0.5);
const parameters = { w: { data: w, shape: [64, 128] } };
const optimizer = await createOptimizer(adamw8bit({ lr: 1e-3 }), parameters);
await optimizer.step({ w: w.map((_, i) => Math.sin(i)) });

// One state at a time is in memory. Renamed, it is whole or not there.
await writeFile(`${file}.part`, optimizer.saveStream(), { flush: true });
await rename(`${file}.part`, file);

// In a new process, on any engine: bit for bit the same run.
const resumed = await createOptimizer(adamw8bit({ lr: 1e-3 }), parameters);
await resumed.load(await readFile(file));
console.log("goes on after step", resumed.steps);

// Midway to other formats; the report says what was requantized.
const smaller = await createOptimizer(adamw4bit({ lr: 1e-3 }), parameters);
console.table((await smaller.load(await readFile(file))).requantized);
// Or by way of plain numbers, as other libraries keep them.
await smaller.toLowBit(await resumed.toFloat32());
