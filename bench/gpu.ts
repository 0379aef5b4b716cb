/**
 * npm run bench:gpu: the WebGPU engine against the device's own copy bandwidth.
 *
 * Every case prints GPU milliseconds of a step (timestamps around its pass),
 * wall milliseconds of steps in a row, ms for 10^9 parameters, GB/s of the
 * bytes that must move, and the fraction of copy: how long the same number of
 * bytes takes a plain copy kernel, measured in the same run.
 *
 *   node bench/gpu.ts --log 24 --only list --tuning '{"tiles":4}'
 */
import { parseArgs } from "node:util";
import {
  adafactor32bit,
  adamw,
  adamw32bit,
  adamw4bit,
  adamw4bitRank1,
  adamw8bit,
  createOptimizer,
  factor4bit,
  lamb8bit,
  lion8bit,
  optimizers,
  sgd8bit,
  type Parameter,
  type Recipe,
} from "lowbit";
import { webgpu, type WebGPUOptions } from "lowbit/webgpu";
import { median, normals, openTimedDevice } from "./gpu/device.ts";
import { gpt2Medium } from "./gpu/gpt2-medium.ts";

const { values: options } = parseArgs({
  options: {
    /** Binary logarithm of the single tensor's size. */
    log: { type: "string", default: "28" },
    steps: { type: "string", default: "12" },
    only: { type: "string", default: "" },
    tuning: { type: "string", default: "{}" },
    toggles: { type: "string", default: "" },
    skip: { type: "string", default: "element" },
  },
});
const size = 2 ** Number(options.log);
const steps = Number(options.steps);
const tunings: WebGPUOptions[] = [JSON.parse(options.tuning)].flat();
const timed = await openTimedDevice(options.toggles.split(" ").filter(Boolean));
const { device, adapter } = timed;
const { info } = adapter;
console.log(
  `${info.vendor} ${info.description}, subgroups ${info.subgroupMinSize}..${info.subgroupMaxSize}, ${device.limits.maxStorageBuffersPerShaderStage} storage buffers`,
);

const bytesPerMs = await copyBandwidth();
console.log(`copy: ${(bytesPerMs / 1e6).toFixed(0)} GB/s`);

const one = new Map([["w", [size]]]);
const root = 2 ** Math.floor(Number(options.log) / 2);
const matrix = new Map([["w", [root, size / root]]]);
/** Bytes an element that the passes before the update read again, beside states. */
const again = new Map<string, { floats: number; state: (m: number) => number }>(
  [
    // The norms of p and of the update that m and v give.
    ["lamb 8-bit", { floats: 2, state: (bytes) => bytes }],
    // Of squares; p for its own size and u for its clipping, in two passes.
    ["adafactor 32-bit", { floats: 3, state: () => 0 }],
    ["factor 4-bit", { floats: 1, state: () => 0 }],
    // The codes of v, half of the states.
    ["adamw 4-bit, rank-1 v", { floats: 1, state: (bytes) => bytes / 2 }],
  ],
);
type Type = "float32" | "bfloat16";
const cases: [string, Recipe, Map<string, number[]>, Type][] = [
  ["adamw 8-bit", adamw8bit(), one, "float32"],
  ["adamw 4-bit", adamw4bit(), one, "float32"],
  ["adamw 32-bit", adamw32bit(), one, "float32"],
  ["sgd 8-bit", sgd8bit(), one, "float32"],
  ["lion 8-bit", lion8bit(), one, "float32"],
  ["adamw 8-bit, bfloat16", adamw8bit(), one, "bfloat16"],
  ["adamw 4-bit, bfloat16", adamw4bit(), one, "bfloat16"],
  [
    "adamw 8-bit, one scale a tensor",
    adamw({ state: { m: { scale: "tensor" }, v: { scale: "tensor" } } }),
    one,
    "float32",
  ],
  ["lamb 8-bit", lamb8bit(), matrix, "float32"],
  ["adafactor 32-bit", adafactor32bit(), matrix, "float32"],
  ["factor 4-bit", factor4bit(), matrix, "float32"],
  ["adamw 4-bit, rank-1 v", adamw4bitRank1(), matrix, "float32"],
  ["adamw 8-bit, GPT-2 medium list", adamw8bit(), gpt2Medium(), "float32"],
  ["adamw 4-bit, GPT-2 medium list", adamw4bit(), gpt2Medium(), "float32"],
  ["adamw 32-bit, GPT-2 medium list", adamw32bit(), gpt2Medium(), "float32"],
  [
    "adafactor 32-bit, GPT-2 medium list",
    adafactor32bit(),
    gpt2Medium(),
    "float32",
  ],
];
// The same with all parameters in one buffer, and all gradients in another.
for (const [name, recipe, shapes, type] of cases.filter(([name]) =>
  name.endsWith("-bit, GPT-2 medium list"),
))
  cases.push([`${name}, flat`, recipe, shapes, type]);
// Every 8-bit recipe there is, on a matrix. What passes before the update read
// again is not counted here: the fraction of copy is a lower bound.
for (const [name, recipe] of optimizers())
  if (name.endsWith("8bit"))
    cases.push([`${name}, of the registry`, recipe(), matrix, "float32"]);

for (const tuning of tunings)
  for (const [name, recipe, shapes, type] of cases)
    if (new RegExp(options.only).test(name))
      await measure(name, recipe, shapes, type, tuning);
process.exit(0);

async function measure(
  name: string,
  recipe: Recipe,
  shapes: Map<string, number[]>,
  type: Type,
  tuning: WebGPUOptions,
): Promise<void> {
  const parameters: Record<string, Parameter> = {};
  const gradients: Record<string, unknown> = {};
  const buffers: GPUBuffer[] = [];
  const lengthOf = (shape: number[]) => shape.reduce((a, b) => a * b, 1);
  const make = (length: number) => {
    const p = normals(device, length, type, 0.02);
    const g = normals(device, length, type, 0.01);
    buffers.push(p, g);
    return { p, g };
  };
  const total = [...shapes.values()].reduce((sum, s) => sum + lengthOf(s), 0);
  const flat = name.endsWith("flat") ? make(total) : undefined;
  let offset = 0;
  for (const [key, shape] of shapes) {
    const { p, g } = flat ?? make(lengthOf(shape));
    parameters[key] = { data: { buffer: p, offset, type }, shape };
    gradients[key] = { buffer: g, offset, type };
    if (flat) offset += (type === "float32" ? 4 : 2) * lengthOf(shape);
  }
  await device.queue.onSubmittedWorkDone();
  const created = performance.now();
  const optimizer = await createOptimizer(recipe, parameters, {
    device: webgpu(device, tuning),
    skipNonFinite: options.skip as "element",
  });
  const started = performance.now();
  await optimizer.step(gradients);
  await device.queue.onSubmittedWorkDone();
  const first = performance.now() - started;
  await warmUp(() => optimizer.step(gradients));
  for (let i = 0; i < steps; i++) await optimizer.step(gradients);
  const gpu = median(await timed.passes());
  timed.timing = false;
  const from = performance.now();
  for (let i = 0; i < 4 * steps; i++) await optimizer.step(gradients);
  const encoded = (performance.now() - from) / (4 * steps);
  await device.queue.onSubmittedWorkDone();
  const wall = (performance.now() - from) / (4 * steps);
  timed.timing = true;
  const { parameters: count, stateBytes } = optimizer.memory();
  const { floats, state } = again.get(name.replace(/, GPT.*$/, "")) ?? {
    floats: 0,
    state: () => 0,
  };
  const each = type === "float32" ? 4 : 2;
  const bytes =
    (3 + floats) * each * count + 2 * stateBytes + state(stateBytes);
  const shown = Object.keys(tuning).length ? ` ${JSON.stringify(tuning)}` : "";
  console.log(
    `${(name + shown).padEnd(34)} ${gpu.toFixed(3)} ms GPU = ${((gpu * 1e9) / count).toFixed(2)} ms/1e9, ${(bytes / gpu / 1e6).toFixed(0)} GB/s, ${((100 * bytes) / bytesPerMs / gpu).toFixed(1)} % of copy; wall ${wall.toFixed(3)} ms (CPU ${encoded.toFixed(3)}); created in ${(started - created).toFixed(0)} ms, first step ${first.toFixed(0)} ms`,
  );
  optimizer.dispose();
  for (const buffer of buffers) buffer.destroy();
  await device.queue.onSubmittedWorkDone();
}

/** A GPU that stood idle is slow at first: it gets half a second to reach its clocks. */
async function warmUp(work: () => Promise<void> | void): Promise<void> {
  timed.timing = false;
  for (const from = performance.now(); performance.now() < from + 500;) {
    for (let i = 0; i < 20; i++) await work();
    await device.queue.onSubmittedWorkDone();
  }
  timed.timing = true;
  await timed.passes();
}

/** Bytes read and written in a millisecond by the best of three copy kernels. */
async function copyBandwidth(): Promise<number> {
  const from = normals(device, size, "float32", 1);
  const to = normals(device, size, "float32", 1);
  const rates: number[] = [];
  for (const each of [1, 2, 4]) {
    const pipeline = await device.createComputePipelineAsync({
      layout: "auto",
      compute: {
        module: device.createShaderModule({
          code: `
@group(0) @binding(0) var<storage, read> source: array<vec4f, ${size / 4}>;
@group(0) @binding(1) var<storage, read_write> copy: array<vec4f, ${size / 4}>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) i: u32) {
  let first = (group.x + group.y * groups.x) * ${256 * each}u + i;
  ${Array.from({ length: each }, (_, k) => `copy[first + ${256 * k}u] = source[first + ${256 * k}u];`).join(" ")}
}`,
        }),
      },
    });
    const bindGroup = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [from, to].map((buffer, binding) => ({
        binding,
        resource: { buffer },
      })),
    });
    const run = () => {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindGroup);
      const groups = size / 4 / 256 / each;
      const columns = Math.min(groups, 32768);
      pass.dispatchWorkgroups(columns, groups / columns);
      pass.end();
      device.queue.submit([encoder.finish()]);
    };
    await warmUp(run);
    for (let i = 0; i < 12; i++) run();
    rates.push((8 * size) / median(await timed.passes()));
  }
  from.destroy();
  to.destroy();
  return Math.max(...rates);
}
