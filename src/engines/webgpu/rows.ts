/**
 * The kernel for states with blocks of one size: an invocation takes several
 * quads of a block, a row of quads apart, so that neighbours read and write next
 * to each other. What belongs to a block is found once for all of them, and more
 * bytes are on their way at a time.
 *
 * A word of 4-bit codes belongs to two neighbours, each of which has one half of
 * it in every row. They read it both; before they write, each gives the other a
 * half, and one stores the word of the first row, the other that of the second.
 */
import type { KernelShape, QuantizedState } from "./kernel.ts";
import {
  hasEdge,
  isBlock,
  perQuad,
  quadAt,
  skipped,
  writesNothing,
} from "./parts.ts";

/** Quads that an invocation takes of a block: one took 4 %, four 9 % longer. */
export const quadsOfRows = 2;

const isNarrow = ({ width }: QuantizedState) => width === 4;

/** Blocks of one size, each taken by some invocations whose quads lie side by side in rows. */
export function rowMain(shape: KernelShape): string {
  const { spec, quantized, quads, stride } = shape;
  const { workgroup } = spec;
  const blocks = quantized.filter(isBlock);
  const narrow = quantized.filter(isNarrow);
  const each = workgroup / stride;
  const peaks = each * blocks.length;
  const peak = (i: number) =>
    `peaks[(tile & 3u) * ${peaks}u + ${i * each}u + invocation / ${stride}u]`;
  return `
// Four sets in turn, so that one barrier a tile is enough.
var<workgroup> peaks: array<atomic<u32>, ${4 * peaks}>;
${narrow.length > 0 ? `var<workgroup> given: array<u32, ${workgroup * narrow.length}>;` : ""}
${usesSubgroups(shape) ? "var<workgroup> apart: u32;" : ""}
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
${
  usesSubgroups(shape)
    ? `  // WGSL does not say which invocations are neighbours in a subgroup.
  if (subgroupShuffleXor(invocation, 1u) != (invocation ^ 1u)) { apart = 1u; }
  let side_by_side = workgroupUniformLoad(&apart) == 0u;`
    : "  workgroupBarrier();"
}
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
  hasEdge(shape)
    ? `      if (at + ${(quads - 1) * stride}u < total) { lane = advance(at); } else { lane = advance_edge(at); }`
    : `      lane = advance(at);`
}
      store_parameter(at, lane);
${blocks.map(({ name }, i) => `      atomicMax(&${peak(i)}, peak_${name}(lane));`).join("\n")}
    }${writesNothing(shape) ? " else if (at < total) { store_parameter(at, Lane()); }" : ""}
    workgroupBarrier();
    if (invocation < ${peaks}u) { atomicStore(&peaks[((tile + 2u) & 3u) * ${peaks}u + invocation], 0u); }
    if (live) {
${blocks.map(({ name }, i) => `      let peak_${name} = atomicLoad(&${peak(i)});`).join("\n")}
      store_states(at, lane${blocks.map(({ name }) => `, peak_${name}`).join("")});
      if (invocation % ${stride}u == 0u) {
${blocks.map(({ name, format }) => `        store_scale_${name}(at / ${format.blockSize / 4}u, peak_${name});`).join("\n")}
      }
    }
${narrow.length > 0 ? exchange(shape, narrow) : ""}
  }
}`;
}

/** Halves of words change hands; neighbours are live together but for the last quad. */
function exchange(shape: KernelShape, narrow: readonly QuantizedState[]) {
  const { spec, stride } = shape;
  const at = (i: number, who: string) =>
    `given[${i * spec.workgroup}u + ${who}]`;
  const each = (part: (name: string, i: number) => string) =>
    narrow.map(({ name }, i) => part(name, i)).join("\n");
  const byMemory = `
${each((name, i) => `    ${at(i, "invocation")} = give_${name};`)}
    workgroupBarrier();
${each((name, i) => `    taken_${name} = ${at(i, "(invocation ^ 1u)")};`)}`;
  return `    let odd = (invocation & 1u) == 1u;
${each((name) => `    let give_${name} = select(halves_${name}.y, halves_${name}.x, odd);\n    var taken_${name}: u32;`)}
${
  usesSubgroups(shape)
    ? `    if (side_by_side) {
${each((name) => `      taken_${name} = subgroupShuffleXor(give_${name}, 1u);`)}
    } else {${byMemory}
    }`
    : byMemory
}
    let word = (at + select(0u, ${stride}u, odd)) / 2u;
    if (live && 2u * word < total) {
${each((name) => `      codes[here.${name}_at + word] = select(halves_${name}.x | (taken_${name} << 16u), taken_${name} | (halves_${name}.y << 16u), odd);`)}
    }`;
}

/** Whether neighbours exchange through subgroups: 0.03 ms / 10^9 less, with rank-1 scales 0.2. */
export const usesSubgroups = ({ spec, stride, quantized }: KernelShape) =>
  spec.subgroups && stride > 0 && quantized.some(isNarrow);

/** The codes that an invocation decodes, quad by quad, in the low bits of a word. */
export const loadRows = (shape: KernelShape, state: QuantizedState): string =>
  perQuad(shape, (k) => {
    const { name } = state;
    const quad = quadAt(shape, k);
    return isNarrow(state)
      ? `  let bits_${name}${k} = codes[here.${name}_at + ${quad} / 2u] >> ((at & 1u) * 16u);`
      : `  let bits_${name}${k} = codes[here.${name}_at + ${quad}];`;
  }).join("\n");

/** What the neighbours of narrow codes exchange: the codes of each row. */
export const narrowHalves = ({ quantized, stride }: KernelShape): string =>
  stride > 0
    ? quantized
        .filter(isNarrow)
        .map(({ name }) => `var<private> halves_${name}: vec2u;`)
        .join("\n")
    : "";

/** Stores the codes of every quad, or keeps them for {@link exchange}. */
export const storeRows = (
  shape: KernelShape,
  state: QuantizedState,
  code: (k: number) => string,
): string =>
  isNarrow(state)
    ? `  halves_${state.name} = vec2u(${perQuad(shape, code).join(", ")});`
    : perQuad(shape, (k) => {
        const at = quadAt(shape, k);
        const store = `codes[here.${state.name}_at + ${at}] = code;`;
        return `  { let code = ${code(k)}; ${k === 0 || shape.whole ? store : `if (4u * ${at} < here.length) { ${store} }`} }`;
      }).join("\n");
