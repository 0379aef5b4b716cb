/**
 * Threads that run kernels on a shared memory. A job is a run of task records;
 * everyone, the calling thread too, claims the next one until none is left.
 *
 * Workers sleep on `sequence` between jobs. One that wakes late could claim a
 * task of a job that has ended, so a worker enters by raising `active` before it
 * looks whether a job is open, and the caller closes the job before it waits for
 * `active` to be 0: one of the two always sees the other.
 */

/** Indices of 32-bit words in the control area. */
const control = {
  sequence: 0,
  open: 1,
  active: 2,
  next: 3,
  total: 4,
  kernel: 5,
  tasks: 6,
  stride: 7,
  stop: 8,
  failed: 9,
} as const;

/** Bytes of the control area. */
export const controlBytes = 64;

/** A kernel's exported function. */
export type Run = (task: number, scratch: number) => void;

/** Claims and runs tasks; shared by the caller and, as text, by the workers. */
function work(
  words: Int32Array,
  base: number,
  kernels: readonly Run[],
  scratch: number,
): void {
  for (;;) {
    const i = Atomics.add(words, base + 3, 1);
    if (i >= Atomics.load(words, base + 4)) return;
    kernels[words[base + 5]!]!(
      words[base + 6]! + i * words[base + 7]!,
      scratch,
    );
  }
}

// Plain JavaScript, since it runs from a string: a worker file of its own would
// have to be found by every bundler.
const workerSource = `
const onData = (data) => {
  const { memory, modules, names, base, scratch } = data;
  const kernels = modules.map((module, i) =>
    new WebAssembly.Instance(module, { env: { memory } }).exports[names[i]]);
  const words = new Int32Array(memory.buffer);
  post("ready");
  let seen = 0;
  for (;;) {
    Atomics.wait(words, base, seen);
    seen = Atomics.load(words, base);
    if (Atomics.load(words, base + 8)) break;
    Atomics.add(words, base + 2, 1);
    if (Atomics.load(words, base + 1)) {
      try {
        for (;;) {
          const i = Atomics.add(words, base + 3, 1);
          if (i >= Atomics.load(words, base + 4)) break;
          kernels[words[base + 5]](words[base + 6] + i * words[base + 7], scratch);
        }
      } catch (error) {
        Atomics.store(words, base + 9, 1);
      }
    }
    Atomics.sub(words, base + 2, 1);
    Atomics.notify(words, base + 2);
  }
  close();
};
`;
const browserWorker = `const post = (m) => postMessage(m);${workerSource}onmessage = (e) => onData(e.data);`;
const nodeWorker = `const { parentPort } = require("node:worker_threads");
const post = (m) => parentPort.postMessage(m);
const close = () => process.exit();${workerSource}parentPort.once("message", onData);`;

interface WorkerHandle {
  terminate(): unknown;
}

/** Kernels on one thread or more. */
export interface Pool {
  readonly threads: number;
  /**
   * Runs kernel `kernel` on `total` records that lie `stride` bytes apart;
   * `serial`: on the calling thread, in order.
   */
  run(
    kernel: number,
    tasks: number,
    total: number,
    stride: number,
    serial?: boolean,
  ): void;
  dispose(): void;
}

export interface PoolOptions {
  readonly memory: WebAssembly.Memory;
  /** Address of the control area; only with more than one thread. */
  readonly control: number;
  /** Scratch of each thread; as many as there are threads. */
  readonly scratch: readonly number[];
  readonly modules: readonly WebAssembly.Module[];
  /** The function of each module that is the kernel. */
  readonly names: readonly string[];
}

/** Whether workers and a memory that they share can be had here. */
export function canShare(): boolean {
  return (
    typeof SharedArrayBuffer === "function" &&
    (isNode() ||
      ((globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated ===
        true &&
        typeof Worker === "function"))
  );
}

const isNode = () =>
  typeof process === "object" && Boolean(process.versions?.node);

const instantiate = ({ memory, modules, names }: PoolOptions): Run[] =>
  modules.map(
    (module, i) =>
      new WebAssembly.Instance(module, { env: { memory } }).exports[
        names[i]!
      ] as Run,
  );

const inOrder =
  (kernels: readonly Run[], scratch: number): Pool["run"] =>
  (kernel, tasks, total, stride) => {
    for (let i = 0; i < total; i++)
      kernels[kernel]!(tasks + i * stride, scratch);
  };

/** Kernels on the calling thread. */
export function singleThread(options: PoolOptions): Pool {
  return {
    threads: 1,
    run: inOrder(instantiate(options), options.scratch[0]!),
    dispose() {},
  };
}

export async function createPool(options: PoolOptions): Promise<Pool> {
  const { memory, modules, names, scratch } = options;
  if (scratch.length === 1) return singleThread(options);
  const kernels = instantiate(options);
  const here = inOrder(kernels, scratch[0]!);
  const words = new Int32Array(memory.buffer);
  const base = options.control / 4;
  const workers = await Promise.all(
    scratch
      .slice(1)
      .map((own) =>
        startWorker({ memory, modules, names, base, scratch: own }),
      ),
  );
  const wake = () => {
    Atomics.add(words, base + control.sequence, 1);
    Atomics.notify(words, base + control.sequence);
  };
  return {
    threads: scratch.length,
    run(kernel, tasks, total, stride, serial = false) {
      if (total === 0) return;
      // One task needs no help.
      if (serial || total === 1) return here(kernel, tasks, total, stride);
      words[base + control.kernel] = kernel;
      words[base + control.tasks] = tasks;
      words[base + control.stride] = stride;
      Atomics.store(words, base + control.total, total);
      Atomics.store(words, base + control.next, 0);
      Atomics.store(words, base + control.open, 1);
      wake();
      try {
        work(words, base, kernels, scratch[0]!);
      } finally {
        Atomics.store(words, base + control.open, 0);
        waitForWorkers(words, base);
      }
      if (Atomics.load(words, base + control.failed))
        throw new Error(
          "wasm: a worker thread failed in a kernel; create the optimizer with { threads: 1 } and report this",
        );
    },
    dispose() {
      Atomics.store(words, base + control.stop, 1);
      wake();
      for (const worker of workers) worker.terminate();
    },
  };
}

/** Waits until no worker is inside a job: briefly by looking, then asleep where that is allowed. */
function waitForWorkers(words: Int32Array, base: number): void {
  const active = base + control.active;
  for (let i = 0; i < 2000; i++) if (Atomics.load(words, active) === 0) return;
  for (let count; (count = Atomics.load(words, active)) !== 0;) {
    try {
      Atomics.wait(words, active, count, 100);
    } catch {
      // A browser's main thread may not sleep; a worker is done within a task.
    }
  }
}

async function startWorker(data: unknown): Promise<WorkerHandle> {
  if (isNode()) {
    const { Worker: NodeWorker } = await import("node:worker_threads");
    const worker = new NodeWorker(nodeWorker, { eval: true });
    await new Promise<void>((resolve, reject) => {
      worker.once("message", () => resolve());
      worker.once("error", reject);
      worker.postMessage(data);
    });
    // A sleeping worker does not keep the process alive.
    worker.unref();
    return worker;
  }
  const url = URL.createObjectURL(
    new Blob([browserWorker], { type: "text/javascript" }),
  );
  try {
    const worker = new Worker(url);
    await new Promise<void>((resolve, reject) => {
      worker.onmessage = () => resolve();
      worker.onerror = (event) =>
        reject(
          new Error(
            `wasm: a worker could not start (${event.message || "blocked by the page's policy"}); create the optimizer with { threads: 1 }`,
          ),
        );
      worker.postMessage(data);
    });
    return worker;
  } finally {
    URL.revokeObjectURL(url);
  }
}
