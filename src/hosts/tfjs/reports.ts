/** Reports of several batches as one. */
import type { MemoryReport } from "../../core/memory.ts";
import type { Stats } from "../../core/reports.ts";

export function joinMemory(reports: readonly MemoryReport[]): MemoryReport {
  const total = (of: (report: MemoryReport) => number) =>
    reports.reduce((sum, report) => sum + of(report), 0);
  const stateBytes = total((report) => report.stateBytes);
  const parameters = total((report) => report.parameters);
  return {
    stateBytes,
    stateBytes32: total((report) => report.stateBytes32),
    parameters,
    bytesPerParameter: parameters > 0 ? stateBytes / parameters : 0,
    workspaceBytes: total((report) => report.workspaceBytes),
    tensors: reports.flatMap(({ tensors }) => tensors),
  };
}

export function joinStats(
  step: number,
  lr: number,
  all: readonly Stats[],
): Stats {
  const norms = all.flatMap(({ gradNorm }) => gradNorm ?? []);
  return {
    step,
    lr,
    ...(norms.length === 0 ? {} : { gradNorm: Math.hypot(...norms) }),
    nonFinite: all.reduce((sum, { nonFinite }) => sum + nonFinite, 0),
    skipped: all.some(({ skipped }) => skipped),
  };
}
