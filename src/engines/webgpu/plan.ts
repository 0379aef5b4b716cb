/**
 * Which tensors go through which dispatch.
 *
 * Dawn puts a full barrier before every dispatch that writes to a buffer, and
 * the GPU drains: 3 us for nothing and some 5 us behind a large dispatch,
 * measured. GPT-2 medium's 292 tensors one by one would take 1.6 times as long
 * as one tensor of their size. So a dispatch takes as many tensors as there
 * are bindings for; those that share a buffer share a binding.
 */
import type { BufferView } from "./buffers.ts";
import { alignment } from "./buffers.ts";
import { elementBytes } from "./operands.ts";

/** A run of elements of a tensor, small enough for a binding. */
export interface Piece {
  readonly tensor: number;
  /** First element in the tensor. */
  readonly start: number;
  readonly length: number;
  /** Chunk of each arena that holds its states; -1 for none. */
  readonly codesChunk: number;
  readonly floatsChunk: number;
  /** Of what is not per element. */
  readonly smallChunk?: number;
}

/** What a piece reads or writes: a range of a buffer in bytes. */
export interface Range {
  readonly buffer: GPUBuffer;
  readonly start: number;
  readonly end: number;
}

export interface Binding {
  readonly buffer: GPUBuffer;
  start: number;
  end: number;
}

export interface Segment<P extends Piece = Piece> {
  readonly piece: P;
  readonly pSlot: number;
  readonly gSlot: number;
  readonly p: Range;
  readonly g: Range;
}

export interface Batch<P extends Piece = Piece> {
  readonly segments: Segment<P>[];
  readonly p: Binding[];
  readonly g: Binding[];
}

export interface PackLimits {
  readonly slots: number;
  readonly segments: number;
  readonly bindingBytes: number;
  /** Batches end when they hold this many elements: more would gain nothing. */
  readonly elements: number;
}

export function rangeOf(
  { buffer, offset, type }: Required<BufferView>,
  piece: Piece,
): Range {
  const bytes = elementBytes(type);
  const start = offset + piece.start * bytes;
  // 16-bit elements lie in whole words.
  const end = start + Math.ceil((piece.length * bytes) / 4) * 4;
  return { buffer, start, end };
}

/** Packs pieces of one kind into as few dispatches as the limits allow, in order. */
export function pack<P extends Piece>(
  work: readonly { piece: P; p: Range; g: Range }[],
  limits: PackLimits,
): Batch<P>[] {
  const batches: Batch<P>[] = [];
  let current: Batch<P> | undefined;
  let elements = 0;
  for (const { piece, p, g } of work) {
    let pSlot = -1;
    let gSlot = -1;
    if (
      current &&
      current.segments.length < limits.segments &&
      elements < limits.elements &&
      sameChunks(current.segments[0]!.piece, piece)
    ) {
      pSlot = findSlot(current.p, p, limits);
      gSlot = findSlot(current.g, g, limits);
    }
    if (pSlot < 0 || gSlot < 0) {
      batches.push((current = { segments: [], p: [], g: [] }));
      elements = 0;
      pSlot = gSlot = 0;
    }
    extend(current!.p, pSlot, p);
    extend(current!.g, gSlot, g);
    current!.segments.push({ piece, pSlot, gSlot, p, g });
    elements += piece.length;
  }
  return batches;
}

const sameChunks = (a: Piece, b: Piece) =>
  a.codesChunk === b.codesChunk &&
  a.floatsChunk === b.floatsChunk &&
  a.smallChunk === b.smallChunk;

/** The binding that this range can join, or a free one, or -1. */
function findSlot(
  bindings: readonly Binding[],
  range: Range,
  { slots, bindingBytes }: PackLimits,
): number {
  const same = bindings.findIndex(({ buffer }) => buffer === range.buffer);
  if (same < 0) return bindings.length < slots ? bindings.length : -1;
  const { start, end } = bindings[same]!;
  const from = alignDown(Math.min(start, range.start));
  return Math.max(end, range.end) - from <= bindingBytes ? same : -1;
}

function extend(bindings: Binding[], slot: number, range: Range): void {
  const binding = bindings[slot];
  if (!binding) bindings[slot] = { ...range, start: alignDown(range.start) };
  else {
    binding.start = Math.min(binding.start, alignDown(range.start));
    binding.end = Math.max(binding.end, range.end);
  }
}

export const alignDown = (bytes: number): number =>
  Math.floor(bytes / alignment) * alignment;
