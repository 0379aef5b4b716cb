/** The states' new form: scales, codes, words. */
import { isCorrected } from "./correct.ts";
import { floorField, type KernelShape, type QuantizedState } from "./kernel.ts";
import {
  codeWords,
  hasPeak,
  isBlock,
  lanesPerBlock,
  perQuad,
} from "./parts.ts";
import { isRank1 } from "./small.ts";
import { leastScales } from "./tiles.ts";

/** Every element has a scale of its own, that of a number by which nothing is divided being 0. */
function storeByRank1(
  shape: KernelShape,
  state: QuantizedState,
  word: (i: number) => string,
): string {
  const { name } = state;
  const count = codeWords(shape, state);
  // 1 / scale must not be subnormal: it would count as 0.
  return `
${perQuad(
  shape,
  (k) => `  let next_${name}${k} = find_cells(at * ${shape.quads}u + ${k}u);
  let scale_${name}${k} = ${leastScales(state.format, `here.${name}_next_lead`, `here.${name}_next_last`, `next_${name}${k}`)};
  let down_${name}${k} = select(vec4f(1.0), vec4f(0x1p-32f), scale_${name}${k} >= vec4f(0x1p125f));
  let inverse_${name}${k} = select(vec4f(0.0), vec4f(1.0) / (scale_${name}${k} * down_${name}${k}), scale_${name}${k} > vec4f(0.0));
  let x_${name}${k} = (lane.${name}${k} * down_${name}${k}) * inverse_${name}${k};`,
).join("\n")}
${Array.from({ length: count }, (_, i) => `  codes[here.${name}_at + at * ${count}u + ${i}u] = ${word(i)};`).join("\n")}`;
}

/** The floor of the preconditioner over the root of the new scale. */
function floorArgument(
  { name, format, nextMarksAt }: QuantizedState,
  k: number,
): string {
  if (nextMarksAt === undefined) return "";
  const scale = isRank1(format)
    ? `scale_${name}${k}`
    : `vec4f(bitcast<f32>(peak_${name}))`;
  return `, here.${floorField(name)} * inverseSqrt(max(${scale}, vec4f(0x1p-126f)))`;
}

/** The states' new form; scales are stored apart, when nobody reads the old ones. */
export function storeStates(shape: KernelShape): string {
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
          const encode = isCorrected(state) ? "encode_and_add" : "encode";
          const code = `${encode}_${name}(x_${name}${k}, 4u * (at * ${shape.quads}u + ${k}u) + here.index${floorArgument(state, k)})${outside}`;
          return shift ? `((${code}) << ${shift}u)` : `(${code})`;
        })
        .join(" | ");
    if (isRank1(state.format)) return storeByRank1(shape, state, word);
    // One division and one test in the common case. The rest: a scale whose
    // inverse would be subnormal and count as 0; and below the smallest normal
    // number, or not finite, a group of zeros.
    return `
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
