/** Which kernel each tensor needs, and which tensors share a dispatch. */
import type { EngineOptions, Written } from "../engine.ts";
import type { BufferView } from "./buffers.ts";
import { jobBytes, kernelShape, type KernelSpec } from "./kernel.ts";
import type { PlacedPiece } from "./layout.ts";
import type { Tensor } from "./memory.ts";
import { elementBytes } from "./operands.ts";
import { slotLimit } from "./pipelines.ts";
import { knowsRows } from "./small.ts";
import { pack, rangeOf, type Batch, type Range } from "./plan.ts";
import { workgroupFor, type ResolvedTuning } from "./tuning.ts";

/** Tensors that a list of jobs has room for: flat buffers of a model hold hundreds. */
const mostSegments = 256;
const fewSegments = 64;

/** A tensor that takes part in a step. */
export interface Work {
  readonly tensor: Tensor;
  readonly parameter: Required<BufferView>;
  readonly gradient: Required<BufferView>;
  readonly written: Written;
}

/** What one dispatch takes. */
export interface KernelBatch {
  /** Of the kernel: equal specs have equal keys. */
  readonly key: string;
  readonly spec: KernelSpec;
  readonly batch: Batch<PlacedPiece>;
}

interface Kind {
  readonly spec: KernelSpec;
  readonly pieces: {
    readonly piece: PlacedPiece;
    readonly p: Range;
    readonly g: Range;
  }[];
}

/** Sorts pieces by the kernel they need and packs each kind into dispatches. */
export function batchesOf(
  device: GPUDevice,
  work: readonly Work[],
  options: EngineOptions,
  tuning: ResolvedTuning,
): KernelBatch[] {
  const kinds = new Map<string, Kind>();
  for (const one of work)
    for (const piece of one.tensor.pieces)
      addPiece(kinds, one, piece, options, tuning);
  return [...kinds].flatMap(([key, kind]) =>
    packKind(device, key, kind, tuning),
  );
}

/** Rows beyond this length are not asked for: see {@link KernelSpec.rowUnit}. */
const mostUnit = 1024;

/** Of sums of everything nobody knows rows: a tensor need not be whole rows then. */
function rowUnitOf({ plan: { program, formats }, small }: Tensor): number {
  const { columns } = small!.tiling;
  return knowsRows(program, formats)
    ? Math.min(mostUnit, columns & -columns)
    : 0;
}

function addPiece(
  kinds: Map<string, Kind>,
  { tensor, parameter, gradient, written }: Work,
  piece: PlacedPiece,
  { skip, clip }: EngineOptions,
  { solo, workgroup, quads, alone: most, subgroups }: ResolvedTuning,
): void {
  const { program, formats } = tensor.plan;
  const p = rangeOf(parameter, piece);
  const g = rangeOf(gradient, piece);
  const aligned =
    piece.length % 4 === 0 &&
    p.start % (4 * elementBytes(parameter.type)) === 0 &&
    g.start % (4 * elementBytes(gradient.type)) === 0;
  const paired =
    !solo &&
    piece.length % 8 === 0 &&
    parameter.type !== "float32" &&
    written === "parameter" &&
    gradient.type !== "float32" &&
    p.start % 16 === 0 &&
    g.start % 16 === 0;
  const alone = piece.length > most;
  const wide = tensor.small?.tiling.wide ?? false;
  const rowUnit = wide ? rowUnitOf(tensor) : 0;
  const key = [
    tensor.key,
    parameter.type,
    parameter.rounding,
    gradient.type,
    written,
    aligned,
    paired,
    alone,
    wide,
    rowUnit,
  ].join(" ");
  let kind = kinds.get(key);
  if (!kind) {
    kind = {
      spec: {
        program,
        formats,
        parameterType: parameter.type,
        gradientType: gradient.type,
        parameterRounding: parameter.rounding,
        written,
        aligned,
        paired,
        slots: 1,
        segments: alone ? 1 : mostSegments,
        skip: skip !== "off",
        guarded: clip || skip === "step",
        clip,
        solo,
        workgroup: workgroup ?? (solo ? 64 : workgroupFor(formats)),
        quads,
        wide,
        rowUnit,
        mode: "update",
        subgroups,
      },
      pieces: [],
    };
    kinds.set(key, kind);
  }
  kind.pieces.push({ piece, p, g });
}

function packKind(
  device: GPUDevice,
  key: string,
  { spec, pieces }: Kind,
  tuning: ResolvedTuning,
): KernelBatch[] {
  const shape = kernelShape(spec);
  const slots = Math.min(tuning.slots, slotLimit(device, shape));
  const room = device.limits.maxUniformBufferBindingSize;
  const batches = pack(pieces, {
    slots: spec.segments === 1 ? 1 : slots,
    segments: jobBytes(shape) > room ? fewSegments : spec.segments,
    bindingBytes: tuning.binding,
    elements: Infinity,
  });
  // One variant for all batches of a kind: a pipeline takes longer to
  // compile than its unused bindings cost.
  const most = Math.max(
    ...batches.map(({ p, g }) => Math.max(p.length, g.length)),
  );
  const longest = Math.max(...batches.map(({ segments }) => segments.length));
  const own: KernelSpec = {
    ...spec,
    slots: most === 1 ? 1 : slots,
    segments: [1, 8, fewSegments].find((n) => longest <= n) ?? mostSegments,
  };
  return batches.map((batch) => ({
    key: `${key} ${own.slots} ${own.segments}`,
    spec: own,
    batch,
  }));
}
