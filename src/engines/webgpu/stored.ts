/** States in their stored form, from a device and to it. */
import { fromBfloat16, toBfloat16 } from "../../formats/bfloat16.ts";
import type { QuantizedFormat } from "../../formats/format.ts";
import { codeBytes } from "../../formats/pack.ts";
import { leadingSpread } from "../../formats/rank1.ts";
import {
  stateLength,
  type HostStates,
  type StatePiece,
  type StoredState,
} from "../engine.ts";
import { alignUp, type Arena, type Place } from "./buffers.ts";
import type { StatePlace } from "./layout.ts";
import {
  initialWords,
  stateArenas,
  type Memory,
  type Tensor,
} from "./memory.ts";
import { isRank1 } from "./small.ts";

interface Part {
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly bytes: number;
}

/** Reads and writes the states of a session. */
export interface StateAccess {
  readonly device: GPUDevice;
  readonly memory: Memory;
  /** Which of three words holds the scales of whole tensors, by tensor. */
  readonly turns: readonly number[];
  /** Resolves when a buffer is mapped for reading. */
  readonly map: (buffer: GPUBuffer) => Promise<void>;
}

export async function readState(
  access: StateAccess,
  tensor: number,
  state: number,
): Promise<StoredState> {
  const { smalls, codes, floats } = access.memory;
  const { plan, pieces, small } = access.memory.tensors[tensor]!;
  const format = plan.formats[state]!;
  if (plan.program.stateShapes[state] !== "element") {
    const length = stateLength(plan, state);
    const at = small?.states.get(state);
    return {
      kind: "float",
      values:
        small && at !== undefined
          ? new Float32Array(
              await readBytes(access, [
                words(smalls.buffer(small.chunk), at, length),
              ]),
            )
          : new Float32Array(length),
    };
  }
  const values = (arena: Arena, each: number) =>
    readBytes(
      access,
      pieces.map(({ states, length }) => {
        const { at } = states[state] as { at: Place };
        return {
          buffer: arena.buffer(at.chunk),
          offset: at.offset,
          bytes: each * length,
        };
      }),
    );
  if (format.bits === 16)
    return {
      kind: "float",
      values: Float32Array.from(
        new Uint16Array(await values(codes, 2)),
        fromBfloat16,
      ),
    };
  if (format.kind === "float")
    return { kind: "float", values: new Float32Array(await values(floats, 4)) };
  const codeParts = pieces.map(({ states, length }): Part => {
    const place = (states[state] as { codes: Place }).codes;
    return {
      buffer: codes.buffer(place.chunk),
      offset: place.offset,
      bytes: codeBytes(format.bits, length),
    };
  });
  const [read, scales] = await Promise.all([
    readBytes(access, codeParts),
    readBytes(access, scaleParts(access, tensor, state, format)),
  ]);
  const total = codeParts.reduce((sum, { bytes }) => sum + bytes, 0);
  return {
    kind: "quantized",
    codes: new Uint8Array(read, 0, total),
    scales: new Float32Array(scales),
  };
}

const words = (buffer: GPUBuffer, at: number, length: number): Part => ({
  buffer,
  offset: 4 * at,
  bytes: 4 * length,
});

function scaleParts(
  { memory: { tensors, smalls, codes, report }, turns }: StateAccess,
  tensor: number,
  state: number,
  format: QuantizedFormat,
): Part[] {
  const { plan, pieces, peaks, small } = tensors[tensor]!;
  if (isRank1(format)) {
    const rank1 = small?.rank1.get(state);
    return small && rank1
      ? [words(smalls.buffer(small.chunk), rank1.scales, rank1.count)]
      : [];
  }
  if (format.scale === "tensor")
    return plan.size === 0
      ? []
      : [words(report, peaks[state]! + turns[tensor]!, 1)];
  return pieces.map(({ states, length }) => {
    const { scales } = states[state] as { scales: Place };
    return words(
      codes.buffer(scales.chunk),
      scales.offset / 4,
      Math.ceil(length / format.blockSize),
    );
  });
}

/** Ranges of buffers one behind the other; all but the last a multiple of 4 bytes. */
export async function readBytes(
  { device, map }: StateAccess,
  parts: readonly Part[],
): Promise<ArrayBuffer> {
  const size = parts.reduce((sum, { bytes }) => sum + bytes, 0);
  if (size === 0) return new ArrayBuffer(0);
  const staging = device.createBuffer({
    size: alignUp(size, 4),
    usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
  });
  const encoder = device.createCommandEncoder();
  let at = 0;
  for (const { buffer, offset, bytes } of parts) {
    encoder.copyBufferToBuffer(buffer, offset, staging, at, alignUp(bytes, 4));
    at += bytes;
  }
  device.queue.submit([encoder.finish()]);
  try {
    await map(staging);
    return staging.getMappedRange().slice(0, size);
  } finally {
    staging.destroy();
  }
}

export function writeState(
  access: StateAccess,
  tensor: number,
  state: number,
  stored: StoredState,
): void {
  const { memory, turns } = access;
  const { queue } = access.device;
  const one = memory.tensors[tensor]!;
  const { plan, peaks } = one;
  writeSmall(access, one, state, stored);
  writePieces(access, one, state, stored);
  const peak = peaks[state];
  if (stored.kind === "quantized" && peak !== undefined && plan.size > 0)
    queue.writeBuffer(
      memory.report,
      4 * (peak + turns[tensor]!),
      stored.scales,
    );
}

/** A state that is not per element, and rank-1 scales. */
function writeSmall(
  { device: { queue }, memory }: StateAccess,
  { plan, small }: Tensor,
  state: number,
  stored: StoredState,
): void {
  if (!small) return;
  const buffer = memory.smalls.buffer(small.chunk);
  const at = small.states.get(state);
  if (at !== undefined && stored.kind === "float")
    queue.writeBuffer(buffer, 4 * at, stored.values);
  const rank1 = small.rank1.get(state);
  if (!rank1 || stored.kind !== "quantized") return;
  queue.writeBuffer(buffer, 4 * rank1.scales, stored.scales);
  if (rank1.lead !== rank1.scales)
    queue.writeBuffer(
      buffer,
      4 * rank1.lead,
      leadingSpread(stored.scales, plan.shape),
    );
}

function writePieces(
  { device: { queue }, memory }: StateAccess,
  { plan, pieces }: Tensor,
  state: number,
  stored: StoredState,
): void {
  const format = plan.formats[state]!;
  for (const { states, start, length } of pieces) {
    const place = states[state]!;
    if (stored.kind === "float" && place.kind === "float")
      queue.writeBuffer(
        memory.floats.buffer(place.at.chunk),
        place.at.offset,
        stored.values.slice(start, start + length),
      );
    if (stored.kind === "float" && place.kind === "half") {
      const halves = new Uint16Array(alignUp(length, 2));
      for (let i = 0; i < length; i++)
        halves[i] = toBfloat16(stored.values[start + i]!);
      queue.writeBuffer(
        memory.codes.buffer(place.at.chunk),
        place.at.offset,
        halves,
      );
    }
    if (
      stored.kind !== "quantized" ||
      place.kind !== "quantized" ||
      format.kind !== "quantized"
    )
      continue;
    const from = codeBytes(format.bits, start);
    const bytes = codeBytes(format.bits, length);
    const padded = new Uint8Array(alignUp(bytes, 4));
    padded.set(stored.codes.subarray(from, from + bytes));
    const buffer = memory.codes.buffer(place.codes.chunk);
    queue.writeBuffer(buffer, place.codes.offset, padded);
    if (place.scales)
      queue.writeBuffer(
        buffer,
        place.scales.offset,
        stored.scales.slice(
          start / format.blockSize,
          Math.ceil((start + length) / format.blockSize),
        ),
      );
  }
}

/** The regions of states that a host keeps: the chunks of the arenas. */
export function hostStates(memory: Memory): HostStates {
  const chunks = stateArenas(memory).flatMap((arena) =>
    arena.sizes.map((bytes, chunk) => ({ arena, chunk, bytes })),
  );
  const regionOf = (arena: Arena, chunk: number) =>
    chunks.findIndex((one) => one.arena === arena && one.chunk === chunk);
  const filled = initialWords(memory);
  return {
    regions: chunks.map(({ arena, chunk, bytes }) => ({
      bytes,
      initial() {
        const data = new Uint32Array(bytes / 4);
        for (const one of filled)
          if (one.arena === arena && one.chunk === chunk)
            data.fill(one.value, one.offset / 4, one.offset / 4 + one.words);
        return new Uint8Array(data.buffer);
      },
    })),
    pieces(tensor, state) {
      const { pieces, plan, small } = memory.tensors[tensor]!;
      // Rank-1 scales lie there twice, and among values of the kernels.
      if (isRank1(plan.formats[state]!)) return undefined;
      if (plan.program.stateShapes[state] === "element")
        return pieces.map((piece) => ({
          start: piece.start,
          length: piece.length,
          ...placeIn(memory, piece.states[state]!, regionOf),
        }));
      const at = small?.states.get(state);
      if (!small || at === undefined) return [];
      return [
        {
          start: 0,
          length: stateLength(plan, state),
          region: regionOf(memory.smalls, small.chunk),
          codes: 4 * at,
          scales: undefined,
        },
      ];
    },
  };
}

function placeIn(
  { codes, floats }: Memory,
  place: StatePlace,
  regionOf: (arena: Arena, chunk: number) => number,
): Pick<StatePiece, "region" | "codes" | "scales"> {
  switch (place.kind) {
    case "small":
      throw new Error("webgpu: a state of rows or columns has no pieces");
    case "quantized":
      return {
        region: regionOf(codes, place.codes.chunk),
        codes: place.codes.offset,
        scales: place.scales?.offset,
      };
    case "float":
    case "half": {
      const arena = place.kind === "float" ? floats : codes;
      return {
        region: regionOf(arena, place.at.chunk),
        codes: place.at.offset,
        scales: undefined,
      };
    }
  }
}
