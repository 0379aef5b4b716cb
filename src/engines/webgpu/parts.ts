/** Small questions that several parts of a kernel ask about its shape. */
import { isRank1 } from "./small.ts";
import type { KernelShape, QuantizedState } from "./kernel.ts";
import { reportWords } from "./report.ts";

export const isTensor = ({ format }: QuantizedState) =>
  format.scale === "tensor";
/** Whether a whole block or tensor has one scale, and so one largest magnitude. */
export const hasPeak = (state: QuantizedState) => !isRank1(state.format);
export const isBlock = ({ format }: QuantizedState) => format.scale === "block";
export const tensorPeak = ({ name }: QuantizedState) =>
  `atomicLoad(&report[here.${name}_next])`;
export const lanesPerBlock = (
  { quads }: KernelShape,
  { format }: QuantizedState,
) => format.blockSize / (4 * quads);
export const peakIndex = (shape: KernelShape, state: QuantizedState) =>
  `${state.peaksAt}u + invocation / ${lanesPerBlock(shape, state)}u`;
export const skipped = ({ spec }: KernelShape) =>
  spec.guarded ? `atomicLoad(&report[${reportWords.skip}]) != 0u` : "false";

/** Rows that may end within what an invocation takes have a function of their own for it. */
export const hasEdge = ({ spec, stride, whole }: KernelShape) =>
  spec.aligned && stride > 0 && !whole;

/** Whether a step that is left out has something to write: that nothing changes. */
export const writesNothing = ({ spec }: KernelShape) =>
  spec.guarded && spec.written !== "parameter";

/** Whether the sum of four magnitudes is not finite: when one of them is not, or when it overflows. */
export const sumFails = (v: string): string =>
  `(bitcast<u32>(${v}.x + ${v}.y + ${v}.z + ${v}.w) & 0x7fffffffu) >= 0x7f800000u`;

/** A part of the text for each four elements of an invocation. */
export const perQuad = <T>(
  { quads }: KernelShape,
  part: (k: number) => T,
): T[] => Array.from({ length: quads }, (_, k) => part(k));

/** Words of codes that an invocation owns. */
export const codeWords = ({ quads }: KernelShape, { width }: QuantizedState) =>
  (quads * width) / 8;

/** Index of an invocation's k-th quad, from what it begins `at`. */
export const quadAt = ({ quads, stride }: KernelShape, k: number): string =>
  stride
    ? k === 0
      ? "at"
      : `(at + ${k * stride}u)`
    : `(at * ${quads}u + ${k}u)`;
