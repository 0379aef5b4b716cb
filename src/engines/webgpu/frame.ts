/**
 * The frame of a step in WGSL, generic over the formula and the formats: load,
 * dequantize, formula, largest magnitude of each block, requantize, store.
 * Every byte of gradient, parameter and state is read once and written once.
 *
 * What was measured and why it looks as it does is in bench/gpu/notes.md.
 */
import { advanceFunctions } from "./advance.ts";
import { cellFunctions } from "./cells.ts";
import { codeFunctions, halfFunctions, tableFunctions } from "./codes.ts";
import { correctionFunctions } from "./correct.ts";
import {
  floorField,
  kernelShape,
  type KernelShape,
  type KernelSpec,
} from "./kernel.ts";
import { measureMain, soloMain, updateMain } from "./mains.ts";
import { loadFunctions, smallBinding, storeFunctions } from "./operands.ts";
import { passCode } from "./reduce.ts";
import { storeStates } from "./store.ts";
import { rowMain, usesSubgroups } from "./rows.ts";

export function kernelCode(spec: KernelSpec): string {
  const shape = kernelShape(spec);
  const code = generate(shape);
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

function generate(shape: KernelShape): string {
  const { spec } = shape;
  const { solo, mode } = spec;
  const main =
    mode === "measure"
      ? measureMain(shape)
      : solo
        ? soloMain(shape)
        : shape.stride
          ? rowMain(shape)
          : updateMain(shape);
  return [
    usesSubgroups(shape) ? "enable subgroups;" : "",
    declarations(shape),
    helpers,
    tableFunctions(shape),
    ...shape.quantized.map((state) => codeFunctions(shape, state)),
    ...(spec.mode === "update" ? shape.quantized.map(correctionFunctions) : []),
    ...shape.halves.map(halfFunctions),
    loadFunctions(shape, "read_write"),
    storeFunctions(shape),
    advanceFunctions(shape),
    ...(mode === "update" ? [storeStates(shape)] : []),
    main,
  ].join("\n");
}

function jobDeclaration({ spec, fields }: KernelShape): string {
  const floors = spec.program.states.map(floorField);
  const isFloat = (field: string) =>
    /^u\d+$/.test(field) || floors.includes(field);
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
    declare(2, "read", "report", "u32"),
    quantized.length + halves.length > 0
      ? declare(3, "read", "codes", "u32")
      : "",
    floats.length > 0
      ? declare(4, "read", "floats", shape.spec.wide ? "vec4f" : "f32")
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
