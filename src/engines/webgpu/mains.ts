/** The entry points of a kernel: which invocation takes what, and where workgroups meet. */
import { isCorrected } from "./correct.ts";
import type { KernelShape, QuantizedState } from "./kernel.ts";
import {
  hasPeak,
  isBlock,
  isTensor,
  lanesPerBlock,
  peakIndex,
  skipped,
  tensorPeak,
  writesNothing,
} from "./parts.ts";

/** One main for a kernel with barriers: an invocation takes one word of codes of each tile. */
export function updateMain(shape: KernelShape): string {
  const { workgroup } = shape.spec;
  const { quantized, peaks } = shape;
  const blocks = quantized.filter(isBlock);
  const corrected = blocks.filter(isCorrected);
  // Of each block two, in three sets like the peaks.
  const sums = (state: QuantizedState, set: string) =>
    [0, 1].map(
      (i) => `sums[2u * (${set} + ${peakIndex(shape, state)}) + ${i}u]`,
    );
  return `
${peaks > 0 ? `var<workgroup> peaks: array<atomic<u32>, ${3 * peaks}>;` : ""}
${corrected.length > 0 ? `var<workgroup> sums: array<atomic<i32>, ${6 * peaks}>;` : ""}
@compute @workgroup_size(${workgroup})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {
  ${quantized.length > 0 ? "load_tables(invocation);" : ""}
  let span = group.x + group.y * groups.x;
  // A private variable counts as non-uniform, a local one does not.
  let own = find_segment(span);
  here = job.list[own];
  // Workgroups sweep the segment side by side, all of them at its front.
  let total = words(own);
  let first = (span - job.list[own].first_span) * ${workgroup}u;
  let stride = job.list[own].spans * ${workgroup}u;
  let skipped = ${skipped(shape)};
  ${quantized.length > 0 ? "workgroupBarrier();" : ""}
  var turn = 0u;
  for (var tile = first; tile < total; tile += stride) {
    let at = tile + invocation;
    let live = at < total && !skipped;
    var lane: Lane;
    if (live) {
      lane = advance(at);
      store_parameter(at, lane);
${blocks.map((state) => `      atomicMax(&peaks[turn + ${peakIndex(shape, state)}], peak_${state.name}(lane));`).join("\n")}
    }${writesNothing(shape) ? " else if (at < total) { store_parameter(at, Lane()); }" : ""}
${
  peaks > 0
    ? `    workgroupBarrier();
    // Three sets of peaks in turn, so that one barrier a tile is enough: the
    // set of the tile after next is read by nobody now.
    turn += ${peaks}u;
    if (invocation < ${peaks}u) { atomicStore(&peaks[(turn + ${peaks}u) % ${3 * peaks}u + invocation], 0u); }
${corrected.length > 0 ? `    if (invocation < ${2 * peaks}u) { atomicStore(&sums[2u * ((turn + ${peaks}u) % ${3 * peaks}u) + invocation], 0i); }` : ""}
    let current = turn - ${peaks}u;
    turn %= ${3 * peaks}u;`
    : ""
}
${corrected.map(({ name }) => `    sums_${name} = vec2i();`).join("\n")}
    if (live) {
${quantized
  .filter(hasPeak)
  .map(
    (state) =>
      `      let peak_${state.name} = ${isBlock(state) ? `atomicLoad(&peaks[current + ${peakIndex(shape, state)}])` : tensorPeak(state)};`,
  )
  .join("\n")}
      store_states(at, lane${quantized
        .filter(hasPeak)
        .map(({ name }) => `, peak_${name}`)
        .join("")});
${blocks
  .map((state) =>
    isCorrected(state)
      ? sums(state, "current")
          .map(
            (sum, i) => `      atomicAdd(&${sum}, sums_${state.name}[${i}]);`,
          )
          .join("\n")
      : `      if (invocation % ${lanesPerBlock(shape, state)}u == 0u) { store_scale_${state.name}(at / ${lanesPerBlock(shape, state)}u, peak_${state.name}); }`,
  )
  .join("\n")}
    }
${
  corrected.length > 0
    ? `    workgroupBarrier();
    if (live) {
${corrected
  .map((state) => {
    const [squares, products] = sums(state, "current");
    const peak = `atomicLoad(&peaks[current + ${peakIndex(shape, state)}])`;
    return `      if (invocation % ${lanesPerBlock(shape, state)}u == 0u) { store_scale_${state.name}(at / ${lanesPerBlock(shape, state)}u, corrected_${state.name}(${peak}, vec2i(atomicLoad(&${squares}), atomicLoad(&${products})))); }`;
  })
  .join("\n")}
    }`
    : ""
}
  }
${rotateScales(shape)}
}`;
}

/**
 * The main without barriers, for software drivers, where a barrier costs as
 * much as some hundred elements: an invocation takes the largest block on its
 * own, twice over.
 */
export function soloMain(shape: KernelShape): string {
  const { workgroup } = shape.spec;
  const { quantized, run, quads } = shape;
  const blocks = quantized.filter(isBlock);
  const inRun = (state: QuantizedState) =>
    (4 * quads * run) / state.format.blockSize;
  const block = (state: QuantizedState) =>
    `k / ${state.format.blockSize / (4 * quads)}u`;
  return `
@compute @workgroup_size(${workgroup})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {
  let span = group.x + group.y * groups.x;
  // A private variable counts as non-uniform, a local one does not.
  let own = find_segment(span);
  here = job.list[own];
  let skipped = ${skipped(shape)};
  for (var tile = 0u; tile < job.tiles; tile += 1u) {
    let first = (((span - here.first_span) * job.tiles + tile) * ${workgroup}u + invocation) * ${run}u;
    let end = min(words(own), first + ${run}u);
${writesNothing(shape) ? "    if (skipped) { for (var at = first; at < end; at += 1u) { store_parameter(at, Lane()); } }" : ""}
    if (first >= end || skipped) { break; }
${blocks.map((state) => `    var peaks_${state.name}: array<u32, ${inRun(state)}>;`).join("\n")}
${blocks
  .filter(isCorrected)
  .map((state) => `    var all_${state.name}: array<vec2i, ${inRun(state)}>;`)
  .join("\n")}
${
  blocks.length > 0
    ? `    for (var k = 0u; first + k < end; k += 1u) {
      let lane = advance(first + k);
${blocks.map((state) => `      peaks_${state.name}[${block(state)}] = max(peaks_${state.name}[${block(state)}], peak_${state.name}(lane));`).join("\n")}
    }`
    : ""
}
    for (var k = 0u; first + k < end; k += 1u) {
      let at = first + k;
      let lane = advance(at);
      store_parameter(at, lane);
${blocks
  .filter(isCorrected)
  .map(({ name }) => `      sums_${name} = vec2i();`)
  .join("\n")}
      store_states(at, lane${quantized
        .filter(hasPeak)
        .map((state) =>
          isBlock(state)
            ? `, peaks_${state.name}[${block(state)}]`
            : `, ${tensorPeak(state)}`,
        )
        .join("")});
${blocks
  .filter(isCorrected)
  .map(
    (state) =>
      `      all_${state.name}[${block(state)}] += sums_${state.name};`,
  )
  .join("\n")}
    }
${blocks
  .map((state) => {
    const peak = `peaks_${state.name}[${block(state)}]`;
    const scale = isCorrected(state)
      ? `corrected_${state.name}(${peak}, all_${state.name}[${block(state)}])`
      : peak;
    return `    for (var k = 0u; first + k < end; k += ${state.format.blockSize / (4 * quads)}u) { store_scale_${state.name}((first + k) / ${state.format.blockSize / (4 * quads)}u, ${scale}); }`;
  })
  .join("\n")}
  }
${rotateScales(shape)}
}`;
}

/** The main that finds the largest magnitude of each state with one scale a tensor. */
export function measureMain(shape: KernelShape): string {
  const { workgroup, solo } = shape.spec;
  const { quantized, run } = shape;
  const whole = quantized.filter(isTensor);
  return `
${solo ? "" : `var<workgroup> peaks: array<atomic<u32>, ${whole.length}>;`}
@compute @workgroup_size(${workgroup})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {
  ${solo ? "" : "load_tables(invocation);"}
  let span = group.x + group.y * groups.x;
  // A private variable counts as non-uniform, a local one does not.
  let own = find_segment(span);
  here = job.list[own];
  let skipped = ${skipped(shape)};
  ${solo ? "" : "workgroupBarrier();"}
${whole.map(({ name }) => `  var largest_${name} = 0u;`).join("\n")}
  for (var tile = 0u; tile < job.tiles; tile += 1u) {
    let first = (((span - here.first_span) * job.tiles + tile) * ${workgroup}u + invocation) * ${run}u;
    let end = min(words(own), first + ${run}u);
    for (var at = first; at < end; at += 1u) {
      let lane = advance(at);
${whole.map(({ name }) => `      largest_${name} = max(largest_${name}, peak_${name}(lane));`).join("\n")}
    }
  }
${whole.map(({ name }, i) => (solo ? `  if (!skipped) { atomicMax(&report[here.${name}_next], largest_${name}); }` : `  atomicMax(&peaks[${i}], largest_${name});`)).join("\n")}
${solo ? "" : "  workgroupBarrier();"}
${solo ? "" : whole.map(({ name }, i) => `  if (invocation == ${i}u && !skipped) { atomicMax(&report[here.${name}_next], atomicLoad(&peaks[${i}])); }`).join("\n")}
}`;
}

/**
 * A tensor's scale has three words in turn: the old one is read while the new
 * one is found, and the third is cleared for the next step.
 */
function rotateScales({ quantized }: KernelShape): string {
  const whole = quantized.filter(isTensor);
  if (whole.length === 0) return "";
  return `  if (span == here.first_span && invocation == 0u) {
${whole.map(({ name }) => `    atomicStore(&report[here.${name}_spare], 0u);\n    if (skipped) { atomicStore(&report[here.${name}_next], atomicLoad(&report[here.${name}_peak])); }`).join("\n")}
  }`;
}
