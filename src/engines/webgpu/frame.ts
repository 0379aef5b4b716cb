/**
 * The frame of a step in WGSL, generic over the formula and the formats: load,
 * dequantize, formula, largest magnitude of each block, requantize, store.
 * Every byte of gradient, parameter and state is read once and written once.
 *
 * What was measured and why it looks as it does is in bench/gpu/notes.md.
 */
import { watchedNodes, type Shape } from "../../formula/program.ts";
import { printWgsl } from "../../formula/wgsl.ts";
import { encodeFunction } from "./encode.ts";
import { isSteps, stepFunctions } from "./steps.ts";
import {
  carriesGradient,
  isStochasticHalf,
  kernelShape,
  type KernelShape,
  type KernelSpec,
  type QuantizedState,
  type StateSpec,
} from "./kernel.ts";
import { loadFunctions, smallBinding, storeFunctions } from "./operands.ts";
import { passCode } from "./reduce.ts";
import { isRank1 } from "./small.ts";

/** The words of the report buffer; the tensors' scales follow. */
export const reportWords = { nonFinite: 0, skip: 1, factor: 2, norm: 3 };
export const reportHeader = 4;

export function kernelCode(spec: KernelSpec): string {
  const code = generate(spec);
  // The only segment's fields are constants of the dispatch: as such they take
  // no registers.
  return spec.segments === 1 ? ofOneSegment(code) : code;
}

const ofOneSegment = (code: string): string =>
  code
    .replaceAll("here = job.list[own];", "")
    .replaceAll("job.list[own].", "job.list[0].")
    .replaceAll("here.", "job.list[0].");

/** The kernel of a pass before the update. */
export function passKernelCode(shape: KernelShape, pass: number): string {
  const code = passCode(shape, passDeclarations(shape), pass);
  return shape.spec.segments === 1 ? ofOneSegment(code) : code;
}

function generate(spec: KernelSpec): string {
  const shape = kernelShape(spec);
  const { solo, mode } = spec;
  const main =
    mode === "measure"
      ? measureMain(shape)
      : solo
        ? soloMain(shape)
        : updateMain(shape);
  return [
    declarations(shape),
    helpers,
    tableFunctions(shape),
    ...shape.quantized.map(codeFunctions),
    ...shape.halves.map(halfFunctions),
    loadFunctions(shape),
    storeFunctions(shape),
    advanceFunction(shape),
    ...(mode === "update" ? [storeStates(shape)] : []),
    main,
  ].join("\n");
}

/** One main for a kernel with barriers: an invocation takes one word of codes of each tile. */
function updateMain(shape: KernelShape): string {
  const { workgroup } = shape.spec;
  const { quantized, peaks } = shape;
  const blocks = quantized.filter(isBlock);
  return `
${peaks > 0 ? `var<workgroup> peaks: array<atomic<u32>, ${3 * peaks}>;` : ""}
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
    }
${
  peaks > 0
    ? `    workgroupBarrier();
    // Three sets of peaks in turn, so that one barrier a tile is enough: the
    // set of the tile after next is read by nobody now.
    turn += ${peaks}u;
    if (invocation < ${peaks}u) { atomicStore(&peaks[(turn + ${peaks}u) % ${3 * peaks}u + invocation], 0u); }
    let current = turn - ${peaks}u;
    turn %= ${3 * peaks}u;`
    : ""
}
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
${blocks.map((state) => `      if (invocation % ${lanesPerBlock(shape, state)}u == 0u) { store_scale_${state.name}(at, peak_${state.name}); }`).join("\n")}
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
function soloMain(shape: KernelShape): string {
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
    if (first >= end || skipped) { break; }
${blocks.map((state) => `    var peaks_${state.name}: array<u32, ${inRun(state)}>;`).join("\n")}
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
      store_states(at, lane${quantized
        .filter(hasPeak)
        .map((state) =>
          isBlock(state)
            ? `, peaks_${state.name}[${block(state)}]`
            : `, ${tensorPeak(state)}`,
        )
        .join("")});
    }
${blocks.map((state) => `    for (var k = 0u; first + k < end; k += ${state.format.blockSize / (4 * quads)}u) { store_scale_${state.name}(first + k, peaks_${state.name}[${block(state)}]); }`).join("\n")}
  }
${rotateScales(shape)}
}`;
}

/** The main that finds the largest magnitude of each state with one scale a tensor. */
function measureMain(shape: KernelShape): string {
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

const isTensor = ({ format }: QuantizedState) => format.scale === "tensor";
/** Whether a whole block or tensor has one scale, and so one largest magnitude. */
const hasPeak = (state: QuantizedState) => !isRank1(state.format);
const isBlock = ({ format }: QuantizedState) => format.scale === "block";
const tensorPeak = ({ name }: QuantizedState) =>
  `atomicLoad(&report[here.${name}_next])`;
const lanesPerBlock = ({ quads }: KernelShape, { format }: QuantizedState) =>
  format.blockSize / (4 * quads);
const peakIndex = (shape: KernelShape, state: QuantizedState) =>
  `${state.peaksAt}u + invocation / ${lanesPerBlock(shape, state)}u`;
const skipped = ({ spec }: KernelShape) =>
  spec.guarded ? `atomicLoad(&report[${reportWords.skip}]) != 0u` : "false";

function jobDeclaration({ spec, fields }: KernelShape): string {
  const isFloat = (field: string) => /^u\d+$/.test(field);
  return `
struct Segment {
${fields.map((field) => `  ${field}: ${isFloat(field) ? "f32" : "u32"},`).join("\n")}
}
/// A dispatch takes several tensors, or pieces of them: its workgroups are
/// counted through all of them, in spans of so many tiles.
struct Job {
  spans: u32,
  segments: u32,
  tiles: u32,
  padding: u32,
  list: array<Segment, ${spec.segments}>,
}
@group(0) @binding(0) var<uniform> job: Job;
var<private> here: Segment;
`;
}

/** What a pass reads, a word at a time. */
function passDeclarations(shape: KernelShape): string {
  const { quantized, halves, floats } = shape;
  const declare = (binding: number, access: string, name: string, of: string) =>
    `@group(0) @binding(${binding}) var<storage, ${access}> ${name}: array<${of}>;`;
  return [
    jobDeclaration(shape),
    quantized.length > 0 ? declare(1, "read", "tables", "i32") : "",
    declare(2, "read_write", "report", "u32"),
    quantized.length + halves.length > 0
      ? declare(3, "read_write", "codes", "u32")
      : "",
    floats.length > 0
      ? declare(4, "read_write", "floats", shape.spec.wide ? "vec4f" : "f32")
      : "",
    declare(smallBinding, "read_write", "smalls", "f32"),
  ].join("\n");
}

function declarations(shape: KernelShape): string {
  const { spec, quantized, halves, floats, tables, quads, small } = shape;
  return `
${jobDeclaration(shape)}
${quantized.length > 0 ? `@group(0) @binding(1) var<storage, read> tables: array<i32, ${tables.length}>;` : ""}
@group(0) @binding(2) var<storage, read_write> report: array<atomic<u32>>;
${quantized.length + halves.length > 0 ? `@group(0) @binding(3) var<storage, read_write> codes: array<u32>;` : ""}
${floats.length > 0 ? `@group(0) @binding(4) var<storage, read_write> floats: array<vec4f>;` : ""}
${small ? cellFunctions(shape) : ""}
fn find_segment(span: u32) -> u32 {
  var found = 0u;
  for (var half = ${spec.segments >> 1}u; half > 0u; half /= 2u) {
    if (found + half < job.segments && job.list[found + half].first_span <= span) { found += half; }
  }
  return found;
}
/// Words of ${4 * quads} elements in this segment; an invocation takes them whole.
fn words(index: u32) -> u32 { return (job.list[index].length + ${4 * quads - 1}u) / ${4 * quads}u; }`;
}

/** Where elements lie in their matrix, and what is not per element, for four of them. */
function cellFunctions({ spec: { program } }: KernelShape): string {
  return `
@group(0) @binding(${smallBinding}) var<storage, read_write> smalls: array<vec4f>;
struct Cells { matrix: vec4u, row: vec4u, column: vec4u, one_row: bool }
fn find_cells(quad: u32) -> Cells {
  let first = 4u * quad + here.index;
  let row = first / here.columns;
  var found: Cells;
  found.row = vec4u(row);
  found.column = vec4u(first - row * here.columns) + vec4u(0u, 1u, 2u, 3u);
  found.one_row = found.column.w < here.columns;
  if (!found.one_row) {
    let each = vec4u(first) + vec4u(0u, 1u, 2u, 3u);
    found.row = each / vec4u(here.columns);
    found.column = each - found.row * here.columns;
  }
  ${program.needsMatrix ? "if (here.matrices > 1u) { found.matrix = found.row / vec4u(here.rows); }" : ""}
  return found;
}
fn gather(at: vec4u) -> vec4f {
  return vec4f(smalls[at.x / 4u][at.x % 4u], smalls[at.y / 4u][at.y % 4u], smalls[at.z / 4u][at.z % 4u], smalls[at.w / 4u][at.w % 4u]);
}
fn small_one(at: u32) -> vec4f { return vec4f(smalls[at / 4u][at % 4u]); }
fn small_row(at: u32, row: vec4u, cells: Cells) -> vec4f {
  if (cells.one_row) { return small_one(at + row.x); }
  return gather(at + row);
}
fn small_column(at: u32, column: vec4u, cells: Cells) -> vec4f {
  let first = at + column.x;
  if (cells.one_row && first % 4u == 0u) { return smalls[first / 4u]; }
  return gather(at + column);
}`;
}

/** The value, for four elements, of a node that is not per element. */
const smallValue = (k: number) => (index: number, kind: Shape) => {
  const at = `here.n${index}`;
  switch (kind) {
    case "matrix":
      return `small_row(${at}, cells${k}.matrix, cells${k})`;
    case "row":
      return `small_row(${at}, cells${k}.row, cells${k})`;
    case "column":
      return `small_column(${at}, cells${k}.matrix * here.columns + cells${k}.column, cells${k})`;
    default:
      return `small_one(${at})`;
  }
};

const helpers = `
/// Of magnitudes, as bits: they order like the numbers.
fn largest(v: vec4f) -> u32 { return bitcast<u32>(max(max(v.x, v.y), max(v.z, v.w))); }
fn magnitude_bits(v: vec4f) -> vec4u { return bitcast<vec4u>(v) & vec4u(0x7fffffffu); }
/// By bits: WGSL compilers may assume that there is no NaN.
fn not_finite(v: vec4f) -> vec4<bool> { return magnitude_bits(v) >= vec4u(0x7f800000u); }
/// formats/random.ts
fn mix(seed: vec4u) -> vec4u {
  var x = (seed ^ (seed >> vec4u(16u))) * 0x85ebca6bu;
  x = (x ^ (x >> vec4u(13u))) * 0xc2b2ae35u;
  return x ^ (x >> vec4u(16u));
}
fn random_bits(key: u32, index: u32) -> vec4u {
  return mix(((vec4u(index) + vec4u(0u, 1u, 2u, 3u)) * 0x9e3779b1u) ^ vec4u(key));
}`;

/** The tables, in workgroup memory; kernels without barriers read them where they are. */
function tableFunctions({ spec, quantized, tables }: KernelShape): string {
  if (quantized.length === 0) return "";
  const near = spec.solo ? "tables" : "near_tables";
  return `
${
  spec.solo
    ? ""
    : `var<workgroup> near_tables: array<i32, ${tables.length}>;
fn load_tables(invocation: u32) {
  for (var i = invocation; i < ${tables.length}u; i += ${spec.workgroup}u) { near_tables[i] = tables[i]; }
}`
}
fn entry(i: u32) -> i32 { return ${near}[i]; }
fn value(i: u32) -> f32 { return bitcast<f32>(${near}[i]); }`;
}

/** Four codes from bits and back, for one state. */
function codeFunctions(state: QuantizedState): string {
  const { name, width, table, tableAt, valuesAt, gapsAt } = state;
  if (isSteps(state.format))
    return stepFunctions(name, state.format.bits, width);
  const mask = 2 ** width - 1;
  const each = (part: (i: number) => string) => [0, 1, 2, 3].map(part);
  const code = (i: number) =>
    i === 0 ? `bits & ${mask}u` : `(bits >> ${i * width}u) & ${mask}u`;
  const drawn = `
  // Up with a probability by the distance from the entry below.
  let above = (x - vec4f(${each((i) => `value(${valuesAt}u + code[${i}])`).join(", ")}))
    * vec4f(${each((i) => `value(${gapsAt}u + code[${i}])`).join(", ")});
  let chance = vec4f(random_bits(here.${name}_key, index) >> vec4u(8u)) * 0x1p-24f;
  code += select(vec4u(0u), vec4u(1u), chance < above);`;
  return `
fn decode_${name}(bits: u32) -> vec4f {
  return vec4f(${each((i) => `value(${valuesAt}u + (${code(i)}))`).join(", ")});
}
${encodeFunction(`encode_one_${name}`, table, tableAt)}
fn encode_${name}(x: vec4f, index: u32) -> u32 {
  var code = vec4u(${each((i) => `encode_one_${name}(x[${i}])`).join(", ")});${gapsAt === undefined ? "" : drawn}
  return ${each((i) => (i === 0 ? "code.x" : `(code[${i}] << ${i * width}u)`)).join(" | ")};
}`;
}

/**
 * Elements left out. The main without barriers comes by twice and counts when
 * it stores; elsewhere a count kept until then would cost a register and a branch.
 */
function countBad({ spec }: KernelShape, count: string): string {
  if (spec.solo) return `lane.bad += ${count};`;
  return spec.mode === "update"
    ? `atomicAdd(&report[${reportWords.nonFinite}], ${count});`
    : "";
}

/** Four 16-bit values of one state, from two words and back. */
function halfFunctions({ name, format }: StateSpec): string {
  const more = isStochasticHalf(format)
    ? `random_bits(here.${name}_key, index) >> vec4u(16u)`
    : "vec4u(0x7fffu) + ((bits >> vec4u(16u)) & vec4u(1u))";
  return `
fn load_${name}(quad: u32) -> vec4f {
  let low = codes[here.${name}_at + 2u * quad];
  let high = codes[here.${name}_at + 2u * quad + 1u];
  return bitcast<vec4f>(vec4u(low << 16u, low & 0xffff0000u, high << 16u, high & 0xffff0000u));
}
fn store_${name}(quad: u32, value: vec4f) {
  let bits = bitcast<vec4u>(value);
  let index = 4u * quad + here.index;
  let halves = (bits + (${more})) >> vec4u(16u);
  codes[here.${name}_at + 2u * quad] = halves.x | (halves.y << 16u);
  codes[here.${name}_at + 2u * quad + 1u] = halves.z | (halves.w << 16u);
}`;
}

const perQuad = <T>({ quads }: KernelShape, part: (k: number) => T): T[] =>
  Array.from({ length: quads }, (_, k) => part(k));

/** Load, dequantize, formula; what is not finite keeps its old values. */
function advanceFunction(shape: KernelShape): string {
  const { spec, states, quantized, quads } = shape;
  const { program, aligned, skip, clip, mode } = spec;
  const newNodes = states.map(({ name }) => program.outputs.get(name)!);
  const watchGradient = !newNodes.some((node) =>
    carriesGradient(program, node),
  );
  // What a reduction takes of the gradient alone must be finite as well.
  const watchedOnly = skip ? watchedNodes(program) : [];
  const masked = !aligned || quads > 1;
  const quad = (k: number) => {
    const formula = {
      type: "vec4f",
      input: (name: string) =>
        name === "p" || name === "g" ? `${name}${k}` : `old_${name}${k}`,
      uniform: (index: number) => `here.u${index}`,
      small: smallValue(k),
    } as const;
    const fresh = printWgsl(program, [...newNodes, ...watchedOnly], {
      ...formula,
      prefix: `s${k}_`,
    });
    return `
  let quad${k} = at * ${quads}u + ${k}u;
${shape.small ? `  let cells${k} = find_cells(quad${k});` : ""}
  let p${k} = load_p(quad${k});
  let g${k} = load_g(quad${k})${clip ? ` * bitcast<f32>(atomicLoad(&report[${reportWords.factor}]))` : ""};
${states.map((state) => loadState(shape, state, k)).join("\n")}
${fresh.statements.map((line) => `  ${line}`).join("\n")}
${states.map(({ name }, i) => `  var new_${name}${k} = ${masked ? `select(vec4f(0.0), ${fresh.results[i]}, inside(quad${k}))` : fresh.results[i]};`).join("\n")}
${watchedOnly.map((_, i) => `  let watched${i}_${k} = ${fresh.results[states.length + i]};`).join("\n")}`;
  };
  const watched = perQuad(shape, (k) => [
    ...states.map(({ name }) => `new_${name}${k}`),
    ...watchedOnly.map((_, i) => `watched${i}_${k}`),
    ...(watchGradient ? [`g${k}`] : []),
  ]);
  const update = mode === "update";
  // A sum of magnitudes is not finite when one of them is not, and costs less
  // than a look at each. It may also overflow: what is bad is then looked up.
  const guard = `
  let watch = ${watched
    .flat()
    .map((value) => `abs(${value})`)
    .join(" + ")};
  if ((bitcast<u32>(watch.x + watch.y + watch.z + watch.w) & 0x7fffffffu) >= 0x7f800000u) {
${perQuad(
  shape,
  (k) => `    let bad${k} = ${watched[k]!.map(
    (value) => `not_finite(${value})`,
  ).reduce((a, b) => `(${a} | ${b})`)}${masked ? ` & inside(quad${k})` : ""};
    ${countBad(shape, `dot(select(vec4u(0u), vec4u(1u), bad${k}), vec4u(1u))`)}
${update ? `    lane.p${k} = select(lane.p${k}, p${k}, bad${k});` : ""}
${states.map(({ name }) => `    new_${name}${k} = select(new_${name}${k}, old_${name}${k}, bad${k});`).join("\n")}`,
).join("\n")}
  }`;
  const parameter = (k: number) => {
    const given = new Map(
      newNodes.map((node, i) => [node, `new_${states[i]!.name}${k}`]),
    );
    const text = printWgsl(
      program,
      [program.outputs.get("p")!],
      {
        type: "vec4f",
        prefix: `p${k}_`,
        input: (name) =>
          name === "p" || name === "g" ? `${name}${k}` : `old_${name}${k}`,
        uniform: (index) => `here.u${index}`,
        small: smallValue(k),
      },
      given,
    );
    return `
${text.statements.map((line) => `  ${line}`).join("\n")}
  lane.p${k} = ${text.results[0]};`;
  };
  return `
struct Lane {
${spec.solo ? "  /// Elements left out.\n  bad: u32," : ""}
${perQuad(shape, (k) => [`  p${k}: vec4f,`, ...states.map(({ name }) => `  ${name}${k}: vec4f,`)].join("\n")).join("\n")}
}
${aligned ? `fn inside(quad: u32) -> vec4<bool> { return vec4<bool>(4u * quad < here.length); }` : `fn inside(quad: u32) -> vec4<bool> { return 4u * vec4u(quad) + vec4u(0u, 1u, 2u, 3u) < vec4u(here.length); }`}
fn advance(at: u32) -> Lane {
  var lane: Lane;
${quantized.map((state) => loadCodes(shape, state)).join("\n")}
${perQuad(shape, quad).join("\n")}
${update ? perQuad(shape, parameter).join("\n") : ""}
${skip ? guard : ""}
${perQuad(shape, (k) => states.map(({ name }) => `  lane.${name}${k} = new_${name}${k};`).join("\n")).join("\n")}
  return lane;
}
${quantized.map(({ name }) => `fn peak_${name}(lane: Lane) -> u32 { return largest(${perQuad(shape, (k) => `abs(lane.${name}${k})`).reduce((a, b) => `max(${a}, ${b})`)}); }`).join("\n")}`;
}

/** Words of codes that an invocation owns. */
const codeWords = ({ quads }: KernelShape, { width }: QuantizedState) =>
  (quads * width) / 8;

function loadCodes(shape: KernelShape, state: QuantizedState): string {
  const { name, format } = state;
  const count = codeWords(shape, state);
  const words = Array.from(
    { length: count },
    (_, i) =>
      `  let bits_${name}${i} = codes[here.${name}_at + at * ${count}u + ${i}u];`,
  );
  if (isRank1(format))
    return [
      ...words,
      ...perQuad(
        shape,
        (k) =>
          `  let cells_${name}${k} = find_cells(at * ${shape.quads}u + ${k}u);
  let scale_${name}${k} = min(small_row(here.${name}_lead, cells_${name}${k}.row, cells_${name}${k}), small_column(here.${name}_last, cells_${name}${k}.column, cells_${name}${k}));`,
      ),
    ].join("\n");
  const scale =
    format.scale === "block"
      ? `bitcast<f32>(codes[here.${name}_scales + at / ${lanesPerBlock(shape, state)}u])`
      : `bitcast<f32>(atomicLoad(&report[here.${name}_peak]))`;
  return [...words, `  let scale_${name} = ${scale};`].join("\n");
}

function loadState(
  shape: KernelShape,
  { name, index, format }: StateSpec,
  k: number,
): string {
  if (format.bits === 16)
    return `  let old_${name}${k} = load_${name}(quad${k});`;
  const state = shape.quantized.find((one) => one.index === index);
  if (!state)
    return `  let old_${name}${k} = floats[here.${name}_at + quad${k}];`;
  const word = Math.floor((k * state.width) / 8);
  const shift = (k * state.width * 4) % 32;
  return `  let old_${name}${k} = decode_${name}(bits_${name}${word}${shift ? ` >> ${shift}u` : ""}) * scale_${name}${isRank1(format) ? k : ""};`;
}

/** Every element has a scale of its own, that of a number by which nothing is divided being 0. */
function storeByRank1(
  shape: KernelShape,
  state: QuantizedState,
  word: (i: number) => string,
): string {
  const { name } = state;
  const count = codeWords(shape, state);
  return `
${perQuad(
  shape,
  (k) => `  let next_${name}${k} = find_cells(at * ${shape.quads}u + ${k}u);
  let scale_${name}${k} = min(small_row(here.${name}_next_lead, next_${name}${k}.row, next_${name}${k}), small_column(here.${name}_next_last, next_${name}${k}.column, next_${name}${k}));
  // 1 / scale must not be subnormal: it would count as 0.
  let down_${name}${k} = select(vec4f(1.0), vec4f(0x1p-32f), scale_${name}${k} >= vec4f(0x1p125f));
  let inverse_${name}${k} = select(vec4f(0.0), vec4f(1.0) / (scale_${name}${k} * down_${name}${k}), scale_${name}${k} > vec4f(0.0));
  let x_${name}${k} = (lane.${name}${k} * down_${name}${k}) * inverse_${name}${k};`,
).join("\n")}
${Array.from({ length: count }, (_, i) => `  codes[here.${name}_at + at * ${count}u + ${i}u] = ${word(i)};`).join("\n")}`;
}

/** The states' new form; scales are stored apart, when nobody reads the old ones. */
function storeStates(shape: KernelShape): string {
  const { quantized, halves, floats } = shape;
  const store = (state: QuantizedState) => {
    const { name, width, zeroCode, zeroIsZero } = state;
    const count = codeWords(shape, state);
    let zeroWord = 0;
    for (let i = 0; i < 32; i += width) zeroWord |= zeroCode << i;
    const word = (i: number) =>
      perQuad(shape, (k) => k)
        .filter((k) => Math.floor((k * width) / 8) === i)
        .map((k) => {
          const shift = (k * width * 4) % 32;
          const outside = shape.spec.aligned
            ? ""
            : ` & inside_bits_${name}(at * ${shape.quads}u + ${k}u)`;
          const code = `encode_${name}(x_${name}${k}, 4u * (at * ${shape.quads}u + ${k}u) + here.index)${outside}`;
          return shift ? `((${code}) << ${shift}u)` : `(${code})`;
        })
        .join(" | ");
    if (isRank1(state.format)) return storeByRank1(shape, state, word);
    return `
  // One division and one test in the common case. The rest: a scale whose
  // inverse would be subnormal and count as 0; and below the smallest normal
  // number, or not finite, a group of zeros.
  let inverse_${name} = 1.0 / bitcast<f32>(peak_${name});
${perQuad(shape, (k) => `  var x_${name}${k} = lane.${name}${k} * inverse_${name};`).join("\n")}
${zeroIsZero ? "" : `  let valid_${name} = peak_${name} >= 0x00800000u && peak_${name} < 0x7f800000u;`}
  if (peak_${name} - 0x00800000u >= 0x7d800000u) {
    let large = peak_${name} >= 0x7e000000u && peak_${name} < 0x7f800000u;
    let down = 1.0 / (bitcast<f32>(peak_${name}) * 0x1p-32f);
${perQuad(shape, (k) => `    x_${name}${k} = select(vec4f(0.0), (lane.${name}${k} * 0x1p-32f) * down, large);`).join("\n")}
  }
${Array.from({ length: count }, (_, i) => `  codes[here.${name}_at + at * ${count}u + ${i}u] = ${zeroIsZero ? word(i) : `select(${zeroWord >>> 0}u, ${word(i)}, valid_${name})`};`).join("\n")}`;
  };
  return `
${quantized
  .filter(isBlock)
  .map(
    (state) => `fn store_scale_${state.name}(at: u32, peak: u32) {
  codes[here.${state.name}_scales + at / ${lanesPerBlock(shape, state)}u] = select(0u, peak, peak >= 0x00800000u);
}`,
  )
  .join("\n")}
${
  shape.spec.aligned
    ? ""
    : quantized
        .map(
          ({ name, width }) => `fn inside_bits_${name}(quad: u32) -> u32 {
  let left = here.length - min(here.length, 4u * quad);
  return select((1u << (min(left, 3u) * ${width}u)) - 1u, 0xffffffffu, left >= 4u);
}`,
        )
        .join("\n")
}
fn store_states(at: u32, lane: Lane${quantized
    .filter(hasPeak)
    .map(({ name }) => `, peak_${name}: u32`)
    .join("")}) {
${floats.map(({ name }) => perQuad(shape, (k) => `  ${k > 0 ? `if (any(inside(at * ${shape.quads}u + ${k}u))) { ` : ""}floats[here.${name}_at + at * ${shape.quads}u + ${k}u] = lane.${name}${k};${k > 0 ? " }" : ""}`).join("\n")).join("\n")}
${halves.map(({ name }) => perQuad(shape, (k) => `  ${k > 0 ? `if (any(inside(at * ${shape.quads}u + ${k}u))) { ` : ""}store_${name}(at * ${shape.quads}u + ${k}u, lane.${name}${k});${k > 0 ? " }" : ""}`).join("\n")).join("\n")}
${quantized.map(store).join("\n")}
}`;
}
