/**
 * The WebAssembly engine: SIMD kernels generated from formula and formats, on
 * one thread or several. States live in one memory that is made with the right
 * size and never grows, or in a host's; parameters and gradients that live
 * elsewhere pass through staging areas, a chunk at a time.
 */
import type { ModuleBuilder } from "../../formula/assembler.ts";
import type {
  Engine,
  EngineOptions,
  HostStates,
  TensorPlan,
} from "../engine.ts";
import {
  Heap,
  makeMemory,
  memoryShape,
  pageBytes,
  type HostMemory,
} from "./memory.ts";
import { planMemory, type MemoryPlan } from "./plan.ts";
import {
  canShare,
  createPool,
  singleThread,
  type PoolOptions,
} from "./pool.ts";
import { WasmSession } from "./session.ts";
import { hostStates } from "./stored.ts";

/** Fewer elements than this are not worth waking a thread. */
const worthThreads = 1 << 17;

function checkSupport(): void {
  // (func (result v128) i32.const 0 i8x16.splat)
  const simd =
    typeof WebAssembly === "object" &&
    WebAssembly.validate(
      Uint8Array.of(
        ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3],
        ...[2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11],
      ),
    );
  if (!simd)
    throw new Error(
      "wasm: this machine has no WebAssembly with SIMD; pass { device: 'reference' } for the plain engine",
    );
}

export const wasmEngine: Engine = {
  name: "wasm",
  async createSession(plans, options) {
    checkSupport();
    const { plan, heap } = allocate(
      plans,
      options,
      chooseThreads(plans, options),
    );
    const compiled = new Map<ModuleBuilder, Promise<WebAssembly.Module>>();
    const shape = memoryShape(heap.memory);
    for (const { module } of plan.kernels.modules)
      if (!compiled.has(module))
        compiled.set(module, WebAssembly.compile(module.bytes(shape)));
    const modules = await Promise.all(
      plan.kernels.modules.map(({ module }) => compiled.get(module)!),
    );
    const pool = await createPool(poolOptions(plan, heap, modules));
    return new WasmSession({ plan, options, heap, pool, release() {} });
  },
  createSessionSync(plans, options) {
    checkSupport();
    return onOneThread(allocate(plans, options, 1), options);
  },
};

/**
 * The engine in a host's memory, where parameters and gradients (Float32Arrays
 * over that memory's buffer) are read and written without a copy. It runs on
 * the calling thread, and its sessions keep a single allocation each.
 */
export function wasmEngineIn(host: HostMemory): Engine {
  const createSessionSync: Engine["createSessionSync"] = (plans, options) => {
    checkSupport();
    // Addresses are written into the kernels, so the size must be known first.
    const bytes = planMemory(plans, options, 1, 0).end;
    const address = host.allocate(bytes + pageBytes + 64);
    try {
      const start = Math.ceil(address / 64) * 64;
      const plan = planMemory(plans, options, 1, start);
      const heap = new Heap(host.memory);
      heap.bytes.fill(0, start, plan.end);
      writeTables(plan, heap);
      return onOneThread({ plan, heap }, options, () => host.free(address));
    } catch (error) {
      host.free(address);
      throw error;
    }
  };
  return {
    name: "wasm",
    createSession: async (plans, options) => createSessionSync(plans, options),
    createSessionSync,
  };
}

/** How a host's states would lie, without a session: for hosts that can also step without the engine. */
export const wasmHostStates = (plans: readonly TensorPlan[]): HostStates =>
  hostStates(
    planMemory(
      plans,
      {
        skip: "element",
        clip: false,
        resident: false,
        threads: 1,
        hostStates: true,
        hostParameters: true,
      },
      1,
      0,
    ),
  );

interface Allocated {
  readonly plan: MemoryPlan;
  readonly heap: Heap;
}

function allocate(
  plans: readonly TensorPlan[],
  options: EngineOptions,
  threads: number,
): Allocated {
  const plan = planMemory(plans, options, threads, pageBytes);
  // A page more: kernels look ahead of what they work on.
  const pages = Math.ceil(plan.end / pageBytes) + 1;
  const heap = new Heap(makeMemory(pages, threads > 1));
  writeTables(plan, heap);
  return { plan, heap };
}

function writeTables({ tables }: MemoryPlan, heap: Heap): void {
  for (const { contents } of tables.values())
    for (const { at, bytes } of contents) heap.bytes.set(bytes, at);
}

function onOneThread(
  { plan, heap }: Allocated,
  options: EngineOptions,
  release: () => void = () => {},
): WasmSession {
  const compiled = new Map<ModuleBuilder, WebAssembly.Module>();
  const shape = memoryShape(heap.memory);
  const modules = plan.kernels.modules.map(({ module }) => {
    let one = compiled.get(module);
    if (!one)
      compiled.set(module, (one = new WebAssembly.Module(module.bytes(shape))));
    return one;
  });
  const pool = singleThread(poolOptions(plan, heap, modules));
  return new WasmSession({ plan, options, heap, pool, release });
}

const poolOptions = (
  { control, scratch, kernels }: MemoryPlan,
  { memory }: Heap,
  modules: readonly WebAssembly.Module[],
): PoolOptions => ({
  memory,
  control,
  scratch,
  modules,
  names: kernels.modules.map(({ name }) => name),
});

function chooseThreads(
  plans: readonly TensorPlan[],
  { threads, resident }: EngineOptions,
): number {
  if (threads === 1 || !canShare()) return 1;
  if (threads !== undefined) return threads;
  const elements = plans.reduce((sum, plan) => sum + plan.size, 0);
  const cores =
    typeof navigator === "object" && navigator.hardwareConcurrency
      ? navigator.hardwareConcurrency
      : 1;
  // Staged data is copied by one thread, into shared memory at less than half
  // the speed: there threads only pay with several cores and much to do.
  const floor = resident ? worthThreads : 8 * worthThreads;
  const wanted = elements < floor || (!resident && cores < 4) ? 1 : cores;
  return Math.min(wanted, 8);
}
