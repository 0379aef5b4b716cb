/**
 * The memory behind jax-js's wasm arrays. jax-js has no public way to it, so it
 * is found by watching, once, which maps and which memory its backend uses while
 * it adds two numbers. What is found is tried out; where anything is not as
 * expected there is no heap, and steps are taken with jax-js's own operations.
 */
import { ModuleBuilder } from "../../formula/assembler.ts";
import { doWhile, f32x4, i32, v128 } from "../../formula/instructions.ts";
import { memoryShape, type HostMemory } from "../../engines/wasm/memory.ts";
import type { Jax, Tensor } from "./contract.ts";
import { findBackend, slotOf, watchingMaps } from "./insides.ts";
import { makeUnwritten, type Allocator } from "./unwritten.ts";

/** jax-js's record of an allocation. */
interface Slot {
  readonly ptr: number;
  readonly size: number;
  readonly ref: number;
}

/** What jax-js's wasm backend can do; its other parts are private. */
interface Backend extends Allocator {
  decRef(slot: number): void;
  prepareKernelSync: unknown;
  prepareRoutineSync: unknown;
}

interface Parts {
  readonly memory: WebAssembly.Memory;
  readonly backend: Backend;
  readonly slots: ReadonlyMap<number, Slot>;
  /** Slots that worker threads have yet to fill. */
  readonly underWay: ReadonlyMap<number, unknown>;
}

/** Of addresses, and a number of groups of 16 floats. */
type Subtract = (to: number, from: number, groups: number) => void;

export class JaxHeap {
  readonly #jax: Jax;
  readonly #parts: Parts;
  readonly host: HostMemory;
  #subtract: Subtract | undefined;
  /** Arrays that were written here. */
  readonly #written = new WeakSet<Tensor>();

  private constructor(jax: Jax, parts: Parts) {
    this.#jax = jax;
    this.#parts = parts;
    const { memory, backend, slots } = parts;
    const taken = new Map<number, number>();
    this.host = {
      memory,
      allocate(bytes) {
        const slot = backend.malloc(bytes);
        const { ptr } = slots.get(slot)!;
        taken.set(ptr, slot);
        return ptr;
      },
      free(address) {
        backend.decRef(taken.get(address)!);
        taken.delete(address);
      },
    };
  }

  /** Undefined where jax-js is not as it was when this was written. */
  static find(jax: Jax): JaxHeap | undefined {
    if (!found.has(jax)) found.set(jax, JaxHeap.#look(jax));
    return found.get(jax);
  }

  static #look(jax: Jax): JaxHeap | undefined {
    try {
      const parts = watch(jax);
      if (!parts) return undefined;
      const heap = new JaxHeap(jax, parts);
      return heap.#works() ? heap : undefined;
    } catch {
      return undefined;
    }
  }

  /** Numbers written into the heap must be those that jax-js reads, and the other way round. */
  #works(): boolean {
    const { numpy: np } = this.#jax;
    const array = this.make([200]);
    const expected = Float32Array.from({ length: 200 }, (_, i) => i - 0.5);
    this.floats(array).set(expected);
    const read = array.ref.dataSync() as Float32Array;
    const sum = np.add(array.ref, array);
    if (!this.isReady(sum)) this.flush(sum);
    const doubled = this.floats(sum);
    const right = expected.every(
      (value, i) => read[i] === value && doubled[i] === 2 * value,
    );
    sum.dispose();
    return right;
  }

  /** Whether worker threads compute; then what is not computed yet must be waited for. */
  get threaded(): boolean {
    return !(this.#parts.memory.buffer instanceof ArrayBuffer);
  }

  /** Whether an array's numbers are in memory, so that no kernel has to run first. */
  isReady(array: Tensor): boolean {
    if (this.#written.has(array)) return true;
    const { backend, underWay } = this.#parts;
    if (underWay.has(slotOf(array))) return false;
    // A kernel is made before it runs: stopping there leaves everything as it is.
    const stop = () => {
      throw notYet;
    };
    backend.prepareKernelSync = stop;
    backend.prepareRoutineSync = stop;
    const first = firstOf(array);
    try {
      first?.dataSync();
      return true;
    } catch (error) {
      first?.dispose();
      if (error === notYet || underWay.size > 0) return false;
      throw error;
    } finally {
      delete (backend as Partial<Backend>).prepareKernelSync;
      delete (backend as Partial<Backend>).prepareRoutineSync;
    }
  }

  /** Says that no kernel is to write an array, which saves asking. */
  markReady(array: Tensor): void {
    this.#written.add(array);
  }

  /** Runs, on this thread, the kernels that an array waits for. */
  flush(array: Tensor): void {
    firstOf(array)?.dataSync();
  }

  /** The words of an array that is ready; a view, which ends when memory grows. */
  words(array: Tensor): Uint32Array<ArrayBuffer> {
    return new Uint32Array(this.#buffer, this.#slot(array).ptr, array.size);
  }

  floats(array: Tensor): Float32Array<ArrayBuffer> {
    return new Float32Array(this.#buffer, this.#slot(array).ptr, array.size);
  }

  bytes(array: Tensor): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#buffer, this.#slot(array).ptr, 4 * array.size);
  }

  get #buffer(): ArrayBuffer {
    return this.#parts.memory.buffer;
  }

  #slot(array: Tensor): Slot {
    const slot = this.#parts.slots.get(slotOf(array));
    if (!slot || slot.size < 4 * array.size)
      throw new Error("jax-js: an array's memory is not where it was expected");
    return slot;
  }

  /** Whether nobody else holds the array or its memory: no reference, no view, no kernel. */
  isOwned(array: Tensor): boolean {
    const slot = this.#slot(array);
    return (
      array.refCount === 1 && slot.ref === 1 && slot.size === 4 * array.size
    );
  }

  /** An array whose numbers are yet to be written. */
  make(
    shape: readonly number[],
    type: "float32" | "uint32" = "float32",
  ): Tensor {
    return makeUnwritten(this.#jax, "wasm", this.#parts.backend, shape, type);
  }

  /** `to` less `from`, element by element, into `to`. */
  subtract(to: Tensor, from: Tensor): void {
    const { memory } = this.#parts;
    this.#subtract ??= new WebAssembly.Instance(
      new WebAssembly.Module(buildSubtract().bytes(memoryShape(memory))),
      { env: { memory } },
    ).exports.subtract as Subtract;
    const groups = Math.ceil(to.size / 16);
    if (groups > 0)
      this.#subtract(this.#slot(to).ptr, this.#slot(from).ptr, groups);
  }
}

const found = /* @__PURE__ */ new WeakMap<Jax, JaxHeap | undefined>();
const notYet = /* @__PURE__ */ new Error("not computed yet");

/** The first element, whose reading runs what the array waits for; undefined of none. */
function firstOf(array: Tensor): Tensor | undefined {
  const { size } = array;
  if (size === 0) return undefined;
  slotOf(array);
  return array.ref.reshape([size]).slice([0, 1]);
}

/** Watches jax-js at work; all is put back. */
function watch(jax: Jax): Parts | undefined {
  const { numpy: np } = jax;
  const backend: unknown = findBackend(jax, "wasm");
  const values = Float32Array.from({ length: 200 }, (_, i) => i);
  const array = np.array(values, { device: "wasm" });
  const sum = np.add(array.ref, 1);
  const { Instance } = WebAssembly;
  let memory: unknown;
  WebAssembly.Instance = class extends Instance {
    constructor(module: WebAssembly.Module, imports?: WebAssembly.Imports) {
      super(module, imports);
      memory ??= imports?.env?.memory;
    }
  };
  try {
    sum.dataSync();
  } finally {
    WebAssembly.Instance = Instance;
  }
  const slot = slotOf(array);
  const [, reading] = watchingMaps(() => array.dataSync());
  const ofSlot = reading.filter(({ key }) => key === slot);
  const slots = ofSlot.find(({ value }) => isSlot(value))?.map;
  const underWay = ofSlot.find(({ value }) => value === undefined)?.map;
  if (!(memory instanceof WebAssembly.Memory) || !isBackend(backend))
    return undefined;
  if (!slots || !underWay) return undefined;
  return {
    memory,
    backend,
    slots: slots as Map<number, Slot>,
    underWay: underWay as Map<number, unknown>,
  };
}

const isSlot = (value: unknown): value is Slot =>
  typeof value === "object" &&
  value !== null &&
  ["ptr", "size", "ref"].every(
    (key) => typeof (value as Record<string, unknown>)[key] === "number",
  );

const isBackend = (value: unknown): value is Backend =>
  typeof value === "object" &&
  value !== null &&
  ["malloc", "decRef", "prepareKernelSync", "prepareRoutineSync"].every(
    (key) => typeof (value as Record<string, unknown>)[key] === "function",
  );

/** `subtract(to, from, groups)`, 16 floats a group: what jax-js allocates has a multiple of 64 bytes. */
function buildSubtract(): ModuleBuilder {
  const module = new ModuleBuilder();
  const fn = module.function(["i32", "i32", "i32"]);
  const [to, from, left] = [0, 1, 2].map((i) => fn.parameter(i)) as [
    ReturnType<typeof fn.parameter>,
    ReturnType<typeof fn.parameter>,
    ReturnType<typeof fn.parameter>,
  ];
  const body = fn.capture(() => {
    for (const offset of [0, 16, 32, 48])
      fn.emit(
        v128.store(
          to.get,
          f32x4.sub(v128.load(to.get, offset), v128.load(from.get, offset)),
          offset,
        ),
      );
    fn.emit(to.bump(64), from.bump(64));
  });
  fn.emit(doWhile(body, left.tee(i32.sub(left.get, i32.const(1)))));
  module.export("subtract", fn);
  return module;
}
