/**
 * One step of TensorFlow.js's own Adam and of ours on one backend, in one run, and
 * the bytes that the step needs beside parameters and gradients. Runs in Node
 * and in a page.
 */
import * as tf from "@tensorflow/tfjs-core";
import {
  adam32bit,
  adam8bit,
  adamw4bit,
  type LowbitOptimizer,
} from "lowbit/tfjs";
import { fillGradient, race, type Timing } from "./measure.ts";

/** So many variables, as a model has them. */
const VARIABLES = 10;

export interface Peak {
  readonly name: string;
  /** Bytes a parameter that stay between steps. */
  readonly state: number;
  /** Bytes a parameter that a step needs on top. */
  readonly step: number;
}

export interface RaceResult {
  readonly way: string;
  readonly timings: readonly Timing[];
  readonly peaks: readonly Peak[];
}

interface Own {
  readonly name: string;
  readonly variables: tf.Variable[];
  readonly gradients: tf.Tensor[];
  readonly optimizer: tf.Optimizer;
  step(): Promise<void>;
  dispose(): void;
}

let made = 0;

function contender(
  name: string,
  elements: number,
  optimizer: tf.Optimizer,
): Own {
  const each = elements / VARIABLES;
  const prefix = `race${made++}`;
  const values = new Float32Array(each);
  const variables: tf.Variable[] = [];
  const gradients: tf.Tensor[] = [];
  for (let i = 0; i < VARIABLES; i++) {
    fillGradient(values, i + 1);
    const initial = tf.tensor1d(values.slice());
    variables.push(tf.variable(initial, true, `${prefix}/${i}`));
    initial.dispose();
    fillGradient(values, 100 + i);
    gradients.push(tf.tensor1d(values.slice()));
  }
  return {
    name,
    variables,
    gradients,
    optimizer,
    async step() {
      // Gradients come out of operations, and so lie where the backend computes.
      const fresh = gradients.map((gradient) => tf.mul(gradient, 1));
      optimizer.applyGradients(
        variables.map(({ name }, i) => ({ name, tensor: fresh[i]! })),
      );
      tf.dispose(fresh);
      await finished(variables);
    },
    dispose() {
      optimizer.dispose();
      tf.dispose([variables, gradients]);
    },
  };
}

/** Until every variable is where the next operation needs it; a number of each is read. */
async function finished(variables: readonly tf.Variable[]): Promise<void> {
  const last = tf.tidy(() =>
    tf.concat(variables.map((one) => tf.slice(one, one.size - 1, 1))),
  );
  await last.data();
  last.dispose();
}

export async function raceOn(
  elements: number,
  rounds: number,
): Promise<RaceResult> {
  const ours = adam8bit(1e-3);
  await ours.ready();
  const way = ours.device;
  ours.dispose();
  const rivals: [string, () => tf.Optimizer][] = [
    ["lowbit adam8bit", () => adam8bit(1e-3)],
    ["lowbit adam32bit", () => adam32bit(1e-3)],
    ["lowbit adamw4bit", () => adamw4bit(1e-3)],
    ["TensorFlow.js adam", () => tf.train.adam(1e-3, 0.9, 0.999, 1e-7)],
  ];
  const peaks: Peak[] = [];
  // Pools keep what was needed once, so the leanest go first.
  for (const [name, make] of rivals)
    peaks.push(await peakOf(contender(name, elements, make()), elements));
  const running = rivals.map(([name, make]) =>
    contender(name, elements, make()),
  );
  const timings = await race(
    running.map(({ name, step }) => ({ name, step, bytes: 0, warmUp: 2 })),
    elements,
    rounds,
  );
  for (const one of running) one.dispose();
  return { way, timings, peaks };
}

async function peakOf(own: Own, elements: number): Promise<Peak> {
  const there = [...own.variables, ...own.gradients];
  // Uploaded, where there is something to upload to.
  for (const one of there) tf.tidy(() => void tf.add(one, 0));
  await finished(own.variables);
  const meter = startMeter(there);
  // Both create states: TensorFlow.js's among its tensors.
  await own.step();
  await own.step();
  const { now, most } = meter.stop();
  const { optimizer, name } = own;
  const outside = "memory" in optimizer ? stateOutside(optimizer as never) : 0;
  own.dispose();
  return {
    name,
    state: (now + outside) / elements,
    step: (most - now) / elements,
  };
}

/** Our states are no tensors; on the heap of wasm the meter sees them all the same. */
function stateOutside(optimizer: LowbitOptimizer): number {
  return heap() ? 0 : optimizer.memory().stateBytes;
}

const bytesOf = (tensors: readonly tf.Tensor[]) =>
  tensors.reduce((sum, { size }) => sum + 4 * size, 0);

interface Heap {
  _malloc(bytes: number): number;
  _free(address: number): void;
}

const heap = () => (tf.backend() as unknown as { wasm?: Heap }).wasm;

/** Counts bytes: of the heap's allocations, or of the tensors there are, and what a GPU pool grows by. */
function startMeter(there: readonly tf.Tensor[]): {
  stop(): { now: number; most: number };
} {
  const wasm = heap();
  if (wasm) return heapMeter(wasm, there);
  const pool = () =>
    (tf.memory() as unknown as Record<string, number>).numBytesAllocatedInGPU;
  const tensors = () => tf.memory().numBytes;
  const [poolBefore, before] = [pool(), tensors()];
  // They are there whatever the optimizer; a pool has room for them by now.
  const gradients = bytesOf(there) / 2;
  let most = 0;
  const { backend } = tf.engine();
  const write = backend.write.bind(backend);
  backend.write = (...args) => {
    const id = write(...args);
    const values = args[0] as ArrayLike<number> | null;
    most = Math.max(most, tensors() - before + 4 * (values?.length ?? 0));
    return id;
  };
  return {
    stop() {
      backend.write = write;
      const now = tensors() - before;
      if (poolBefore !== undefined && pool()! > 0)
        return { now, most: Math.max(now, pool()! - poolBefore) };
      return { now, most: Math.max(most - gradients, now) };
    },
  };
}

function heapMeter(wasm: Heap, there: readonly tf.Tensor[]) {
  const { _malloc, _free } = wasm;
  const { dataIdMap } = tf.backend() as unknown as {
    dataIdMap: Map<object, { memoryOffset: number }>;
  };
  const sizes = new Map(
    there.map(({ dataId, size }) => [
      dataIdMap.get(dataId)!.memoryOffset,
      4 * size,
    ]),
  );
  let [now, most] = [0, 0];
  wasm._malloc = (bytes) => {
    const address = _malloc(bytes);
    sizes.set(address, bytes);
    most = Math.max(most, (now += bytes));
    return address;
  };
  wasm._free = (address) => {
    now -= sizes.get(address) ?? 0;
    sizes.delete(address);
    _free(address);
  };
  return {
    stop() {
      Object.assign(wasm, { _malloc, _free });
      return { now, most: Math.max(now, most - bytesOf(there) / 2) };
    },
  };
}
