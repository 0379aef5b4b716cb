/** Codes in a shader: tables, and functions from four values to bits and back. */
import type { KernelShape, QuantizedState, StateSpec } from "./kernel.ts";
import { encodeFunction } from "./encode.ts";
import { isStochasticHalf } from "./kernel.ts";
import { lineFunction } from "./lines.ts";
import { isSteps, stepFunctions } from "./steps.ts";

/** The tables, in workgroup memory; kernels without barriers read them where they are. */
export function tableFunctions({
  spec,
  quantized,
  nearWords,
}: KernelShape): string {
  if (quantized.length === 0) return "";
  const read = "fn entry(i: u32) -> i32";
  if (spec.solo) return `${read} { return tables[i]; }`;
  const arrays: string[] = [];
  const loads: string[] = [];
  const add = (name: string, count: number, type: string, value: string) => {
    arrays.push(`var<workgroup> ${name}: array<${type}, ${count}>;`);
    for (let first = 0; first < count; first += spec.workgroup) {
      const partial = count - first < spec.workgroup;
      loads.push(
        `  ${partial ? `if (invocation < ${count - first}u) ` : ""}{ let i = invocation + ${first}u; ${name}[i] = ${value}; }`,
      );
    }
  };
  if (nearWords > 0) add("near_tables", nearWords, "i32", "tables[i]");
  for (const { name, width, valuesAt, tableAt, table, format } of quantized) {
    if (isSteps(format)) continue;
    const value = `bitcast<f32>(tables[${valuesAt}u + i])`;
    add(`values_${name}`, 2 ** width, "f32", value);
    if (table.kind === "lines")
      add(
        `lines_${name}`,
        table.pairs.length / 2,
        "vec2f",
        `bitcast<vec2f>(vec2i(tables[${tableAt}u + 2u * i], tables[${tableAt + 1}u + 2u * i]))`,
      );
  }
  return `
${arrays.join("\n")}
fn load_tables(invocation: u32) {
${loads.join("\n")}
}
${nearWords > 0 ? `${read} { return near_tables[i]; }` : ""}`;
}

/** Four codes from bits and back, for one state. */
export function codeFunctions(
  { spec }: KernelShape,
  state: QuantizedState,
): string {
  const { name, width, table, tableAt, valuesAt, gapsAt } = state;
  const { marksAt, nextMarksAt } = state;
  if (isSteps(state.format))
    return stepFunctions(name, state.format.bits, width);
  // A remainder, since WGSL compilers know then that no table ends before.
  const rest = `% ${2 ** width}u`;
  const each = (part: (i: number) => string) => [0, 1, 2, 3].map(part);
  const code = (i: number) =>
    i === 0
      ? `bits ${rest}`
      : (i + 1) * width === 32
        ? `bits / ${2 ** (i * width)}u`
        : `(bits >> ${i * width}u) ${rest}`;
  const look = (at: number | undefined) =>
    `vec4f(${each((i) => `bitcast<f32>(entry(${at}u + code[${i}]))`).join(", ")})`;
  const value = (i: number) =>
    spec.solo
      ? `bitcast<f32>(tables[${valuesAt}u + (${code(i)})])`
      : `values_${name}[${code(i)}]`;
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
  return vec4f(${each(value).join(", ")});
}
${
  table.kind === "lines"
    ? lineFunction(name, width, table)
    : `${encodeFunction(`encode_one_${name}`, table, tableAt)}
fn encode_${name}(x: vec4f, index: u32${nextMarksAt === undefined ? "" : ", floor_e: vec4f"}) -> u32 {
  var code = vec4u(${each((i) => `encode_one_${name}(x[${i}])`).join(", ")});${gapsAt === undefined ? "" : drawn}
  return ${each((i) => (i === 0 ? "code.x" : `(code[${i}] << ${i * width}u)`)).join(" | ")};
}`
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
