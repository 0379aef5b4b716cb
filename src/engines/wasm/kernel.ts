/**
 * The fused step: one generated module for a formula and the formats of its
 * states. Reads gradient, parameter and states once and writes them once.
 *
 * Elements are taken in superblocks: the largest block of the formats. Codes
 * cannot be written before a block's absmax is known, so a superblock goes
 * through two phases, with the new states as float32 in scratch between them:
 *
 *   A: decode, new states, largest magnitudes -> scales
 *   B: new parameter, encode
 *
 * The loop runs phase A of one superblock before phase B of the one before it,
 * which hides the latency of maxima and reciprocals (measured, 3 %).
 *
 * A superblock in which something is not finite, and the last one when it is
 * not full, go through the same two phases with masks, in a function of their
 * own, so that the usual path pays for neither. Phase A writes nothing but
 * scratch, so it can be run again.
 */
import type { ModuleBuilder } from "../../formula/assembler.ts";
import { carefulFunction } from "./careful.ts";
import { KernelPlan, type KernelSpec } from "./kernel-plan.ts";
import { blockLoop, floatLoop, measureLoop } from "./loops.ts";
import type { Aim } from "./phase-a.ts";

/** A kernel's module text and what it needs. */
export interface Kernel {
  readonly module: ModuleBuilder;
  /** Bytes of scratch that a running kernel needs. */
  readonly scratchBytes: number;
  /** Whether a scale of a whole tensor must be measured before the update. */
  readonly measures: boolean;
  /** Nodes whose values the kernel reads from memory, in the order of their addresses. */
  readonly small: readonly number[];
  /**
   * States with rank-1 scales, of the tensor or of tiles. After the small values
   * come four addresses for each: least old scale of the leading axes by row, old
   * scales of the last axis (or of rows and columns of tiles), and the inverses of
   * the same two of the new scales.
   */
  readonly rank1: readonly number[];
}

/**
 * Builds the kernel: `update(task, scratch)`, if it measures `measure(task,
 * scratch)`, and for a program with reductions `pass0`, `pass1`, ...
 */
export function buildKernel(spec: KernelSpec): Kernel {
  const plan = new KernelPlan(spec);
  const careful = carefulFunction(plan, { kind: "update" });
  const update =
    plan.size > 16 ? blockLoop(plan, careful) : floatLoop(plan, careful);
  plan.module.export("update", update);
  const measures = plan.tensor.length + plan.rank1.length > 0;
  const measure = (name: string, aim: Aim) =>
    plan.module.export(name, measureLoop(plan, carefulFunction(plan, aim)));
  if (measures) measure("measure", { kind: "measure" });
  plan.passes.forEach((reductions, pass) =>
    measure(`pass${pass}`, { kind: "pass", reductions }),
  );
  return {
    module: plan.module,
    scratchBytes: plan.scratch,
    measures,
    small: plan.small,
    rank1: plan.rank1.map(({ s }) => s),
  };
}
