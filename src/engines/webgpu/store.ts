/** The states' new form: scales, codes, words. */
import { isCorrected } from "./correct.ts";
import { floorField, type KernelShape, type QuantizedState } from "./kernel.ts";
import { codeWords, hasPeak, isBlock, perQuad, quadAt } from "./parts.ts";
import { wgslNumber } from "../../formula/wgsl.ts";
import { narrowHalves, storeRows } from "./rows.ts";
import { isRank1 } from "./small.ts";
import { rank1Scales } from "./tiles.ts";

/** Every element has a scale of its own, that of a number by which nothing is divided being 0. */
function storeByRank1(
  shape: KernelShape,
  state: QuantizedState,
  word: (i: number) => string,
): string {
  const { name } = state;
  const count = codeWords(shape, state);
  const cells = (k: number) =>
    shape.oneRow ? "lane.cells" : `next_${name}${k}`;
  const scales = rank1Scales(shape, state.format, name, "next", cells);
  // 1 / scale must not be subnormal: it would count as 0.
  return `
${scales.before}
${perQuad(
  shape,
  (
    k,
  ) => `${shape.oneRow ? "" : `  let next_${name}${k} = find_cells(${quadAt(shape, k)});`}
  let scale_${name}${k} = ${scales.of(k)};
  var x_${name}${k} = lane.${name}${k} * (vec4f(1.0) / scale_${name}${k})${scaling(state)};
  let least_${name}${k} = min(min(scale_${name}${k}.x, scale_${name}${k}.y), min(scale_${name}${k}.z, scale_${name}${k}.w));
  if (least_${name}${k} < 0x1p-126f || ${scales.most ?? `largest(scale_${name}${k})`} >= 0x7e000000u) {
    let down = select(vec4f(1.0), vec4f(0x1p-32f), scale_${name}${k} >= vec4f(0x1p125f));
    let inverse = select(vec4f(0.0), vec4f(1.0) / (scale_${name}${k} * down), scale_${name}${k} > vec4f(0.0));
    x_${name}${k} = (lane.${name}${k} * down) * inverse${scaling(state)};
  }`,
).join("\n")}
${
  shape.stride
    ? storeRows(shape, state, (k) => codesOf(shape, state, k))
    : Array.from(
        { length: count },
        (_, i) =>
          `  codes[here.${name}_at + at * ${count}u + ${i}u] = ${word(i)};`,
      ).join("\n")
}`;
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

/** What lines.ts wants numbers multiplied by. */
const lineScale = ({ table }: QuantizedState): number =>
  table.kind === "lines" ? table.scale : 1;

const scaling = (state: QuantizedState): string =>
  lineScale(state) === 1 ? "" : ` * ${wgslNumber(lineScale(state))}`;

/** Quads but the first may lie beyond the end. */
const guarded = (shape: KernelShape, k: number, statement: string): string =>
  k === 0 || shape.whole
    ? `  ${statement}`
    : `  if (any(inside(${quadAt(shape, k)}))) { ${statement} }`;

/** A word of codes, or the part of it that an invocation has. */
function codesOf(shape: KernelShape, state: QuantizedState, k: number): string {
  const { name } = state;
  const quad = quadAt(shape, k);
  const encode = isCorrected(state) ? "encode_and_add" : "encode";
  const code = `${encode}_${name}(x_${name}${k}, 4u * ${quad} + here.index${floorArgument(state, k)})`;
  return shape.spec.aligned
    ? `(${code})`
    : `(${code} & inside_bits_${name}(${quad}))`;
}

function storeState(shape: KernelShape, state: QuantizedState): string {
  const { name, width, zeroCode, zeroIsZero } = state;
  const count = codeWords(shape, state);
  let zeroWord = 0;
  for (let i = 0; i < 32; i += width) zeroWord |= zeroCode << i;
  const word = (i: number) =>
    perQuad(shape, (k) => k)
      .filter((k) => Math.floor((k * width) / 8) === i)
      .map((k) => {
        const shift = (k * width * 4) % 32;
        const code = codesOf(shape, state, k);
        return shift ? `(${code} << ${shift}u)` : code;
      })
      .join(" | ");
  if (isRank1(state.format)) return storeByRank1(shape, state, word);
  const valid = (text: string) =>
    zeroIsZero ? text : `select(${zeroWord >>> 0}u, ${text}, valid_${name})`;
  const made = scaledByPeak(shape, state);
  if (shape.stride)
    return `${made}
${storeRows(shape, state, (k) => valid(codesOf(shape, state, k)))}`;
  return `${made}
${Array.from({ length: count }, (_, i) => `  codes[here.${name}_at + at * ${count}u + ${i}u] = ${valid(word(i))};`).join("\n")}`;
}

/**
 * One division and one test in the common case. The rest: a scale whose
 * inverse would be subnormal and count as 0; and below the smallest normal
 * number, or not finite, a group of zeros.
 */
function scaledByPeak(shape: KernelShape, state: QuantizedState): string {
  const { name, zeroIsZero } = state;
  const each = (part: (k: number) => string) => perQuad(shape, part).join("\n");
  // The largest scale whose inverse, times what lines want, is no subnormal number.
  const largest = 0x7e000000 + 2 ** 23 * Math.log2(lineScale(state));
  return `
  let inverse_${name} = 1.0 / bitcast<f32>(peak_${name})${scaling(state)};
${each((k) => `  var x_${name}${k} = lane.${name}${k} * inverse_${name};`)}
${zeroIsZero ? "" : `  let valid_${name} = peak_${name} >= 0x00800000u && peak_${name} < 0x7f800000u;`}
  if (peak_${name} - 0x00800000u >= ${largest - 0x00800000}u) {
    let large = peak_${name} >= ${largest}u && peak_${name} < 0x7f800000u;
    let down = 1.0 / (bitcast<f32>(peak_${name}) * 0x1p-32f);
${each((k) => `    x_${name}${k} = select(vec4f(0.0), (lane.${name}${k} * 0x1p-32f) * down${scaling(state)}, large);`)}
  }`;
}

/** The states' new form; scales are stored apart, when nobody reads the old ones. */
export function storeStates(shape: KernelShape): string {
  const { quantized, halves, floats } = shape;
  return `
${quantized
  .filter(isBlock)
  .map(
    (state) => `fn store_scale_${state.name}(block: u32, peak: u32) {
  codes[here.${state.name}_scales + block] = select(0u, peak, peak >= 0x00800000u);
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
${narrowHalves(shape)}
fn store_states(at: u32, lane: Lane${quantized
    .filter(hasPeak)
    .map(({ name }) => `, peak_${name}: u32`)
    .join("")}) {
${floats.map(({ name }) => perQuad(shape, (k) => guarded(shape, k, `floats[here.${name}_at + ${quadAt(shape, k)}] = lane.${name}${k};`)).join("\n")).join("\n")}
${halves.map(({ name }) => perQuad(shape, (k) => guarded(shape, k, `store_${name}(${quadAt(shape, k)}, lane.${name}${k});`)).join("\n")).join("\n")}
${quantized.map((state) => storeState(shape, state)).join("\n")}
}`;
}
