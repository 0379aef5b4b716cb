/**
 * Parameters and gradients in a shader: float32, or float16 and bfloat16
 * packed two a word; four elements at a time where they lie at a multiple of
 * four, else one by one. Arithmetic is always float32.
 *
 * Several tensors in buffers of their own go through one dispatch: each has a
 * pair of bindings (a slot), and a switch on the segment's slot picks it.
 */
import type { ElementType, KernelShape, KernelSpec } from "./kernel.ts";
import { quadAt, sumFails } from "./parts.ts";
import { reportWords } from "./report.ts";

/** What is not per element, see small.ts. */
export const smallBinding = 5;
export const firstSlotBinding = 6;

/** Bytes of an element. */
export const elementBytes = (type: ElementType): number =>
  type === "float32" ? 4 : 2;

/** Declarations of the slots, and functions that load from them; `access` is that of the parameters. */
export function loadFunctions(
  shape: KernelShape,
  access: "read" | "read_write",
): string {
  const { parameterType, gradientType, slots } = shape.spec;
  return [
    ...slotDeclarations("p", parameterType, access, 0, shape),
    ...slotDeclarations("g", gradientType, "read", slots, shape),
    loadFunction("p", parameterType, shape),
    loadFunction("g", gradientType, shape),
  ].join("\n");
}

/** What one access moves: four or eight elements, or as little as a binding holds. */
function accessType(
  type: ElementType,
  { aligned, paired }: KernelSpec,
): string {
  if (paired) return "vec4u";
  if (type === "float32") return aligned ? "vec4f" : "f32";
  return aligned ? "vec2u" : "u32";
}

function slotDeclarations(
  name: string,
  type: ElementType,
  access: string,
  after: number,
  { spec }: KernelShape,
): string[] {
  return Array.from(
    { length: spec.slots },
    (_, slot) =>
      `@group(0) @binding(${firstSlotBinding + after + slot}) var<storage, ${access}> ${name}_${slot}: array<${accessType(type, spec)}>;`,
  );
}

/** Elements that one access of the slots moves, and their offsets count. */
export const elementsOf = ({ aligned, paired }: KernelSpec): number =>
  paired ? 8 : aligned ? 4 : 1;

/** Declarations of the slots, and `one_p(i)` and `one_g(i)`: one element of a segment. */
export function oneFunctions(shape: KernelShape): string {
  const { parameterType, gradientType, slots } = shape.spec;
  const each = elementsOf(shape.spec);
  const one = (name: "p" | "g", type: ElementType, after: number) => {
    if (isUnread(name, shape))
      return `fn one_${name}(i: u32) -> f32 { return 0.0; }`;
    const word =
      type === "float32"
        ? (slot: number) => `return ${name}_${slot}[at];`
        : (slot: number) =>
            `${type === "float16" ? `return unpack2x16float(${name}_${slot}[at / 2u])[at % 2u];` : `return bitcast<f32>((${name}_${slot}[at / 2u] >> (16u * (at % 2u))) << 16u);`}`;
    return `
${Array.from({ length: slots }, (_, slot) => `@group(0) @binding(${firstSlotBinding + after + slot}) var<storage, read> ${name}_${slot}: array<${type === "float32" ? "f32" : "u32"}>;`).join("\n")}
fn one_${name}(i: u32) -> f32 {
  let at = ${each > 1 ? `${each}u * ` : ""}here.${name}_at + i;
  ${onSlot(name, slots, word)}
}`;
  };
  return one("p", parameterType, 0) + one("g", gradientType, slots);
}

/** The same statement for every slot, behind a switch where there are several. */
function onSlot(
  name: string,
  slots: number,
  statement: (slot: number) => string,
): string {
  if (slots === 1) return statement(0);
  const cases = Array.from({ length: slots - 1 }, (_, i) => i + 1);
  return `switch here.${name}_slot {
${cases.map((slot) => `    case ${slot}u: { ${statement(slot)} }`).join("\n")}
    default: { ${statement(0)} }
  }`;
}

const unpack: Readonly<
  Record<Exclude<ElementType, "float32">, (word: string) => string>
> = {
  float16: (word) => `unpack2x16float(${word})`,
  bfloat16: (word) =>
    `bitcast<vec2f>(vec2u(${word} << 16u, ${word} & 0xffff0000u))`,
};

const isUnread = (name: string, { spec }: KernelShape) =>
  name === "p" && spec.written === "unreadChange";

function loadFunction(
  name: string,
  type: ElementType,
  shape: KernelShape,
): string {
  const { slots, aligned, paired } = shape.spec;
  if (isUnread(name, shape))
    return `fn load_${name}(quad: u32) -> vec4f { return vec4f(); }`;
  const at = `here.${name}_at`;
  if (paired && type !== "float32") {
    const half = (low: string, high: string) =>
      `vec4f(${unpack[type](`pair.${low}`)}, ${unpack[type](`pair.${high}`)})`;
    return `
fn pair_${name}(at: u32) -> vec4u {
  let i = ${at} + at;
  ${onSlot(name, slots, (slot) => `return ${name}_${slot}[i];`)}
}
fn low_${name}(pair: vec4u) -> vec4f { return ${half("x", "y")}; }
fn high_${name}(pair: vec4u) -> vec4f { return ${half("z", "w")}; }
fn load_${name}(quad: u32) -> vec4f {
  let pair = pair_${name}(quad / 2u);
  return select(low_${name}(pair), high_${name}(pair), quad % 2u == 1u);
}`;
  }
  if (aligned) {
    const value = type === "float32" ? "vec4f" : "vec2u";
    const result =
      type === "float32"
        ? "loaded"
        : `vec4f(${unpack[type]("loaded.x")}, ${unpack[type]("loaded.y")})`;
    return `
fn load_${name}(quad: u32) -> vec4f {
  let i = ${at} + quad;
  var loaded: ${value};
  ${onSlot(name, slots, (slot) => `loaded = ${name}_${slot}[i];`)}
  return ${result};
}`;
  }
  const one = (j: number) =>
    type === "float32"
      ? onSlot(
          name,
          slots,
          (slot) => `loaded[${j}] = ${name}_${slot}[i.${"xyzw"[j]}];`,
        )
      : onSlot(
          name,
          slots,
          (slot) =>
            `{ let pair = ${unpack[type](`${name}_${slot}[i.${"xyzw"[j]} / 2u]`)}; loaded[${j}] = pair[i.${"xyzw"[j]} % 2u]; }`,
        );
  return `
fn load_${name}(quad: u32) -> vec4f {
  let i = ${at} + min(4u * vec4u(quad) + vec4u(0u, 1u, 2u, 3u), vec4u(here.length - 1u));
  var loaded: vec4f;
  ${[0, 1, 2, 3].map(one).join("\n  ")}
  return loaded;
}`;
}

/** `store_parameter(at, lane)`: the parameters, and the count of what was left out. */
export function storeFunctions(shape: KernelShape): string {
  const { spec, quads } = shape;
  if (spec.mode === "measure") return "";
  const counted =
    spec.skip && spec.solo
      ? `
  if (lane.bad > 0u) { atomicAdd(&report[${reportWords.nonFinite}], lane.bad); }`
      : "";
  return `
${packFunction(shape)}
${spec.paired ? storePair(shape) : storeQuad(shape)}
fn store_parameter(at: u32, lane: Lane) {
${spec.paired ? Array.from({ length: quads / 2 }, (_, k) => `  store_pair(at * ${quads / 2}u + ${k}u, lane.p${2 * k}, lane.p${2 * k + 1});`).join("\n") : Array.from({ length: quads }, (_, k) => `  store_p(${quadAt(shape, k)}, lane.p${k});`).join("\n")}${counted}
}`;
}

function packFunction({ spec }: KernelShape): string {
  const { parameterType: type, parameterRounding: rounding } = spec;
  if (type === "float32") return "";
  if (type === "bfloat16")
    return `
/// The upper halves, rounded; infinities and NaN keep their upper bits: without
/// lower ones nothing carries into them.
fn pack_p(v: vec4f, index: u32) -> vec2u {
  var bits = bitcast<vec4u>(v);
  let sum = abs(v);
  if (${sumFails("sum")}) {
    bits &= select(vec4u(0xffffffffu), vec4u(0xffff0000u), not_finite(v));
  }
  bits += ${rounding === "stochastic" ? "random_bits(here.p_key, index) >> vec4u(16u)" : "vec4u(0x7fffu) + ((bits >> vec4u(16u)) & vec4u(1u))"};
  return vec2u((bits.x >> 16u) | (bits.y & 0xffff0000u), (bits.z >> 16u) | (bits.w & 0xffff0000u));
}`;
  const rounded =
    rounding === "stochastic"
      ? `
  // 13 bits fall away; below 2^-14 the spacing is 2^-24.
  let drawn = random_bits(here.p_key, index);
  let bits = (bitcast<vec4u>(v) + (drawn >> vec4u(19u))) & vec4u(0xffffe000u);
  let small = floor(abs(v) * 0x1p24f + vec4f(drawn >> vec4u(8u)) * 0x1p-24f) * 0x1p-24f * sign(v);
  let r = select(select(bitcast<vec4f>(bits), small, abs(v) < vec4f(0x1p-14f)), v, not_finite(v));`
      : `
  let r = v;`;
  return `
fn pack_p(v: vec4f, index: u32) -> vec2u {${rounded}
  return vec2u(pack2x16float(r.xy), pack2x16float(r.zw));
}`;
}

function storePair({ spec: { slots }, whole }: KernelShape): string {
  return `
fn store_pair(at: u32, low: vec4f, high: vec4f) {
  ${!whole ? "if (8u * at >= here.length) { return; }" : ""}
  let packed = vec4u(pack_p(low, 8u * at + here.index), pack_p(high, 8u * at + 4u + here.index));
  let i = here.p_at + at;
  ${onSlot("p", slots, (slot) => `p_${slot}[i] = packed;`)}
}`;
}

function storeQuad({ spec, quads, whole }: KernelShape): string {
  const { parameterType: type, aligned, slots } = spec;
  const packed =
    type === "float32" ? "" : "let packed = pack_p(v, 4u * quad + here.index);";
  if (aligned)
    return `
fn store_p(quad: u32, v: vec4f) {
  ${quads > 1 && !whole ? "if (4u * quad >= here.length) { return; }" : ""}
  ${packed}
  let i = here.p_at + quad;
  ${onSlot("p", slots, (slot) => `p_${slot}[i] = ${type === "float32" ? "v" : "packed"};`)}
}`;
  if (type === "float32")
    return `
fn store_p(quad: u32, v: vec4f) {
  let i = here.p_at + 4u * quad;
  let left = here.length - min(here.length, 4u * quad);
${[0, 1, 2, 3].map((j) => `  if (left > ${j}u) { ${onSlot("p", slots, (slot) => `p_${slot}[i + ${j}u] = v[${j}];`)} }`).join("\n")}
}`;
  return `
fn store_p(quad: u32, v: vec4f) {
  ${packed}
  let i = here.p_at / 2u + 2u * quad;
  let left = here.length - min(here.length, 4u * quad);
${[0, 1]
  .map((j) =>
    [
      `  if (left > ${2 * j + 1}u) { ${onSlot("p", slots, (slot) => `p_${slot}[i + ${j}u] = packed[${j}];`)} }`,
      // The upper half of the last word is somebody else's.
      `  if (left == ${2 * j + 1}u) { ${onSlot("p", slots, (slot) => `p_${slot}[i + ${j}u] = (p_${slot}[i + ${j}u] & 0xffff0000u) | (packed[${j}] & 0xffffu);`)} }`,
    ].join("\n"),
  )
  .join("\n")}
}`;
}
