/**
 * A pass over the elements before the update, in WGSL: what reductions are
 * taken of, and the magnitudes that rank-1 scales bound, computed anew from what
 * is stored and added up tile by tile (see small.ts). It stores nothing but
 * partial results, always added in the same order.
 *
 * Where rows begin at multiples of four an invocation takes four elements at a
 * time, else one: rows may begin anywhere then, and reads of neighbours coalesce.
 */
import { inputsOf } from "../../formula/program.ts";
import { printWgsl } from "../../formula/wgsl.ts";
import { heededNodes, wantedNodes } from "./heeded.ts";
import { sumFails } from "./parts.ts";
import { reportWords } from "./report.ts";
import type { KernelShape, StateSpec } from "./kernel.ts";
import { loadFunctions, oneFunctions } from "./operands.ts";
import { isRank1, passWorkgroup, type Take } from "./small.ts";
import { isSteps, stepFunctions } from "./steps.ts";
import { lastIndex, leadIndex } from "./tiles.ts";

/** The least number: a maximum of nothing so far. */
export const lowest = "-0x1.fffffep+127f";

const neutral = ({ how }: Take) => (how === "max" ? lowest : "0.0");
const joined = ({ how }: Take, a: string, b: string) =>
  how === "max" ? `max(${a}, ${b})` : `${a} + ${b}`;

export function passCode(
  shape: KernelShape,
  declarations: string,
  pass: number,
): string {
  const takes = shape.passes[pass]!;
  const { wide } = shape.spec;
  const width = passWorkgroup(shape.spec.solo);
  const four = (take: Take) => wide && take.over === "column";
  const start = (take: Take) =>
    four(take) ? `vec4f(${neutral(take)})` : neutral(take);
  const columns = takes.some(({ over }) => over === "column");
  const each = (part: (take: Take, i: number) => string, over?: Take["over"]) =>
    takes
      .flatMap((take, i) =>
        over === undefined || take.over === over ? [part(take, i)] : [],
      )
      .join("\n");
  const rows = takes.filter(({ over }) => over === "row").length;
  // Rows are added up several at a time: fewer barriers. Of the 16 KiB of
  // workgroup memory that there are at least, they take half, or a quarter
  // beside columns of four and codebooks.
  const most = wide ? 4 : 8;
  const deep = Math.max(1, most / 2 ** Math.ceil(Math.log2(Math.max(1, rows))));
  const bits = Math.log2(shape.spec.segments);
  return `
${declarations}
${wide ? "" : oneFunctions(shape)}
${wide ? wideTakeFunction(shape, takes) : takeFunction(shape, takes)}
${wide && columns ? `var<workgroup> fold_four: array<vec4f, ${width}>;` : ""}
${each((_, i) => `var<workgroup> rows${i}: array<f32, ${deep * width}>;`, "row")}
var<workgroup> fold: array<f32, ${width}>;

@compute @workgroup_size(${width})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {
  let tile = group.x + group.y * groups.x;
  var own = 0u;
  for (var half = ${bits === 0 ? 0 : 2 ** (bits - 1)}u; half > 0u; half /= 2u) {
    if (own + half < job.segments && job.list[own + half].first_tile <= tile) { own += half; }
  }
  here = job.list[own];
  let local = tile - job.list[own].first_tile;
  if (local >= job.list[own].tile_count) { return; }
  let column_tiles = job.list[own].column_tiles;
  ${wide ? "load_near(invocation); workgroupBarrier();" : ""}
  let columns = job.list[own].columns${wide ? " / 4u" : ""};
  let lane_bits = job.list[own].lane_bits;
  let lanes = 1u << lane_bits;
  let side = ${width}u >> lane_bits;
  let x = invocation & (lanes - 1u);
  let y = invocation >> lane_bits;
  let strip = job.list[own].first_strip + local / column_tiles;
  let column_tile = local % column_tiles;
  let matrix = strip / job.list[own].strips;
  let first_row = matrix * job.list[own].rows + (strip % job.list[own].strips) * job.list[own].strip_rows;
  let end_row = min((matrix + 1u) * job.list[own].rows, first_row + job.list[own].strip_rows);
  let column = (column_tile << lane_bits) + x;
  ${wide ? "load_columns(column, matrix);" : ""}
${each((take, i) => `  var sum${i} = ${start(take)};`)}
  for (var block = first_row; block < end_row; block += ${deep}u * side) {
${wide ? readTogether(takes, deep, width) : readInTurn(takes, deep, width)}
${
  rows === 0
    ? ""
    : `    // ${deep} * side rows of so many lanes each.
    let parts = lanes / ${deep}u;
    let q = invocation / parts;
    let part = invocation % parts;`
}
${each(
  (take, i) => `    workgroupBarrier();
    var row${i} = ${neutral(take)};
    for (var e = 0u; e < ${deep}u; e += 1u) { row${i} = ${joined(take, `row${i}`, `rows${i}[q * lanes + e * parts + part]`)}; }
    fold[invocation] = row${i};
    workgroupBarrier();
    if (part == 0u && block + q < end_row) {
      for (var e = 1u; e < parts; e += 1u) { row${i} = ${joined(take, `row${i}`, "fold[invocation + e]")}; }
      smalls[here.t${pass}_${i} + (column_tile * here.parts + here.part) * here.matrices * here.rows + block + q] = row${i};
    }`,
  "row",
)}
  }
${each((take, i) => {
  const fold = four(take) ? "fold_four" : "fold";
  const at = `here.t${pass}_${i} + (strip * here.parts + here.part) * here.columns`;
  return `  workgroupBarrier();
  ${fold}[invocation] = sum${i};
  workgroupBarrier();
  if (y == 0u && column < columns) {
    for (var e = 1u; e < side; e += 1u) { sum${i} = ${joined(take, `sum${i}`, `${fold}[e * lanes + x]`)}; }
${four(take) ? [0, 1, 2, 3].map((j) => `    smalls[${at} + 4u * column + ${j}u] = sum${i}[${j}];`).join("\n") : `    smalls[${at} + column] = sum${i};`}
  }`;
}, "column")}
${each(
  (take, i) => `  workgroupBarrier();
  fold[invocation] = sum${i};
  workgroupBarrier();
  for (var half = ${width / 2}u; half > 0u; half /= 2u) {
    if (invocation < half) { fold[invocation] = ${joined(take, "fold[invocation]", "fold[invocation + half]")}; }
    workgroupBarrier();
  }
  if (invocation == 0u) { smalls[here.t${pass}_${i} + (strip * column_tiles + column_tile) * here.parts + here.part] = fold[0]; }`,
  "all",
)}
}`;
}

/** What an invocation takes of a row, for it to be added to other rows' and columns'. */
const keep = (
  take: Take,
  i: number,
  s: string,
  value: string,
  width: number,
) =>
  take.over === "row"
    ? `rows${i}[${s} * ${width}u + invocation] = ${value};`
    : `sum${i} = ${joined(take, `sum${i}`, value)};`;

/** Rows one after the other: less code, for software drivers. Below the segment's first element a difference is large. */
function readInTurn(takes: readonly Take[], deep: number, width: number) {
  return `    for (var s = 0u; s < ${deep}u; s += 1u) {
      let row = block + s * side + y;
      let element = row * columns + column;
      var taken = Taken(${takes.map(neutral).join(", ")});
      if (column < columns && row < end_row && element - here.index < here.length) {
        taken = take(element - here.index, row, column, matrix);
      }
${takes.map((take, i) => `      ${keep(take, i, "s", `taken.v${i}`, width)}`).join("\n")}
    }`;
}

/** Four columns each, and no branch around what is read: it is all on its way at once. */
function readTogether(takes: readonly Take[], deep: number, width: number) {
  const each = Array.from({ length: deep }, (_, s) => s);
  const nothing = (take: Take) =>
    take.over === "column" ? `vec4f(${neutral(take)})` : neutral(take);
  return [
    ...each.map(
      (s) => `    let row_${s} = block + ${s}u * side + y;
    let element_${s} = 4u * (row_${s} * columns + column);
    let inside_${s} = column < columns && row_${s} < end_row && element_${s} - here.index < here.length;
    let taken_${s} = take(select(0u, (element_${s} - here.index) / 4u, inside_${s}), row_${s}, column, matrix);`,
    ),
    ...each.flatMap((s) =>
      takes.map((take, i) =>
        keep(
          take,
          i,
          `${s}u`,
          `select(${nothing(take)}, taken_${s}.v${i}, inside_${s})`,
          width,
        ),
      ),
    ),
  ].join("\n");
}

/** Whether scales are found of a state, and its old value may be what counts. */
const takesState = (takes: readonly Take[], state: number): boolean =>
  takes.some(({ of }) => of.kind === "rank1" && of.state === state);

/** What one element adds to every take. */
function takeFunction(shape: KernelShape, takes: readonly Take[]): string {
  const { spec, states } = shape;
  const { program, skip, clip } = spec;
  const wanted = wantedNodes(program, takes);
  const inputs = inputsOf(program, wanted);
  const scaled = takes.some(({ of }) => of.kind === "rank1");
  const needed = states.filter(
    ({ name, index }) => inputs.has(name) || takesState(takes, index),
  );
  const { statements, results } = printWgsl(program, wanted, {
    type: "f32",
    input: (name) => (name === "p" || name === "g" ? name : `old_${name}`),
    uniform: (index) => `here.u${index}`,
    small: (index, kind) =>
      `smalls[here.n${index}${{ one: "", matrix: " + matrix", row: " + row", column: " + matrix * here.columns + column", element: "" }[kind]}]`,
  });
  const resultOf = (node: number) => results[wanted.indexOf(node)]!;
  const value = (take: Take) => {
    if (take.of.kind === "rank1") {
      const { name } = states.find(
        ({ index }) => index === (take.of as { state: number }).state,
      )!;
      const fresh = resultOf(program.outputs.get(name)!);
      return `abs(${skip ? `select(${fresh}, old_${name}, left_out)` : fresh})`;
    }
    const node = program.nodes[take.of.node] as { a: number };
    const x = resultOf(node.a);
    return skip
      ? `select(${x}, ${neutral(take)}, bad || not_finite_one(${x}))`
      : x;
  };
  const load = (name: "p" | "g") =>
    `  let ${name} = one_${name}(i)${name === "g" && clip ? ` * bitcast<f32>(report[${reportWords.factor}])` : ""};`;
  return `
struct Taken {
${takes.map((_, i) => `  v${i}: f32,`).join("\n")}
}
fn not_finite_one(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) >= 0x7f800000u; }
fn take(i: u32, row: u32, column: u32, matrix: u32) -> Taken {
${inputs.has("p") ? load("p") : ""}
${skip || inputs.has("g") ? load("g") : ""}
${needed.map((state) => `  let old_${state.name} = ${loadStateOne(shape, state)};`).join("\n")}
${statements.map((line) => `  ${line}`).join("\n")}
${skip ? "  let bad = not_finite_one(g);" : ""}
${
  skip && scaled
    ? `  let left_out = bad || ${
        heededNodes(program, takes)
          .map((node) => `not_finite_one(${resultOf(node)})`)
          .join(" || ") || "false"
      };`
    : ""
}
  return Taken(${takes.map(value).join(", ")});
}`;
}

function loadStateOne(shape: KernelShape, { name, index, format }: StateSpec) {
  const at = `here.${name}_at`;
  if (format.bits === 32) return `floats[4u * ${at} + i]`;
  if (format.bits === 16)
    return `bitcast<f32>((codes[${at} + i / 2u] >> (16u * (i % 2u))) << 16u)`;
  const {
    width,
    valuesAt,
    format: own,
  } = shape.quantized.find((state) => state.index === index)!;
  const each = 32 / width;
  const code = `((codes[${at} + i / ${each}u] >> (${width}u * (i % ${each}u))) & ${2 ** width - 1}u)`;
  const scale = isRank1(own)
    ? `min(smalls[here.${name}_lead + ${leadIndex(own, "row", "column")}], smalls[here.${name}_last + ${lastIndex(own, "row", "column")}])`
    : own.scale === "block"
      ? `bitcast<f32>(codes[here.${name}_scales + i / ${own.blockSize}u])`
      : `bitcast<f32>(report[here.${name}_peak])`;
  return `bitcast<f32>(tables[${valuesAt}u + ${code}]) * ${scale}`;
}

/** The same for four elements of a row; columns keep their four values apart. */
function wideTakeFunction(shape: KernelShape, takes: readonly Take[]): string {
  const { spec, states, quantized } = shape;
  const { program, skip, clip, aligned } = spec;
  const wanted = wantedNodes(program, takes);
  const inputs = inputsOf(program, wanted);
  const scaled = takes.some(({ of }) => of.kind === "rank1");
  const needed = states.filter(
    ({ name, index }) => inputs.has(name) || takesState(takes, index),
  );
  // Of the columns that an invocation has in every row: loaded once.
  const columns = new Map<string, string>();
  const ofColumns = (name: string, at: string) => {
    columns.set(name, at);
    return `columns_${name}`;
  };
  const { statements, results } = printWgsl(program, wanted, {
    type: "vec4f",
    input: (name) => (name === "p" || name === "g" ? name : `old_${name}`),
    uniform: (index) => `here.u${index}`,
    small: (index, kind) =>
      kind === "column"
        ? ofColumns(
            `n${index}`,
            `here.n${index} + matrix * here.columns + 4u * column`,
          )
        : `vec4f(smalls[here.n${index}${{ one: "", matrix: " + matrix", row: " + row", element: "" }[kind]}])`,
  });
  const resultOf = (node: number) => results[wanted.indexOf(node)]!;
  const heeded = scaled ? heededNodes(program, takes).map(resultOf) : [];
  const values = takes.map((take, i) => {
    const all = (["x", "y", "z", "w"] as const)
      .map((c) => `w${i}.${c}`)
      .reduce((a, b) =>
        take.how === "max" ? `max(${a}, ${b})` : `(${a} + ${b})`,
      );
    const over = take.over === "column" ? `w${i}` : all;
    if (take.of.kind === "rank1") {
      const { state } = take.of;
      const { name } = states.find(({ index }) => index === state)!;
      const fresh = resultOf(program.outputs.get(name)!);
      return { over, value: `abs(${fresh})`, fresh, kept: `abs(old_${name})` };
    }
    const value = resultOf((program.nodes[take.of.node] as { a: number }).a);
    return { over, value, fresh: value, kept: undefined };
  });
  const watched = [...new Set(["g", ...heeded, ...values.map((v) => v.fresh)])];
  // As in the update: one look at a sum of magnitudes, and at each if it fails.
  const guard = `
  let watch = ${watched.map((value) => `abs(${value})`).join(" + ")};
  if (${sumFails("watch")}) {
    let bad = not_finite(g);
${scaled ? `    let left_out = bad${heeded.map((node) => ` | not_finite(${node})`).join("")};` : ""}
${values
  .map(({ value, kept }, i) =>
    kept
      ? `    w${i} = select(${value}, ${kept}, left_out);`
      : `    w${i} = select(${value}, vec4f(${neutral(takes[i]!)}), bad | not_finite(${value}));`,
  )
  .join("\n")}
  }`;
  // Codebooks in workgroup memory: reads of storage in all directions are slow.
  const coded = quantized.filter(({ index }) =>
    needed.some((state) => state.index === index),
  );
  const stepped = coded.filter(({ format }) => isSteps(format));
  const near = coded.filter(({ format }) => !isSteps(format));
  const loadFour = ({ name, index, format }: StateSpec): string => {
    const at = `here.${name}_at`;
    if (format.bits === 32) return `floats[${at} + quad]`;
    if (format.bits === 16)
      return `bitcast<vec4f>(vec4u(codes[${at} + 2u * quad] << 16u, codes[${at} + 2u * quad] & 0xffff0000u, codes[${at} + 2u * quad + 1u] << 16u, codes[${at} + 2u * quad + 1u] & 0xffff0000u))`;
    const state = quantized.find((one) => one.index === index)!;
    const { width, format: own } = state;
    const each = 8 / width;
    const bits = `(codes[${at} + quad / ${each}u] >> (${4 * width}u * (quad % ${each}u)))`;
    const scale = isRank1(own)
      ? `min(vec4f(smalls[here.${name}_lead + ${leadIndex(own, "row", "4u * column")}]), ${own.scale === "rank1" ? ofColumns(name, `here.${name}_last + ${lastIndex(own, "row", "4u * column")}`) : `four(here.${name}_last + ${lastIndex(own, "row", "4u * column")})`})`
      : own.scale === "block"
        ? `bitcast<f32>(codes[here.${name}_scales + quad / ${own.blockSize / 4}u])`
        : `bitcast<f32>(report[here.${name}_peak])`;
    if (isSteps(own)) return `decode_${name}(${bits}) * ${scale}`;
    const value = (j: number) =>
      `near_${name}[(${bits} >> ${j * width}u) % ${2 ** width}u]`;
    return `vec4f(${[0, 1, 2, 3].map(value).join(", ")}) * ${scale}`;
  };
  const load = (name: "p" | "g") =>
    `  let ${name} = load_${name}(quad)${name === "g" && clip ? ` * bitcast<f32>(report[${reportWords.factor}])` : ""};`;
  const olds = needed.map(
    (state) => `  let old_${state.name} = ${loadFour(state)};`,
  );
  return `
${loadFunctions(shape, "read")}
${[...columns.keys()].map((name) => `var<private> columns_${name}: vec4f;`).join("\n")}
fn load_columns(column: u32, matrix: u32) {
${[...columns].map(([name, at]) => `  columns_${name} = four(${at});`).join("\n")}
}
${stepped.map(({ name, width, format }) => stepFunctions(name, format.bits, width)).join("\n")}
${near.map(({ name, width }) => `var<workgroup> near_${name}: array<f32, ${2 ** width}>;`).join("\n")}
fn load_near(invocation: u32) {
${near.map(({ name, width, valuesAt }) => `  for (var i = invocation; i < ${2 ** width}u; i += ${passWorkgroup(spec.solo)}u) { near_${name}[i] = bitcast<f32>(tables[${valuesAt}u + i]); }`).join("\n")}
}
struct Taken {
${takes.map(({ over }, i) => `  v${i}: ${over === "column" ? "vec4f" : "f32"},`).join("\n")}
}
fn not_finite(v: vec4f) -> vec4<bool> { return (bitcast<vec4u>(v) & vec4u(0x7fffffffu)) >= vec4u(0x7f800000u); }
fn four(at: u32) -> vec4f { return vec4f(smalls[at], smalls[at + 1u], smalls[at + 2u], smalls[at + 3u]); }
fn take(quad: u32, row: u32, column: u32, matrix: u32) -> Taken {
${inputs.has("p") ? load("p") : ""}
${skip || inputs.has("g") ? load("g") : ""}
${olds.join("\n")}
${statements.map((line) => `  ${line}`).join("\n")}
${values.map(({ value }, i) => `  var w${i} = ${value};`).join("\n")}
${skip ? guard : ""}
${
  aligned
    ? ""
    : `  let inside = 4u * vec4u(quad) + vec4u(0u, 1u, 2u, 3u) < vec4u(here.length);
${takes.map((take, i) => `  w${i} = select(vec4f(${neutral(take)}), w${i}, inside);`).join("\n")}`
}
  return Taken(${values.map(({ over }) => over).join(", ")});
}`;
}
