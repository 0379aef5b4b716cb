/** A device that times its compute passes, and buffers with numbers in them. */
import { create, globals } from "webgpu";

export interface TimedDevice {
  readonly device: GPUDevice;
  readonly adapter: GPUAdapter;
  /** GPU milliseconds of every pass submitted since the last call. */
  passes(): Promise<number[]>;
  /** Switches the timestamps, which cost a little themselves. */
  timing: boolean;
}

const kept = globalThis as { dawn?: GPU };

/** @param toggles of Dawn, beside unquantized timestamps. */
export async function openTimedDevice(toggles: string[]): Promise<TimedDevice> {
  Object.assign(globalThis, globals);
  // Dawn crashes when this object is collected while a device lives.
  kept.dawn = create([
    "disable-dawn-features=timestamp_quantization",
    ...toggles,
  ]);
  const adapter = await kept.dawn.requestAdapter({
    powerPreference: "high-performance",
  });
  if (!adapter) throw new Error("bench: there is no WebGPU adapter");
  const { limits } = adapter;
  const device = await adapter.requestDevice({
    requiredFeatures: [
      "timestamp-query",
      ...(adapter.features.has("subgroups") ? (["subgroups"] as const) : []),
    ],
    requiredLimits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
    },
  });
  device.addEventListener("uncapturederror", ({ error }) => {
    console.error(error.message);
    process.exit(1);
  });
  return timed(device, adapter);
}

const most = 2048;

/** Adds timestamps to every pass that anyone records on this device. */
function timed(device: GPUDevice, adapter: GPUAdapter): TimedDevice {
  const querySet = device.createQuerySet({ type: "timestamp", count: most });
  const { QUERY_RESOLVE, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const resolved = device.createBuffer({
    size: 8 * most,
    usage: QUERY_RESOLVE | COPY_SRC,
  });
  const readable = device.createBuffer({
    size: 8 * most,
    usage: COPY_DST | MAP_READ,
  });
  let used = 0;
  const plain = device.createCommandEncoder.bind(device);
  const result: TimedDevice = {
    device,
    adapter,
    timing: true,
    async passes() {
      if (used === 0) return [];
      const encoder = plain();
      encoder.resolveQuerySet(querySet, 0, used, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, readable, 0, 8 * used);
      device.queue.submit([encoder.finish()]);
      await readable.mapAsync(GPUMapMode.READ);
      const times = new BigUint64Array(readable.getMappedRange(0, 8 * used));
      const spans = Array.from(
        { length: used / 2 },
        (_, i) => Number(times[2 * i + 1]! - times[2 * i]!) / 1e6,
      );
      readable.unmap();
      used = 0;
      return spans;
    },
  };
  device.createCommandEncoder = (descriptor) => {
    const encoder = plain(descriptor);
    const begin = encoder.beginComputePass.bind(encoder);
    encoder.beginComputePass = (pass) => {
      if (!result.timing || used + 2 > most) return begin(pass);
      used += 2;
      return begin({
        ...pass,
        timestampWrites: {
          querySet,
          beginningOfPassWriteIndex: used - 2,
          endOfPassWriteIndex: used - 1,
        },
      });
    };
    return encoder;
  };
  return result;
}

export const median = (values: number[]): number =>
  [...values].sort((a, b) => a - b)[values.length >> 1] ?? NaN;

/** A buffer of normally distributed numbers; an exact repeat every 2^20. */
export function normals(
  device: GPUDevice,
  length: number,
  type: "float32" | "bfloat16",
  deviation: number,
): GPUBuffer {
  const bytes = type === "float32" ? 4 : 2;
  const { STORAGE, COPY_DST, COPY_SRC } = GPUBufferUsage;
  const buffer = device.createBuffer({
    size: bytes * length,
    usage: STORAGE | COPY_DST | COPY_SRC,
  });
  const values = sample(deviation);
  const data =
    type === "float32"
      ? new Uint8Array(values.buffer)
      : new Uint8Array(
          Uint16Array.from(
            new Uint32Array(values.buffer),
            (bits) => bits >>> 16,
          ).buffer,
        );
  for (let at = 0; at < buffer.size; at += data.length)
    device.queue.writeBuffer(
      buffer,
      at,
      data,
      0,
      Math.min(data.length, buffer.size - at),
    );
  return buffer;
}

const samples = new Map<number, Float32Array<ArrayBuffer>>();
function sample(deviation: number): Float32Array<ArrayBuffer> {
  let values = samples.get(deviation);
  if (!values) {
    values = Float32Array.from(
      { length: 2 ** 20 },
      () =>
        deviation *
        Math.sqrt(-2 * Math.log(1 - Math.random())) *
        Math.cos(2 * Math.PI * Math.random()),
    );
    samples.set(deviation, values);
  }
  return values;
}
