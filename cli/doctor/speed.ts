/** How long a step of 8-bit AdamW takes, beside a copy of as many bytes in the same run. */
import { adamw8bit, createOptimizer, type Device } from "lowbit";
import type { EngineName } from "./examine.ts";

export interface Speed {
  readonly recipe: "adamw8bit";
  /** The engine in its own words, with the threads it took. */
  readonly device: string;
  readonly parameters: number;
  /** The fastest of some steps. */
  readonly nsPerParameter: number;
  /** Of the bytes that a step must move: state in and out, p in and out, g in. */
  readonly bytesPerSecond: number;
  /** Of a plain copy, bytes read and written. */
  readonly copyBytesPerSecond: number;
}

const sizes: Readonly<Record<EngineName, number>> = {
  wasm: 2 ** 22,
  webgpu: 2 ** 24,
  reference: 2 ** 16,
};
/** For each of the two that take turns. */
const BUDGET = 1000;

export async function measureSpeed(
  engine: EngineName,
  device: Device,
  software: boolean,
): Promise<Speed> {
  const parameters = software ? 2 ** 20 : sizes[engine];
  const onGpu = typeof device === "object";
  const gpu = onGpu ? (device as GPUDevice) : undefined;
  const optimizer = await createOptimizer(
    adamw8bit(),
    { w: { shape: [parameters] } },
    { device, resident: true },
  );
  try {
    const gradient = optimizer.gradient("w");
    if (gradient instanceof Float32Array) fill(gradient);
    else upload(gpu!, gradient as View, parameters);
    const state = optimizer.memory().bytesPerParameter;
    const moved = 12 + 2 * state;
    const ended = async () => void (await gpu?.queue.onSubmittedWorkDone());
    // A GPU's command queue is deep: several steps to a wait.
    const together = gpu && !software ? 8 : 1;
    const step = async () => {
      for (let i = 0; i < together; i++) await optimizer.step();
      await ended();
    };
    const bytes = 4 * parameters;
    const copy = gpu ? gpuCopy(gpu, bytes, together) : memoryCopy(parameters);
    const [stepTime, copyTime] = await race([step, copy]);
    const seconds = stepTime / 1000 / together;
    return {
      recipe: "adamw8bit",
      device: optimizer.device,
      parameters,
      nsPerParameter: (1e9 * seconds) / parameters,
      bytesPerSecond: (moved * parameters) / seconds,
      copyBytesPerSecond: (2 * bytes) / (copyTime / 1000 / together),
    };
  } finally {
    optimizer.dispose();
  }
}

interface View {
  readonly buffer: GPUBuffer;
  readonly offset: number;
}

function upload(gpu: GPUDevice, { buffer, offset }: View, count: number): void {
  const values = new Float32Array(count);
  fill(values);
  gpu.queue.writeBuffer(buffer, offset, values);
}

function fill(values: Float32Array): void {
  let state = 1;
  for (let i = 0; i < values.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    values[i] = state / 2 ** 31 - 1;
  }
}

/** Milliseconds of the fastest of each; they take turns, since machines are shared. */
async function race(
  contenders: readonly [() => Promise<void>, () => Promise<void>],
): Promise<[number, number]> {
  const fastest: [number, number] = [Infinity, Infinity];
  for (const run of contenders) for (let i = 0; i < 2; i++) await run();
  const end = performance.now() + 2 * BUDGET;
  for (
    let round = 0;
    round < 3 || (round < 50 && performance.now() < end);
    round++
  )
    for (const [i, run] of contenders.entries()) {
      const begun = performance.now();
      await run();
      fastest[i] = Math.min(fastest[i]!, performance.now() - begun);
    }
  return fastest;
}

function memoryCopy(count: number): () => Promise<void> {
  const from = new Float32Array(count).fill(1);
  const to = new Float32Array(count);
  return async () => to.set(from);
}

/**
 * By a kernel, 16 bytes an invocation: a copy command takes another way through
 * some GPUs, at a quarter of the speed.
 */
const copyKernel = `
  @group(0) @binding(0) var<storage, read> source: array<vec4u>;
  @group(0) @binding(1) var<storage, read_write> goal: array<vec4u>;
  @compute @workgroup_size(256)
  fn copy(@builtin(global_invocation_id) at: vec3u) {
    goal[at.x] = source[at.x];
  }
`;
/** GPUBufferUsage's, which Node has only once WebGPU is loaded. */
const STORAGE = 0x80;

/** @param size in bytes, a multiple of 4096 and at most 2^28 */
function gpuCopy(
  gpu: GPUDevice,
  size: number,
  times: number,
): () => Promise<void> {
  const make = () => gpu.createBuffer({ size, usage: STORAGE });
  const pipeline = gpu.createComputePipeline({
    layout: "auto",
    compute: { module: gpu.createShaderModule({ code: copyKernel }) },
  });
  const bindings = gpu.createBindGroup({
    layout: pipeline.getBindGroupLayout(0),
    entries: [make(), make()].map((buffer, binding) => ({
      binding,
      resource: { buffer },
    })),
  });
  return async () => {
    const encoder = gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, bindings);
    for (let i = 0; i < times; i++) pass.dispatchWorkgroups(size / 4096);
    pass.end();
    gpu.queue.submit([encoder.finish()]);
    await gpu.queue.onSubmittedWorkDone();
  };
}
