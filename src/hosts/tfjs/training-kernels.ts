/**
 * The kernels that gradients need and TensorFlow.js's WebAssembly backend lacks: of
 * convolutions by their filter, and of gather. Plain loops over its heap.
 */
import {
  backend_util,
  util,
  type KernelConfig,
  type KernelFunc,
  type TensorInfo,
} from "@tensorflow/tfjs-core";

/** The part of `@tensorflow/tfjs-core` (or `@tensorflow/tfjs`) asked for. */
export interface KernelRegistry {
  /** The kernel of this name, if there is one. */
  getKernel(kernelName: string, backendName: string): unknown;
  /** Adds a kernel. */
  registerKernel(config: never): void;
}

interface Backend {
  makeOutput(shape: number[], dtype: string): TensorInfo;
  typedArrayFromHeap(info: TensorInfo): Float32Array | Int32Array;
}

/**
 * Registers `Conv2DBackpropFilter` and `UnsortedSegmentSum` for the WebAssembly
 * backend where it has none, so that models with convolutions and embeddings
 * train there. Kernels it has stay as they are.
 *
 * @param tf your `import * as tf from "@tensorflow/tfjs"`
 * @param backendName under which the backend is registered. Default `wasm`.
 * @returns names of the kernels that were registered now.
 */
export function registerWasmTrainingKernels(
  tf: KernelRegistry,
  backendName = "wasm",
): string[] {
  if (typeof tf?.registerKernel !== "function")
    throw new TypeError(
      `registerWasmTrainingKernels: the argument must be your TensorFlow.js, as in \`import * as tf from "@tensorflow/tfjs"\`, given ${String(tf)}`,
    );
  const missing = Object.entries(kernels).filter(
    ([kernelName]) => !tf.getKernel(kernelName, backendName),
  );
  for (const [kernelName, kernelFunc] of missing) {
    const config: KernelConfig = { kernelName, backendName, kernelFunc };
    tf.registerKernel(config as never);
  }
  return missing.map(([kernelName]) => kernelName);
}

/** Sums of rows of x by their number; ids outside of 0 ... numSegments - 1 count nowhere. */
const unsortedSegmentSum: KernelFunc = ({ inputs, attrs, backend }) => {
  const { x, segmentIds } = inputs as Record<"x" | "segmentIds", TensorInfo>;
  const { numSegments } = attrs as unknown as { numSegments: number };
  const heap = backend as Backend;
  const rest = x.shape.slice(segmentIds.shape.length);
  const width = util.sizeFromShape(rest);
  const out = heap.makeOutput([numSegments, ...rest], x.dtype);
  // Views last: an output may have made the heap grow.
  const values = heap.typedArrayFromHeap(x);
  const ids = heap.typedArrayFromHeap(segmentIds);
  const sums = heap.typedArrayFromHeap(out).fill(0);
  ids.forEach((id, row) => {
    if (id < 0 || id >= numSegments) return;
    const to = id * width;
    const from = row * width;
    for (let i = 0; i < width; i++) sums[to + i]! += values[from + i]!;
  });
  return out;
};

/** dw[y, x, i, o]: the sum over all outputs of the input under that tap times dy. */
const conv2DBackpropFilter: KernelFunc = ({ inputs, attrs, backend }) => {
  const { x, dy } = inputs as Record<"x" | "dy", TensorInfo>;
  const { strides, pad, dataFormat, dimRoundingMode, filterShape } =
    attrs as unknown as {
      strides: [number, number] | number;
      pad: "same" | "valid" | number;
      dataFormat: "NHWC" | "NCHW";
      dimRoundingMode?: "floor" | "round" | "ceil";
      filterShape: [number, number, number, number];
    };
  const info = backend_util.computeConv2DInfo(
    x.shape as [number, number, number, number],
    filterShape,
    strides,
    1, // gradients of dilated convolutions do not get here
    pad,
    dimRoundingMode,
    false,
    backend_util.convertConv2DDataFormat(dataFormat),
  );
  if (info.dataFormat !== "channelsLast")
    throw new Error(
      `Conv2DBackpropFilter on wasm: the data format must be NHWC, given ${dataFormat}`,
    );
  const heap = backend as Backend;
  const out = heap.makeOutput(info.filterShape, "float32");
  const input = heap.typedArrayFromHeap(x);
  const gradient = heap.typedArrayFromHeap(dy);
  const sums = heap.typedArrayFromHeap(out).fill(0);
  const { inHeight, inWidth, inChannels, outHeight, outWidth, outChannels } =
    info;
  const { filterHeight, filterWidth, strideHeight, strideWidth } = info;
  const { top, left } = info.padInfo;
  const tap = (y: number, x0: number, inputAt: number, gradientAt: number) => {
    const to = (y * filterWidth + x0) * inChannels * outChannels;
    for (let i = 0; i < inChannels; i++) {
      const value = input[inputAt + i]!;
      const row = to + i * outChannels;
      for (let o = 0; o < outChannels; o++)
        sums[row + o]! += value * gradient[gradientAt + o]!;
    }
  };
  for (let b = 0; b < info.batchSize; b++)
    for (let outY = 0; outY < outHeight; outY++)
      for (let outX = 0; outX < outWidth; outX++) {
        const gradientAt =
          ((b * outHeight + outY) * outWidth + outX) * outChannels;
        for (let y = 0; y < filterHeight; y++) {
          const inY = outY * strideHeight + y - top;
          if (inY < 0 || inY >= inHeight) continue;
          for (let x0 = 0; x0 < filterWidth; x0++) {
            const inX = outX * strideWidth + x0 - left;
            if (inX < 0 || inX >= inWidth) continue;
            const inputAt = ((b * inHeight + inY) * inWidth + inX) * inChannels;
            tap(y, x0, inputAt, gradientAt);
          }
        }
      }
  return out;
};

const kernels: Readonly<Record<string, KernelFunc>> = {
  Conv2DBackpropFilter: conv2DBackpropFilter,
  UnsortedSegmentSum: unsortedSegmentSum,
};
