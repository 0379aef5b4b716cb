import type { Worker as NodeWorker } from "node:worker_threads";

/**
 * Threads for jax-js in Node. It starts Web Workers from `blob:` addresses
 * where there is a global `Worker`, which Node lacks; this is one, as far as
 * jax-js needs it. It must be in place before jax-js is imported and stay.
 */
export function installWorkers(threads: number): void {
  const scope = globalThis as { Worker?: unknown };
  scope.Worker ??= BlobWorker;
  // jax-js starts as many workers as this says.
  Object.defineProperty(globalThis.navigator, "hardwareConcurrency", {
    configurable: true,
    value: threads,
  });
}

/** What a Web Worker's script expects around it. */
const PRELUDE = `
  const { parentPort } = require("node:worker_threads");
  globalThis.self = globalThis;
  globalThis.postMessage = (message, list) => parentPort.postMessage(message, list);
  parentPort.on("message", (data) => globalThis.onmessage?.({ data }));
`;

class BlobWorker {
  onmessage: ((event: { data: unknown }) => void) | null = null;
  onerror: ((event: { message: string; error: unknown }) => void) | null = null;
  #worker: NodeWorker | undefined;
  /** Messages from before the script was read. */
  #early: unknown[] = [];
  #unanswered = 0;
  #terminated = false;

  constructor(address: string | URL) {
    const { resolveObjectURL } = process.getBuiltinModule("node:buffer");
    const blob = resolveObjectURL(String(address));
    if (!blob) throw new TypeError(`BlobWorker: cannot read ${address}`);
    void blob.text().then((script) => this.#start(script));
  }

  #start(script: string): void {
    if (this.#terminated) return;
    const threads = process.getBuiltinModule("node:worker_threads");
    this.#worker = new threads.Worker(PRELUDE + script, { eval: true });
    this.#worker.on("message", (data) => this.#receive(data));
    this.#worker.on("error", (error: Error) =>
      this.onerror?.({ message: error.message, error }),
    );
    for (const message of this.#early.splice(0))
      this.#worker.postMessage(message);
  }

  #receive(data: { ok?: boolean; error?: unknown } | undefined): void {
    // An idle worker must not keep the process alive, and a busy one must.
    if (--this.#unanswered === 0) this.#worker?.unref();
    // jax-js would carry on with whatever is in memory.
    if (data?.ok === false)
      setImmediate(() => {
        throw new Error(`jax-js: a worker failed: ${String(data.error)}`);
      });
    this.onmessage?.({ data });
  }

  postMessage(message: unknown): void {
    this.#unanswered++;
    if (!this.#worker) {
      this.#early.push(message);
      return;
    }
    this.#worker.ref();
    this.#worker.postMessage(message);
  }

  terminate(): void {
    this.#terminated = true;
    void this.#worker?.terminate();
  }
}
