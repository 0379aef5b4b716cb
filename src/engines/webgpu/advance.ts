/** The middle of a kernel: what is loaded, the formula, and what is left out. */
import { watchedNodes } from "../../formula/program.ts";
import { printWgsl } from "../../formula/wgsl.ts";
import { smallValue } from "./cells.ts";
import { carriesGradient } from "./heeded.ts";
import {
  type KernelShape,
  type QuantizedState,
  type StateSpec,
} from "./kernel.ts";
import {
  codeWords,
  hasEdge,
  lanesPerBlock,
  perQuad,
  quadAt,
  sumFails,
} from "./parts.ts";
import { reportWords } from "./report.ts";
import { isRank1 } from "./small.ts";
import { loadRows } from "./rows.ts";
import { rank1Scales } from "./tiles.ts";

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

/** The functions of the middle: `advance(at)`, and `peak_<name><block>(lane)`. */
export function advanceFunctions(shape: KernelShape): string {
  const { spec, states, quantized } = shape;
  const { aligned } = spec;
  const largest = ({ name }: QuantizedState) =>
    perQuad(shape, (k) => `abs(lane.${name}${k})`).reduce(
      (a, b) => `max(${a}, ${b})`,
    );
  // Rows that lie within the segment, nearly all of them, need no masks.
  const edge = hasEdge(shape);
  return `
struct Lane {
${spec.solo ? "  /// Elements left out.\n  bad: u32," : ""}
${shape.small && shape.oneRow ? "  cells: Cells," : ""}
${perQuad(shape, (k) => [`  p${k}: vec4f,`, ...states.map(({ name }) => `  ${name}${k}: vec4f,`)].join("\n")).join("\n")}
}
${aligned ? `fn inside(quad: u32) -> vec4<bool> { return vec4<bool>(4u * quad < here.length); }` : `fn inside(quad: u32) -> vec4<bool> { return 4u * vec4u(quad) + vec4u(0u, 1u, 2u, 3u) < vec4u(here.length); }`}
${advanceFunction(shape, "advance", !shape.whole && !edge)}
${edge ? advanceFunction(shape, "advance_edge", true) : ""}
${quantized.map((state) => `fn peak_${state.name}(lane: Lane) -> u32 { return largest(${largest(state)}); }`).join("\n")}`;
}

/** Load, dequantize, formula; what is not finite keeps its old values. */
function advanceFunction(
  shape: KernelShape,
  called: string,
  masked: boolean,
): string {
  const { spec, states, quantized, quads } = shape;
  const { program, aligned, paired, skip, clip, mode, written } = spec;
  const newNodes = states.map(({ name }) => program.outputs.get(name)!);
  const watchGradient = !newNodes.some((node) =>
    carriesGradient(program, node),
  );
  // What a reduction takes of the gradient alone must be finite as well.
  const watchedOnly = skip ? watchedNodes(program) : [];
  // Of several quads the last ones may lie beyond the end; their results are dropped.
  const given = (k: number) =>
    masked && aligned && quads > 1
      ? `min(quad${k}, (here.length - 1u) / 4u)`
      : `quad${k}`;
  const operand = (name: "p" | "g", k: number) =>
    paired
      ? `${k % 2 ? "high" : "low"}_${name}(pair_${name}${k >> 1})`
      : `load_${name}(${given(k)})`;
  const pairs = Array.from(
    { length: paired ? quads / 2 : 0 },
    (_, i) => `  let pair_p${i} = pair_p(at * ${quads / 2}u + ${i}u);
  let pair_g${i} = pair_g(at * ${quads / 2}u + ${i}u);`,
  );
  const quad = (k: number) => {
    const formula = {
      type: "vec4f",
      input: (name: string) =>
        name === "p" || name === "g" ? `${name}${k}` : `old_${name}${k}`,
      uniform: (index: number) => `here.u${index}`,
      small: smallValue(shape, k),
    } as const;
    const fresh = printWgsl(program, [...newNodes, ...watchedOnly], {
      ...formula,
      prefix: `s${k}_`,
    });
    return `
  let quad${k} = ${quadAt(shape, k)};
${shape.small && !shape.oneRow ? `  let cells${k} = find_cells(quad${k});` : ""}
  let p${k} = ${operand("p", k)};
  let g${k} = ${operand("g", k)}${clip ? ` * bitcast<f32>(atomicLoad(&report[${reportWords.factor}]))` : ""};
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
  if (${sumFails("watch")}) {
${perQuad(
  shape,
  (k) => `    let bad${k} = ${watched[k]!.map(
    (value) => `not_finite(${value})`,
  ).reduce((a, b) => `(${a} | ${b})`)}${masked ? ` & inside(quad${k})` : ""};
    ${countBad(shape, `dot(select(vec4u(0u), vec4u(1u), bad${k}), vec4u(1u))`)}
${update ? `    lane.p${k} = select(lane.p${k}, ${written === "parameter" ? `p${k}` : "vec4f()"}, bad${k});` : ""}
${states.map(({ name }) => `    new_${name}${k} = select(new_${name}${k}, old_${name}${k}, bad${k});`).join("\n")}`,
).join("\n")}
  }`;
  const parameter = (k: number) => {
    const known = new Map(
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
        small: smallValue(shape, k),
      },
      known,
    );
    return `
${text.statements.map((line) => `  ${line}`).join("\n")}
  lane.p${k} = ${text.results[0]}${written === "change" ? ` - p${k}` : ""};`;
  };
  return `
fn ${called}(at: u32) -> Lane {
  var lane: Lane;
${shape.small && shape.oneRow ? `  lane.cells = find_cells(${quadAt(shape, 0)});` : ""}
${quantized.map((state) => loadCodes(shape, state)).join("\n")}
${pairs.join("\n")}
${perQuad(shape, quad).join("\n")}
${update ? perQuad(shape, parameter).join("\n") : ""}
${skip ? guard : ""}
${perQuad(shape, (k) => states.map(({ name }) => `  lane.${name}${k} = new_${name}${k};`).join("\n")).join("\n")}
  return lane;
}`;
}

function loadCodes(shape: KernelShape, state: QuantizedState): string {
  const { name, format } = state;
  const count = codeWords(shape, state);
  const words = shape.stride
    ? [loadRows(shape, state)]
    : Array.from(
        { length: count },
        (_, i) =>
          `  let bits_${name}${i} = codes[here.${name}_at + at * ${count}u + ${i}u];`,
      );
  if (isRank1(format)) {
    const cells = (k: number) =>
      shape.oneRow ? "lane.cells" : `cells_${name}${k}`;
    const scales = rank1Scales(shape, format, name, "old", cells);
    return [
      ...words,
      scales.before,
      ...perQuad(
        shape,
        (k) =>
          `${shape.oneRow ? "" : `  let cells_${name}${k} = find_cells(${quadAt(shape, k)});`}
  let scale_${name}${k} = ${scales.of(k)};`,
      ),
    ].join("\n");
  }
  const scale =
    format.scale === "block"
      ? `bitcast<f32>(codes[here.${name}_scales + at / ${shape.stride ? format.blockSize / 4 : lanesPerBlock(shape, state)}u])`
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
  const word = shape.stride ? k : Math.floor((k * state.width) / 8);
  const shift = shape.stride ? 0 : (k * state.width * 4) % 32;
  const scale = isRank1(format) ? k : "";
  return `  let old_${name}${k} = decode_${name}(bits_${name}${word}${shift ? ` >> ${shift}u` : ""}) * scale_${name}${scale};`;
}
