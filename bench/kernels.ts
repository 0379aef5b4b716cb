/** The Wasm engine against a plain loop and against memory bandwidth. */
import os from "node:os";
import {
  adamw32bit,
  adamw4bit,
  adamw8bit,
  createOptimizer,
  sgd32bit,
  sgd8bit,
  type OptimizerOptions,
  type Recipe,
} from "lowbit";
import { fillGradient, printTable, race, type Contender } from "./measure.ts";

/** Bytes a parameter that a step must move: p and g in, p out, state in and out. */
const moved = (state: number) => 12 + 2 * state;

async function ours(
  label: string,
  recipe: Recipe,
  elements: number,
  options: OptimizerOptions,
): Promise<Contender> {
  const resident = options.resident ?? true;
  const data = resident ? undefined : new Float32Array(elements);
  const optimizer = await createOptimizer(
    recipe,
    { w: { shape: [elements], ...(data ? { data } : {}) } },
    { resident, ...options },
  );
  const gradient = resident
    ? (optimizer.gradient("w") as Float32Array)
    : new Float32Array(elements);
  fillGradient(gradient);
  fillGradient(optimizer.parameter("w") as Float32Array, 2);
  const { bytesPerParameter } = optimizer.memory();
  return {
    name: label,
    bytes: moved(bytesPerParameter),
    state: bytesPerParameter,
    warmUp: 10,
    step: () => optimizer.step(resident ? {} : { w: gradient }),
  };
}

/** AdamW as one writes it in JavaScript, float32 arrays, no tricks. */
function plainLoop(elements: number): Contender {
  const p = new Float32Array(elements);
  const g = new Float32Array(elements);
  const m = new Float32Array(elements);
  const v = new Float32Array(elements);
  fillGradient(g);
  fillGradient(p, 2);
  let t = 0;
  return {
    name: "plain JavaScript loop, float32",
    bytes: moved(8),
    state: 8,
    step() {
      t++;
      const [lr, beta1, beta2, eps, decay] = [1e-3, 0.9, 0.999, 1e-8, 1e-2];
      const c1 = 1 - beta1 ** t;
      const c2 = Math.sqrt(1 - beta2 ** t);
      for (let i = 0; i < elements; i++) {
        m[i] = beta1 * m[i]! + (1 - beta1) * g[i]!;
        v[i] = beta2 * v[i]! + (1 - beta2) * g[i]! * g[i]!;
        p[i] =
          p[i]! * (1 - lr * decay) -
          (lr * (m[i]! / c1)) / (Math.sqrt(v[i]!) / c2 + eps);
      }
    },
  };
}

function copy(elements: number): Contender {
  const from = new Float32Array(elements).fill(1);
  const to = new Float32Array(elements);
  return { name: "copy (memcpy)", bytes: 8, step: () => to.set(from) };
}

export async function benchKernels(
  log2: number,
  rounds: number,
): Promise<void> {
  const elements = 2 ** log2;
  const cores = os.availableParallelism();
  console.log(
    `\nWasm kernels, 2^${log2} parameters, ${rounds} interleaved rounds, ${cores} cores, ${os.cpus()[0]?.model ?? ""}`,
  );
  const one = { threads: 1 };
  const contenders = [
    copy(elements),
    plainLoop(elements),
    await ours("adamw32bit", adamw32bit(), elements, one),
    await ours("adamw8bit", adamw8bit(), elements, one),
    await ours("adamw4bit", adamw4bit(), elements, one),
    await ours("sgd32bit", sgd32bit(), elements, one),
    await ours("sgd8bit", sgd8bit(), elements, one),
    await ours("adamw8bit, arrays of the caller", adamw8bit(), elements, {
      ...one,
      resident: false,
    }),
    await ours("adamw8bit, maxGradNorm", adamw8bit(), elements, {
      ...one,
      maxGradNorm: 1,
    }),
    ...(cores > 1
      ? [
          await ours(`adamw32bit, ${cores} threads`, adamw32bit(), elements, {
            threads: cores,
          }),
          await ours(`adamw8bit, ${cores} threads`, adamw8bit(), elements, {
            threads: cores,
          }),
          await ours(`adamw4bit, ${cores} threads`, adamw4bit(), elements, {
            threads: cores,
          }),
        ]
      : []),
  ];
  const timings = await race(contenders, elements, rounds);
  const speed = timings[0]!;
  printTable(timings, "adamw32bit", speed.bytes / speed.fastest);
}
