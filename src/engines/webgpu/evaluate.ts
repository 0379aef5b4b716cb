/**
 * The nodes of a program that are not per element, in WGSL: a workgroup takes a
 * tensor. Level by level, after the pass that a level waits for; and the new
 * values of small states, as soon as nobody reads the old ones any more.
 */
import type { Format } from "../../formats/format.ts";
import {
  operands,
  smallNodesOf,
  type Program,
  type Shape,
} from "../../formula/program.ts";
import { wgslNumber } from "../../formula/wgsl.ts";
import { reportWords } from "./report.ts";
import { lowest } from "./reduce.ts";
import { stateNodes, wantedNodes } from "./heeded.ts";
import { isRank1, takesOf } from "./small.ts";

/** Words of a tensor's record, in order. */
export function recordFields(
  program: Program,
  formats: readonly Format[],
): string[] {
  const each = (
    list: readonly unknown[],
    wanted: (i: number) => boolean,
    name: string,
  ) => list.flatMap((_, i) => (wanted(i) ? [`${name}${i}`] : []));
  return [
    "matrices",
    "rows",
    "columns",
    ...each(program.nodes, (i) => program.small[i]!, "n"),
    ...each(program.states, (s) => program.stateShapes[s] !== "element", "s"),
    ...formats.flatMap((format, s) =>
      isRank1(format) ? [`old${s}`, `new${s}`, `length${s}`] : [],
    ),
    ...Array.from({ length: program.uniformCount }, (_, i) => `u${i}`),
  ];
}

/** The level of what follows the update. */
export const lastLevel = (
  program: Program,
  formats: readonly Format[],
): number => takesOf(program, formats).length + 1;

const record = (field: string) => `records[group.x].${field}`;

const lengthOf = (shape: Shape): string =>
  ({
    one: "1u",
    matrix: record("matrices"),
    row: `${record("matrices")} * ${record("rows")}`,
    column: `${record("matrices")} * ${record("columns")}`,
    element: "0u",
  })[shape];

/** Of an entry i of one shape, the entry of a narrower one. */
function entry(from: Shape, to: Shape): string {
  if (from === to) return "i";
  if (to === "one") return "0u";
  return `i / ${record(from === "row" ? "rows" : "columns")}`;
}

/** A loop over values, or a fold of them. */
interface Part {
  readonly text: string;
  /** A fold is the work of one workgroup a tensor. */
  readonly fold: boolean;
  /** Names of nodes and states in memory. */
  readonly reads: ReadonlySet<string>;
  readonly writes: ReadonlySet<string>;
}

/** What goes through one dispatch. */
export interface Stage {
  readonly code: string;
  /** Several workgroups may share a tensor, in the second dimension of the dispatch. */
  readonly spread: boolean;
}

/**
 * What a level does, stage by stage; nothing for some levels.
 *
 * @param long Whether some tensor has so many rows or columns that one workgroup
 * would take longer over them than several dispatches do: then parts that need
 * no barrier between them make a stage. Else all parts are one.
 */
export function evaluateStages(
  program: Program,
  formats: readonly Format[],
  level: number,
  workgroup: number,
  long: boolean,
): Stage[] {
  const last = lastLevel(program, formats);
  const parts = [
    ...(level < last ? nodeLoops(program, level) : []),
    ...commits(program, formats, level, last),
  ];
  const stages: Part[][] = [];
  for (const part of parts) {
    const stage = stages.at(-1);
    if (stage && (!long || stage.every((other) => independent(other, part))))
      stage.push(part);
    else stages.push([part]);
  }
  return stages.map((stage) => ({
    code: stageCode(recordFields(program, formats), stage, workgroup),
    spread: long && !stage.some(({ fold }) => fold),
  }));
}

function independent(a: Part, b: Part): boolean {
  const meet = (x: ReadonlySet<string>, y: ReadonlySet<string>) =>
    [...x].some((name) => y.has(name));
  return (
    !a.fold &&
    !b.fold &&
    !meet(a.writes, b.reads) &&
    !meet(a.reads, b.writes) &&
    !meet(a.writes, b.writes)
  );
}

function stageCode(
  fields: readonly string[],
  stage: readonly Part[],
  workgroup: number,
): string {
  const parts = stage.map(({ text }) => text);
  const used = (how: string) =>
    parts.some((part) => part.includes(`fold_${how}(`));
  return `
struct Record {
${fields.map((field) => `  ${field}: ${/^u\d/.test(field) ? "f32" : "u32"},`).join("\n")}
}
@group(0) @binding(0) var<storage, read> records: array<Record>;
@group(0) @binding(1) var<storage, read_write> smalls: array<f32>;
@group(0) @binding(2) var<storage, read_write> report: array<u32>;
${used("sum") || used("max") ? `var<workgroup> fold: array<f32, ${workgroup}>;` : ""}
${used("sum") ? foldFunction("sum", "0.0", "a + b", workgroup) : ""}
${used("max") ? foldFunction("max", lowest, "max(a, b)", workgroup) : ""}
@compute @workgroup_size(${workgroup})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {
  let first = group.y * ${workgroup}u + invocation;
  let stride = groups.y * ${workgroup}u;
${parts.join("\n  storageBarrier();\n")}
}`;
}

/** Rows or columns to one value a matrix: together, or each on its own when matrices are many. */
const foldFunction = (
  name: string,
  neutral: string,
  joined: string,
  workgroup: number,
) => `
fn join_${name}(a: f32, b: f32) -> f32 { return ${joined}; }
fn fold_${name}(source: u32, to: u32, matrices: u32, each: u32, divisor: f32, invocation: u32) {
  if (matrices >= 8u) {
    for (var m = invocation; m < matrices; m += ${workgroup}u) {
      var result = ${neutral};
      for (var i = 0u; i < each; i += 1u) { result = join_${name}(result, smalls[source + m * each + i]); }
      smalls[to + m] = result / divisor;
    }
    return;
  }
  for (var m = 0u; m < matrices; m += 1u) {
    var result = ${neutral};
    for (var i = invocation; i < each; i += ${workgroup}u) { result = join_${name}(result, smalls[source + m * each + i]); }
    fold[invocation] = result;
    workgroupBarrier();
    for (var half = ${workgroup / 2}u; half > 0u; half /= 2u) {
      if (invocation < half) { fold[invocation] = join_${name}(fold[invocation], fold[invocation + half]); }
      workgroupBarrier();
    }
    if (invocation == 0u) { smalls[to + m] = fold[0] / divisor; }
    workgroupBarrier();
  }
}`;

/** One loop for as many nodes of a shape as can be had at a time. */
function nodeLoops(program: Program, level: number): Part[] {
  const { nodes, shapes, small, levels } = program;
  const waiting = new Set(
    nodes.flatMap((node, index) =>
      small[index] &&
      levels[index] === level &&
      node.op !== "input" &&
      !(node.op === "reduce" && shapes[node.a] === "element")
        ? [index]
        : [],
    ),
  );
  const parts: Part[] = [];
  while (waiting.size > 0) {
    const [first] = waiting;
    const node = nodes[first!]!;
    // In order, a node waits for nothing behind it: the first one is ready.
    if (node.op === "reduce") {
      waiting.delete(first!);
      const each = record(shapes[node.a] === "row" ? "rows" : "columns");
      parts.push({
        fold: true,
        reads: storedFor(program, node.a, []),
        writes: new Set([nameOf(program, first!)]),
        text: `  fold_${node.how === "max" ? "max" : "sum"}(${record(`n${node.a}`)}, ${record(`n${first}`)}, ${record("matrices")}, ${each}, ${node.how === "mean" ? `f32(${each})` : "1.0"}, invocation);`,
      });
      continue;
    }
    const shape = shapes[first!]!;
    const together: number[] = [];
    for (const index of waiting) {
      const one = nodes[index]!;
      if (
        one.op !== "reduce" &&
        shapes[index] === shape &&
        operands(one).every((a) => !waiting.has(a) || together.includes(a))
      )
        together.push(index);
    }
    for (const index of together) waiting.delete(index);
    parts.push({
      fold: false,
      reads: new Set(
        together.flatMap((index) =>
          operands(nodes[index]!).flatMap((a) => [
            ...storedFor(program, a, together),
          ]),
        ),
      ),
      writes: new Set(together.map((index) => nameOf(program, index))),
      text: `  for (var i = first; i < ${lengthOf(shape)}; i += stride) {
${together
  .map(
    (
      index,
    ) => `    let x${index} = ${expression(program, index, shape, together)};
    smalls[${record(`n${index}`)} + i] = x${index};`,
  )
  .join("\n")}
  }`,
    });
  }
  return parts;
}

/** What a node is called in memory; a state before the step has the state's own place. */
function nameOf({ nodes, states }: Program, index: number): string {
  const node = nodes[index]!;
  return node.op === "input" ? `s${states.indexOf(node.name)}` : `n${index}`;
}

/** What must be in memory for the value of a node, beside those near. */
function storedFor(
  program: Program,
  index: number,
  near: readonly number[],
): Set<string> {
  if (near.includes(index)) return new Set();
  if (program.small[index]) return new Set([nameOf(program, index)]);
  return new Set(
    operands(program.nodes[index]!).flatMap((a) => [
      ...storedFor(program, a, near),
    ]),
  );
}

/** The value of a node for entry i of a shape. */
function valueOf(
  program: Program,
  index: number,
  shape: Shape,
  near: readonly number[],
): string {
  if (near.includes(index)) return `x${index}`;
  if (program.small[index])
    return `smalls[${record(`n${index}`)} + ${entry(shape, program.shapes[index]!)}]`;
  return expression(program, index, shape, near);
}

function expression(
  program: Program,
  index: number,
  shape: Shape,
  near: readonly number[],
): string {
  const node = program.nodes[index]!;
  const at = (a: number) => valueOf(program, a, shape, near);
  switch (node.op) {
    case "const":
      return wgslNumber(node.value);
    case "uniform":
      return record(`u${node.index}`);
    case "select":
      return `select(${at(node.b)}, ${at(node.a)}, ${at(node.condition)} != 0.0)`;
    case "neg":
      return `-(${at(node.a)})`;
    case "add":
      return `(${at(node.a)} + ${at(node.b)})`;
    case "sub":
      return `(${at(node.a)} - ${at(node.b)})`;
    case "mul":
      return `(${at(node.a)} * ${at(node.b)})`;
    case "div":
      return `(${at(node.a)} / ${at(node.b)})`;
    case "lt":
    case "le":
    case "gt":
    case "ge":
    case "eq":
    case "ne":
      return `select(0.0, 1.0, ${at(node.a)} ${{ lt: "<", le: "<=", gt: ">", ge: ">=", eq: "==", ne: "!=" }[node.op]} ${at(node.b)})`;
    case "min":
    case "max":
    case "pow":
      return `${node.op}(${at(node.a)}, ${at(node.b)})`;
    case "input":
    case "reduce":
      throw new Error(`${program.owner}: node ${index} is no small expression`);
    default:
      return `${node.op}(${at(node.a)})`;
  }
}

/** When each small state takes its new value. */
function commitLevels(
  program: Program,
  formats: readonly Format[],
  last: number,
): Map<number, number> {
  const passes = takesOf(program, formats);
  const output = (s: number) => program.outputs.get(program.states[s]!)!;
  const smallStates = program.states.flatMap((_, s) =>
    program.stateShapes[s] === "element" ? [] : [s],
  );
  // One state's new value is another's old one: after everything.
  const chained = smallStates.some(
    (s) => program.nodes[output(s)]!.op === "input",
  );
  return new Map(
    smallStates.map((s) => {
      if (chained) return [s, last];
      const input = program.nodes.findIndex(
        (node) => node.op === "input" && node.name === program.states[s],
      );
      let level = Math.max(1, program.levels[output(s)]!);
      program.nodes.forEach((node, index) => {
        if (operands(node).includes(input) && program.small[index])
          level = Math.max(level, program.levels[index]!);
      });
      passes.forEach((takes, pass) => {
        if (smallNodesOf(program, wantedNodes(program, takes)).includes(input))
          level = Math.max(level, pass + 1);
      });
      const update = [program.outputs.get("p")!, ...stateNodes(program)];
      if (smallNodesOf(program, update).includes(input)) level = last;
      return [s, passes.length === 0 ? last : level];
    }),
  );
}

function commits(
  program: Program,
  formats: readonly Format[],
  level: number,
  last: number,
): Part[] {
  const due = [...commitLevels(program, formats, last)].flatMap(([s, at]) =>
    at === level ? [s] : [],
  );
  // A step that is left out as a whole changes nothing.
  const loop = (length: string, body: string) =>
    `  for (var i = first + select(0u, ${length}, report[${reportWords.skip}] != 0u); i < ${length}; i += stride) {
${body}
  }`;
  const parts: Part[] = [];
  // A narrower state may be what a wider one's new value is: it comes later.
  for (const shape of ["row", "column", "one"] as const) {
    const states = due.filter((s) => program.stateShapes[s] === shape);
    if (states.length === 0) continue;
    parts.push({
      fold: false,
      reads: new Set(
        states.flatMap((s) => [
          ...storedFor(program, program.outputs.get(program.states[s]!)!, []),
        ]),
      ),
      writes: new Set(states.map((s) => `s${s}`)),
      text: loop(
        lengthOf(shape),
        [
          ...states.map(
            (s) =>
              `    let x${s} = ${valueOf(program, program.outputs.get(program.states[s]!)!, shape, [])};`,
          ),
          ...states.map((s) => `    smalls[${record(`s${s}`)} + i] = x${s};`),
        ].join("\n"),
      ),
    });
  }
  if (level === last)
    formats.forEach((format, s) => {
      if (isRank1(format))
        parts.push({
          fold: false,
          reads: new Set(),
          writes: new Set([`old${s}`]),
          text: loop(
            record(`length${s}`),
            `    smalls[${record(`old${s}`)} + i] = smalls[${record(`new${s}`)} + i];`,
          ),
        });
    });
  return parts;
}
