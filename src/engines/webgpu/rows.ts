/**
 * The kernel for states with 8 bits and blocks of one size: an invocation takes
 * several quads of a block, a row of quads apart, so that neighbours read and
 * write next to each other. What belongs to a block is found once for all of
 * them, and more bytes are on their way at a time.
 */
import type { KernelShape, QuantizedState } from "./kernel.ts";
import { perQuad, quadAt, skipped } from "./parts.ts";

/** Blocks of one size, each taken by some invocations whose quads lie side by side in rows. */
export function rowMain(shape: KernelShape): string {
  const { spec, quantized, quads, stride } = shape;
  const { workgroup, aligned } = spec;
  const edge = aligned && quads > 1;
  const each = workgroup / stride;
  const peaks = each * quantized.length;
  const peak = (set: string, i: number) =>
    `peaks[${set} * ${peaks}u + ${i * each}u + invocation / ${stride}u]`;
  return `
// Four sets in turn, so that one barrier a tile is enough.
var<workgroup> peaks: array<atomic<u32>, ${4 * peaks}>;
@compute @workgroup_size(${workgroup})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {
  load_tables(invocation);
  let span = group.x + group.y * groups.x;
  // A private variable counts as non-uniform, a local one does not.
  let own = find_segment(span);
  here = job.list[own];
  let total = (job.list[own].length + 3u) / 4u;
  let skipped = ${skipped(shape)};
  workgroupBarrier();
  // Workgroups sweep the segment side by side, all of them at its front.
  let first = (span - job.list[own].first_span) * ${workgroup * quads}u + invocation / ${stride}u * ${stride * quads}u + invocation % ${stride}u;
  let step = job.list[own].spans * ${workgroup * quads}u;
  let tiles = job.tiles;
  for (var tile = 0u; tile < tiles; tile += 1u) {
    let at = first + tile * step;
    let live = at < total && !skipped;
    var lane: Lane;
    if (live) {
${
  edge
    ? `      if (at + ${(quads - 1) * stride}u < total) { lane = advance(at); } else { lane = advance_edge(at); }`
    : `      lane = advance(at);`
}
      store_parameter(at, lane);
${quantized.map(({ name }, i) => `      atomicMax(&${peak("(tile & 3u)", i)}, peak_${name}(lane));`).join("\n")}
    }
    workgroupBarrier();
    if (invocation < ${peaks}u) { atomicStore(&peaks[((tile + 2u) & 3u) * ${peaks}u + invocation], 0u); }
    if (live) {
${quantized.map(({ name }, i) => `      let peak_${name} = atomicLoad(&${peak("(tile & 3u)", i)});`).join("\n")}
      store_states(at, lane${quantized.map(({ name }) => `, peak_${name}`).join("")});
      if (invocation % ${stride}u == 0u) {
${quantized.map(({ name, format }) => `        store_scale_${name}(at / ${format.blockSize / 4}u, peak_${name});`).join("\n")}
      }
    }
  }
}`;
}

/** The codes that an invocation decodes, quad by quad, and the scale of its block. */
export function loadRows(shape: KernelShape, state: QuantizedState): string {
  const { name, format } = state;
  const words = perQuad(
    shape,
    (k) =>
      `  let bits_${name}${k} = codes[here.${name}_at + ${quadAt(shape, k)}];`,
  );
  return [
    ...words,
    `  let scale_${name} = bitcast<f32>(codes[here.${name}_scales + at / ${format.blockSize / 4}u]);`,
  ].join("\n");
}

/** Stores the codes of every quad. */
export const storeRows = (
  shape: KernelShape,
  { name }: QuantizedState,
  code: (k: number) => string,
): string =>
  perQuad(shape, (k) => {
    const at = quadAt(shape, k);
    const store = `codes[here.${name}_at + ${at}] = code;`;
    return `  { let code = ${code(k)}; ${k === 0 ? store : `if (4u * ${at} < here.length) { ${store} }`} }`;
  }).join("\n");
