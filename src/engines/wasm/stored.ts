/** Reads and writes states as they are stored, and says where they lie. */
import { fromBfloat16, toBfloat16 } from "../../formats/bfloat16.ts";
import { scaleCount, stateBytes } from "../../formats/format.ts";
import { codeBytes, lastByteMask } from "../../formats/pack.ts";
import {
  stateLength,
  type HostStates,
  type StatePiece,
  type StoredState,
} from "../engine.ts";
import { tablesKey } from "./kernels.ts";
import type { Heap } from "./memory.ts";
import {
  elementPositions,
  type MemoryPlan,
  type Placed,
  type PlacedState,
} from "./plan.ts";

const smallState = ({ plan, smallStates }: Placed, state: number) =>
  smallStates.get(plan.program.states[state]!);

const elementState = ({ plan, states }: Placed, state: number): PlacedState =>
  states[elementPositions(plan.program).indexOf(state)]!;

export function readState(
  placed: Placed,
  heap: Heap,
  state: number,
): StoredState {
  const small = smallState(placed, state);
  if (small) return { kind: "float", values: small.slice() };
  const { size, shape } = placed.plan;
  const { format, codes, scales } = elementState(placed, state);
  if (format.kind === "float")
    return {
      kind: "float",
      values:
        format.bits === 32
          ? heap.floats.slice(codes / 4, codes / 4 + size)
          : Float32Array.from(
              new Uint16Array(heap.memory.buffer, codes, size),
              fromBfloat16,
            ),
    };
  const bytes = heap.bytes.slice(codes, codes + codeBytes(format.bits, size));
  // The kernels leave codes of zeros in the unused bits of the last byte.
  if (bytes.length > 0)
    bytes[bytes.length - 1]! &= lastByteMask(format.bits, size);
  const count = scaleCount(format, size, shape);
  return {
    kind: "quantized",
    codes: bytes,
    scales: heap.floats.slice(scales / 4, scales / 4 + count),
  };
}

export function writeState(
  placed: Placed,
  heap: Heap,
  state: number,
  stored: StoredState,
): void {
  const small = smallState(placed, state);
  if (small) {
    if (stored.kind === "float") small.set(stored.values);
    return;
  }
  const { format, codes, scales } = elementState(placed, state);
  if (stored.kind === "quantized") {
    heap.bytes.set(stored.codes, codes);
    heap.floats.set(stored.scales, scales / 4);
  } else if (format.bits === 32) heap.floats.set(stored.values, codes / 4);
  else
    new Uint16Array(heap.memory.buffer, codes, stored.values.length).set(
      stored.values.map(toBfloat16),
    );
}

/** Bytes of one state as allocated. */
export const bytesOfState = ({ plan }: Placed, state: number): number =>
  stateBytes(plan.formats[state]!, stateLength(plan, state), plan.shape);

/** Codes of zeros where the states lie: all other bytes of a new memory are 0. */
export function fillZeroCodes(
  { placed, tables }: MemoryPlan,
  bytes: Uint8Array,
): void {
  for (const { plan, states } of placed)
    for (const { format, codes } of states)
      if (format.kind === "quantized")
        bytes.fill(
          tables.get(tablesKey(format))!.zeroByte,
          codes,
          codes + codeBytes(format.bits, plan.size),
        );
}

/** The one region of states that the host keeps. */
export function hostStates(plan: MemoryPlan): HostStates {
  const { placed, regionBytes } = plan;
  return {
    regions: [
      {
        bytes: regionBytes,
        initial() {
          const bytes = new Uint8Array(regionBytes);
          fillZeroCodes(plan, bytes);
          return bytes;
        },
      },
    ],
    pieces(tensor, state): StatePiece[] {
      const one = placed[tensor]!;
      const small = [...one.smallStates.keys()].indexOf(
        one.plan.program.states[state]!,
      );
      const piece = {
        start: 0,
        length: stateLength(one.plan, state),
        region: 0,
      };
      if (small >= 0)
        return [
          { ...piece, codes: one.smallStatesAt[small]!, scales: undefined },
        ];
      const { format, codes, scales } = elementState(one, state);
      return [
        {
          ...piece,
          codes,
          scales: format.kind === "quantized" ? scales : undefined,
        },
      ];
    },
  };
}

/** Copies the states that are not per element from the host's region, or to it. */
export function moveSmallStates(
  { placed }: MemoryPlan,
  heap: Heap,
  statesAt: number,
  way: "in" | "out",
): void {
  for (const { smallStates, smallStatesAt } of placed)
    [...smallStates.values()].forEach((values, i) => {
      const at = (statesAt + smallStatesAt[i]!) / 4;
      if (way === "in")
        values.set(heap.floats.subarray(at, at + values.length));
      else heap.floats.set(values, at);
    });
}
