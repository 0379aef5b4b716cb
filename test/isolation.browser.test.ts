// What WebAssembly threads need of a page.

import { expect, test } from "vitest";

test("the page is isolated and may share WebAssembly memory", async () => {
  expect(crossOriginIsolated).toBe(true);
  const memory = new WebAssembly.Memory({
    initial: 1,
    maximum: 1,
    shared: true,
  });
  expect(memory.buffer).toBeInstanceOf(SharedArrayBuffer);
  expect(await writeFromWorker(memory)).toBe(42);
});

/** Has a worker write into the memory; gives what is then read here. */
async function writeFromWorker(memory: WebAssembly.Memory): Promise<number> {
  const source = `onmessage = ({ data: memory }) => {
    Atomics.store(new Int32Array(memory.buffer), 0, 42);
    postMessage("written");
  };`;
  const url = URL.createObjectURL(
    new Blob([source], { type: "text/javascript" }),
  );
  const worker = new Worker(url);
  try {
    await new Promise((resolve, reject) => {
      worker.onmessage = resolve;
      worker.onerror = (event) => reject(new Error(event.message));
      worker.postMessage(memory);
    });
  } finally {
    worker.terminate();
    URL.revokeObjectURL(url);
  }
  return Atomics.load(new Int32Array(memory.buffer), 0);
}
