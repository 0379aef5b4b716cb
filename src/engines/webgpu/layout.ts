/** Where the states of every tensor lie. */
import type { Format } from "../../formats/format.ts";
import { codeBytes } from "../../formats/pack.ts";
import type { TensorPlan } from "../engine.ts";
import { alignUp, type Arena, type Place } from "./buffers.ts";
import type { Piece } from "./plan.ts";

/** One state of a piece. */
export type StatePlace =
  | { readonly kind: "float"; readonly at: Place }
  /** 16 bits a value, with the codes. */
  | { readonly kind: "half"; readonly at: Place }
  /** Not per element: with the tensor and not with its pieces, see small.ts. */
  | { readonly kind: "small" }
  | {
      readonly kind: "quantized";
      readonly codes: Place;
      /** Absent with one scale for the tensor. */
      readonly scales: Place | undefined;
    };

export interface PlacedPiece extends Piece {
  readonly states: readonly StatePlace[];
}

/** Pieces end at multiples of this: of every block, and of what a binding may start at. */
const pieceStep = 65536;

/** An invocation may own 16 elements: what lies behind the last must be there. */
const padding = 16;

export function placeTensor(
  { size, formats, program }: TensorPlan,
  tensor: number,
  codes: Arena,
  floats: Arena,
  bindingBytes: number,
): PlacedPiece[] {
  const small = formats.map((_, s) => program.stateShapes[s] !== "element");
  const each = formats.filter((_, s) => !small[s]);
  const most = pieceLength(each, codes, floats, bindingBytes);
  const pieces: PlacedPiece[] = [];
  for (let start = 0; start < size; start += most) {
    const length = Math.min(most, size - start);
    const padded = alignUp(length, padding);
    let codeSize = 0;
    let floatSize = 0;
    const relative = formats.map((format, s) => {
      if (small[s]) return { at: 0 };
      if (format.bits === 16) {
        codeSize += 2 * padded;
        return { at: codeSize - 2 * padded };
      }
      if (format.kind === "float") {
        const at = floatSize;
        floatSize += 4 * padded;
        return { at };
      }
      const at = codeSize;
      codeSize += alignUp(codeBytes(format.bits, padded), 16);
      const scalesAt = codeSize;
      if (format.scale === "block")
        codeSize += alignUp(4 * Math.ceil(length / format.blockSize), 16);
      return { at, scalesAt };
    });
    const code = codeSize > 0 ? codes.place(codeSize) : undefined;
    const float = floatSize > 0 ? floats.place(floatSize) : undefined;
    const shifted = (place: Place, by: number): Place => ({
      chunk: place.chunk,
      offset: place.offset + by,
    });
    pieces.push({
      tensor,
      start,
      length,
      codesChunk: code?.chunk ?? -1,
      floatsChunk: float?.chunk ?? -1,
      states: formats.map((format, i): StatePlace => {
        if (small[i]) return { kind: "small" };
        const { at, scalesAt } = relative[i]!;
        if (format.kind === "float")
          return format.bits === 16
            ? { kind: "half", at: shifted(code!, at) }
            : { kind: "float", at: shifted(float!, at) };
        return {
          kind: "quantized",
          codes: shifted(code!, at),
          scales:
            format.scale === "block" ? shifted(code!, scalesAt!) : undefined,
        };
      }),
    });
  }
  return pieces;
}

function pieceLength(
  formats: readonly Format[],
  codes: Arena,
  floats: Arena,
  bindingBytes: number,
): number {
  let codeBits = 0;
  let floatBytes = 0;
  for (const format of formats)
    if (format.bits === 16) codeBits += 16;
    else if (format.kind === "float") floatBytes += 4;
    else
      codeBits +=
        8 * codeBytes(format.bits, 1) +
        (format.scale === "block" ? 32 / format.blockSize : 0);
  // A binding may have to start up to 256 bytes before the piece.
  const longest = Math.min(
    (bindingBytes - 512) / 4,
    floatBytes > 0 ? (floats.limit - 512) / floatBytes : Infinity,
    codeBits > 0 ? ((codes.limit - 512) * 8) / codeBits : Infinity,
  );
  return Math.max(1, Math.floor(longest / pieceStep)) * pieceStep;
}
