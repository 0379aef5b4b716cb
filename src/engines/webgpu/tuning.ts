/** What a session may be told about how to run; the defaults are what was measured best. */
import { storedBits } from "../../formats/pack.ts";
import type { TensorPlan } from "../engine.ts";
import type { KernelShape } from "./kernel.ts";

/** How a session runs on its device; the defaults are what was measured best. */
export interface Tuning {
  /** One invocation a block, without barriers. Default: on software drivers. */
  readonly solo?: boolean;
  /** Invocations of a workgroup. Default 256, 128 for narrow codes. */
  readonly workgroup?: number;
  /** Fewest fours of elements that an invocation takes at a time. Default 1. */
  readonly quads?: number;
  /** Most tiles that a workgroup takes in turn. Default 8, 4 or 5 where an invocation takes more than a quad. */
  readonly tiles?: number;
  /** Most tensors in buffers of their own that share a dispatch. */
  readonly slots?: number;
  /** Tensors of more elements have a dispatch of their own. */
  readonly alone?: number;
  /** Whether neighbours may exchange through subgroups. Default: where the device has them. */
  readonly subgroups?: boolean;
  /** Most bytes of a binding; larger tensors are cut. Default: the device's limit. */
  readonly binding?: number;
}

export type ResolvedTuning = Required<Omit<Tuning, "workgroup" | "tiles">> &
  Pick<Tuning, "workgroup" | "tiles">;

export function resolveTuning(
  device: GPUDevice,
  tuning: Tuning,
): ResolvedTuning {
  return {
    solo: tuning.solo ?? false,
    ...(tuning.workgroup !== undefined && { workgroup: tuning.workgroup }),
    ...(tuning.tiles !== undefined && { tiles: tuning.tiles }),
    quads: tuning.quads ?? 1,
    slots: tuning.slots ?? Infinity,
    alone: tuning.alone ?? 2 ** 24,
    subgroups: tuning.subgroups ?? device.features.has("subgroups"),
    binding: tuning.binding ?? device.limits.maxStorageBufferBindingSize,
  };
}

/** Most tiles that a workgroup takes in turn. */
export function tilesFor({ quads, quantized }: KernelShape): number {
  if (quads === 1) return 8;
  return quantized.some(({ width }) => width < 8) ? 4 : 5;
}

/** Tiles of 1024 elements: with narrow codes an invocation takes more of them. */
export function workgroupFor(formats: TensorPlan["formats"]): number {
  const narrow = formats.some(({ bits }) => storedBits(bits) < 8);
  const largest = Math.max(
    0,
    ...formats.map((format) =>
      format.kind === "quantized" ? format.blockSize : 0,
    ),
  );
  return narrow && largest <= 1024 ? 128 : 256;
}
