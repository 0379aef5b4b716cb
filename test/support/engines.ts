/**
 * The engines that the golden replays and the conformance suite run on. A new
 * engine joins with one line in {@link engines}.
 */
import type { Device } from "lowbit";
import { afterAll, describe } from "vitest";
import { gpuSkipReason, openDevice, openGpu } from "./gpu.ts";

export interface EngineEntry {
  readonly name: string;
  /** Options of createOptimizer that choose the engine. */
  open(): Promise<{ readonly device: Device; readonly threads?: number }>;
  close?(): Promise<void>;
  /** Why it cannot run here, or undefined. */
  readonly skipReason: string | undefined;
  /** Whether + - * / and sqrt round as float32, so that results are equal bit for bit. */
  readonly exact: boolean;
  /** Why it cannot run formulas with reductions; tests fail once it can. */
  readonly noReductions?: string;
  /** Likewise for rank-1 scales, reductions and 16-bit state together. */
  readonly noShapes?: string;
  /** Another entry that it must equal to the bit; it takes fewer cases of its own. */
  readonly twinOf?: string;
  /**
   * A software GPU: compiling a kernel takes seconds there. Such an engine takes
   * fewer cases, chosen so that they still cover every option.
   */
  readonly slow?: boolean;
}

let gpuDevice: GPUDevice | undefined;

export const engines: readonly EngineEntry[] = [
  {
    name: "reference",
    open: async () => ({ device: "reference" }),
    skipReason: undefined,
    exact: true,
  },
  {
    name: "wasm, 1 thread",
    open: async () => ({ device: "wasm", threads: 1 }),
    skipReason: undefined,
    exact: true,
  },
  {
    name: "wasm, 2 threads",
    twinOf: "wasm, 1 thread",
    open: async () => ({ device: "wasm", threads: 2 }),
    skipReason: undefined,
    exact: true,
  },
  {
    name: "webgpu",
    open: openWebgpu,
    close: closeWebgpu,
    skipReason: gpuSkipReason(),
    exact: false,
    slow: await softwareGpu(),
  },
];

/** A block of tests for each engine, or for those that `which` takes. */
export function describeEngines(
  tests: (engine: EngineEntry) => void,
  which: (engine: EngineEntry) => boolean = () => true,
): void {
  for (const engine of engines.filter(which)) {
    const { name, skipReason } = engine;
    describe(`on ${name}`, { skip: !!skipReason, meta: { skipReason } }, () => {
      afterAll(() => engine.close?.());
      tests(engine);
    });
  }
}

async function openWebgpu() {
  gpuDevice ??= await openDevice();
  return { device: gpuDevice };
}

async function closeWebgpu() {
  if (!gpuDevice) return;
  await gpuDevice.queue.onSubmittedWorkDone();
  gpuDevice.destroy();
  gpuDevice = undefined;
}

async function softwareGpu(): Promise<boolean> {
  if (gpuSkipReason()) return false;
  const info = (await (await openGpu()).requestAdapter())?.info;
  if (!info) return false;
  const { vendor, architecture, device, description } = info;
  const words = [vendor, architecture, device, description].join(" ");
  return /swiftshader|llvmpipe|lavapipe|software/i.test(words);
}
