import os from "node:os";
import { version } from "../version.ts";

export interface Machine {
  readonly lowbit: string;
  readonly node: string;
  readonly system: string;
  readonly cpu: string;
  readonly cores: number;
  /** In bytes. */
  readonly memory: { readonly total: number; readonly free: number };
  readonly webAssembly: {
    /** Fixed-width SIMD, which the engine needs. */
    readonly simd: boolean;
    readonly relaxedSimd: boolean;
    /** Shared memory, which threads need. */
    readonly sharedMemory: boolean;
  };
}

/** What can be known without trying an engine. */
export function describeMachine(): Machine {
  return {
    lowbit: version(),
    node: process.version,
    system: `${os.type()} ${os.release()}, ${process.arch}`,
    cpu: os.cpus()[0]?.model.trim() ?? "unknown",
    cores: os.availableParallelism(),
    memory: { total: os.totalmem(), free: os.freemem() },
    webAssembly: {
      simd: valid(simd),
      relaxedSimd: valid(relaxedSimd),
      sharedMemory: sharedMemory(),
    },
  };
}

const head = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
/** () -> v128, one function of that type. */
const oneVector = [1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0];
/** i32.const 0, i8x16.splat */
const zeros = [0x41, 0, 0xfd, 0x0f];
const body = (code: readonly number[]) => [
  10,
  code.length + 4,
  1,
  code.length + 2,
  0,
  ...code,
  0x0b,
];
const simd = [...head, ...oneVector, ...body(zeros)];
/** i8x16.relaxed_swizzle */
const relaxedSimd = [
  ...head,
  ...oneVector,
  ...body([...zeros, ...zeros, 0xfd, 0x80, 2]),
];

const valid = (bytes: readonly number[]) =>
  WebAssembly.validate(Uint8Array.from(bytes));

function sharedMemory(): boolean {
  try {
    const memory = new WebAssembly.Memory({
      initial: 1,
      maximum: 1,
      shared: true,
    });
    return memory.buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  }
}
