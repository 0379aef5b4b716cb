/**
 * The pass before the step that clipping and leaving out whole steps need: the
 * norm of all gradients and how many are not finite. Every workgroup writes
 * one partial sum and a last small kernel adds them, always in the same order:
 * the same gradients give the same norm, bit for bit.
 *
 * Squares of float32 overflow early, so there are three sums for large, middle
 * and small magnitudes, as in Blue's algorithm (ACM TOMS 4, 1978).
 */
import type { ElementType } from "./kernel.ts";
import { reportWords } from "./report.ts";

export interface NormSpec {
  readonly gradientType: ElementType;
  readonly slots: number;
  readonly segments: number;
}

export const normWorkgroup = 64;
/** Elements that one workgroup adds up. */
export const normSpan = 16384;
export const normFields = ["first_span", "length", "slot", "at"] as const;
export const firstGradientBinding = 3;

export const normBytes = ({ segments }: NormSpec): number => 16 + 16 * segments;

const read: Readonly<Record<ElementType, string>> = {
  float32: "bitcast<f32>(gradient_SLOT[i])",
  float16: "unpack2x16float(gradient_SLOT[i / 2u])[i % 2u]",
  bfloat16: "bitcast<f32>((gradient_SLOT[i / 2u] >> (16u * (i % 2u))) << 16u)",
};

export function normCode({ gradientType, slots, segments }: NormSpec): string {
  const each = Array.from({ length: slots }, (_, slot) => slot);
  return `
struct Segment { first_span: u32, length: u32, slot: u32, at: u32 }
struct Job { spans: u32, segments: u32, first_partial: u32, padding: u32, list: array<Segment, ${segments}> }
@group(0) @binding(0) var<uniform> job: Job;
@group(0) @binding(2) var<storage, read_write> partials: array<vec4f>;
${each.map((slot) => `@group(0) @binding(${firstGradientBinding + slot}) var<storage, read> gradient_${slot}: array<u32>;`).join("\n")}
var<workgroup> sums: array<vec4f, ${normWorkgroup}>;

fn load(slot: u32, i: u32) -> f32 {
  switch slot {
${each
  .slice(1)
  .map(
    (slot) =>
      `    case ${slot}u: { return ${read[gradientType].replaceAll("SLOT", String(slot))}; }`,
  )
  .join("\n")}
    default: { return ${read[gradientType].replaceAll("SLOT", "0")}; }
  }
}

@compute @workgroup_size(${normWorkgroup})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {
  let span = group.x + group.y * groups.x;
  var own = 0u;
  for (var half = ${segments / 2}u; half > 0u; half /= 2u) {
    if (own + half < job.segments && job.list[own + half].first_span <= span) { own += half; }
  }
  let segment = job.list[own];
  let first = (span - segment.first_span) * ${normSpan}u;
  let end = select(0u, min(segment.length, first + ${normSpan}u), span < job.spans);
  // Squares of large, middle and small magnitudes, and how many are not finite.
  var sum = vec4f(0.0);
  for (var i = first + invocation; i < end; i += ${normWorkgroup}u) {
    let g = load(segment.slot, segment.at + i);
    let magnitude = bitcast<u32>(g) & 0x7fffffffu;
    if (magnitude >= 0x7f800000u) { sum.w += 1.0; }
    else if (magnitude > 0x58800000u) { let x = g * 0x1p-90f; sum.x += x * x; }
    else if (magnitude < 0x26800000u) { let x = g * 0x1p80f; sum.z += x * x; }
    else { sum.y += g * g; }
  }
  sums[invocation] = sum;
  workgroupBarrier();
  if (invocation == 0u && span < job.spans) {
    for (var i = 1u; i < ${normWorkgroup}u; i += 1u) { sum += sums[i]; }
    partials[job.first_partial + span] = sum;
  }
}`;
}

/** Adds the partial sums and decides: the factor of every gradient, and whether to skip. */
export const decideCode = `
struct Decision { partials: u32, max_norm: f32, clip: u32, skip: u32 }
@group(0) @binding(0) var<uniform> decision: Decision;
@group(0) @binding(1) var<storage, read_write> report: array<u32>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec4f>;
var<workgroup> sums: array<vec4f, 64>;

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) invocation: u32) {
  var sum = vec4f(0.0);
  for (var i = invocation; i < decision.partials; i += 64u) { sum += partials[i]; }
  sums[invocation] = sum;
  workgroupBarrier();
  if (invocation != 0u) { return; }
  for (var i = 1u; i < 64u; i += 1u) { sum += sums[i]; }
  var norm = sqrt(sum.z) * 0x1p-80f;
  if (sum.y > 0.0) { norm = sqrt(sum.y); }
  if (sum.x > 0.0) { norm = sqrt(sum.x + sum.y * 0x1p-90f * 0x1p-90f) * 0x1p90f; }
  let bad = u32(sum.w);
  let skip = decision.skip != 0u && bad > 0u;
  report[${reportWords.norm}] = bitcast<u32>(norm);
  report[${reportWords.factor}] = bitcast<u32>(select(1.0, min(1.0, decision.max_norm / (norm + 1e-6)), decision.clip != 0u));
  report[${reportWords.skip}] = select(0u, 1u, skip);
  report[${reportWords.nonFinite}] = select(0u, bad, skip);
}`;
