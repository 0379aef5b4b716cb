/** Codes in a shader: tables, and functions from four values to bits and back. */
import type { KernelShape, QuantizedState, StateSpec } from "./kernel.ts";
import { encodeFunction } from "./encode.ts";
import { isStochasticHalf } from "./kernel.ts";
import { isSteps, stepFunctions } from "./steps.ts";

/** The tables, in workgroup memory; kernels without barriers read them where they are. */
export function tableFunctions({
  spec,
  quantized,
  tables,
}: KernelShape): string {
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
export function codeFunctions(state: QuantizedState): string {
  const { name, width, table, tableAt, valuesAt, gapsAt } = state;
  const { marksAt, nextMarksAt } = state;
  if (isSteps(state.format))
    return stepFunctions(name, state.format.bits, width);
  const mask = 2 ** width - 1;
  const each = (part: (i: number) => string) => [0, 1, 2, 3].map(part);
  const code = (i: number) =>
    i === 0 ? `bits & ${mask}u` : `(bits >> ${i * width}u) & ${mask}u`;
  const look = (at: number | undefined) =>
    `vec4f(${each((i) => `value(${at}u + code[${i}])`).join(", ")})`;
  const root = `
  let root = sqrt(max(x, vec4f(0.0)));`;
  const drawn = `${nextMarksAt === undefined ? "" : root}
  // Up with a probability by the distance from the entry below.
  let above = (${nextMarksAt === undefined ? "x" : "root"} - ${look(marksAt)})
    * ${look(gapsAt)}${nextMarksAt === undefined ? "" : `\n    * ((${look(nextMarksAt)} + floor_e) / max(root + floor_e, vec4f(0x1p-126f)))`};
  let chance = vec4f(random_bits(here.${name}_key, index) >> vec4u(8u)) * 0x1p-24f;
  code += select(vec4u(0u), vec4u(1u), chance < above);`;
  return `
fn decode_${name}(bits: u32) -> vec4f {
  return vec4f(${each((i) => `value(${valuesAt}u + (${code(i)}))`).join(", ")});
}
${encodeFunction(`encode_one_${name}`, table, tableAt)}
fn encode_${name}(x: vec4f, index: u32${nextMarksAt === undefined ? "" : ", floor_e: vec4f"}) -> u32 {
  var code = vec4u(${each((i) => `encode_one_${name}(x[${i}])`).join(", ")});${gapsAt === undefined ? "" : drawn}
  return ${each((i) => (i === 0 ? "code.x" : `(code[${i}] << ${i * width}u)`)).join(" | ")};
}`;
}

/** Four 16-bit values of one state, from two words and back. */
export function halfFunctions({ name, format }: StateSpec): string {
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
