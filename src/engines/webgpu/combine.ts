/**
 * From partial results to results, for many tensors in one dispatch: a task
 * reduces a strided array. And the least scale of all axes but the last, by
 * row, for rank-1 scales of more than two axes.
 */
import type { Format, QuantizedFormat } from "../../formats/format.ts";
import type { TensorPlan } from "../engine.ts";
import { geometryOf, shapeLength } from "../../formula/small.ts";
import { lowest } from "./reduce.ts";
import { takesOf, type SmallPlaces, type Tiling } from "./small.ts";

/** Result o is over k < count of `at + index(o, k)`, see {@link combineCode}. */
export interface Task {
  readonly how: "sum" | "max";
  readonly outputs: number;
  readonly at: number;
  readonly to: number;
  readonly count: number;
  /** Results in groups of so many; their distance, and that of groups. */
  readonly group: number;
  readonly groupStride: number;
  readonly stride: number;
  /** What is reduced in runs of so many; its distance, and that of runs. */
  readonly run: number;
  readonly runStride: number;
  readonly innerStride: number;
  /** Sums are divided by it. */
  readonly divisor: number;
  /** A scale: below the smallest normal number it is 0. */
  readonly scale: boolean;
}

/** Words of a task in the list. */
export const taskWords = 16;
const combineWorkgroup = 256;

/** Invocations that share a result: each takes about eight values. */
const lanesOf = ({ count }: Task): number =>
  2 ** Math.min(8, Math.max(0, Math.ceil(Math.log2(count / 8))));

const groupsOf = (task: Task): number =>
  Math.ceil(task.outputs / (combineWorkgroup / lanesOf(task)));

/** The list as the kernel reads it, and its workgroups. */
export function packTasks(tasks: readonly Task[]): {
  words: Uint32Array<ArrayBuffer>;
  groups: number;
} {
  const words = new Uint32Array(taskWords * (tasks.length + 1));
  const floats = new Float32Array(words.buffer);
  let groups = 0;
  tasks.forEach((task, i) => {
    words.set(
      [
        groups,
        (task.how === "max" ? 1 : 0) + (task.scale ? 2 : 0),
        task.outputs,
        lanesOf(task),
        task.at,
        task.to,
        task.count,
        task.group,
        task.groupStride,
        task.stride,
        task.run,
        task.runStride,
        task.innerStride,
      ],
      taskWords * (i + 1),
    );
    floats[taskWords * (i + 1) + 13] = task.divisor;
    groups += groupsOf(task);
  });
  words.set([tasks.length, groups]);
  return { words, groups };
}

const findTask = (second: string) => `
  let span = group.x + group.y * groups.x;
  let count = tasks[0].first;
  var own = 0u;
  var size = count;
  // The last task that begins at or before this workgroup.
  while (size > 1u) {
    let half = size / 2u;
    if (tasks[1u + own + half].first <= span) { own += half; }
    size -= half;
  }
  let index = own + 1u;
  let local = span - tasks[index].first;
  if (span >= tasks[0].${second}) { return; }`;

export const combineCode = `
struct Task {
  first: u32, how: u32, outputs: u32, lanes: u32,
  at: u32, to: u32, count: u32, group: u32,
  group_stride: u32, stride: u32, run: u32, run_stride: u32,
  inner_stride: u32, divisor: f32, padding0: u32, padding1: u32,
}
/// The first one holds the number of the others.
@group(0) @binding(0) var<storage, read> tasks: array<Task>;
@group(0) @binding(1) var<storage, read_write> smalls: array<f32>;
var<workgroup> fold: array<f32, ${combineWorkgroup}>;

@compute @workgroup_size(${combineWorkgroup})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {${findTask("how")}
  let lanes = tasks[index].lanes;
  let together = ${combineWorkgroup}u / lanes;
  let task = tasks[index];
  let output = local * together + invocation % together;
  let live = output < task.outputs;
  let is_max = (task.how & 1u) != 0u;
  var result = select(0.0, ${lowest}, is_max);
  let base = task.at + (output / task.group) * task.group_stride + (output % task.group) * task.stride;
  for (var k = invocation / together; live && k < task.count; k += lanes) {
    let x = smalls[base + (k / task.run) * task.run_stride + (k % task.run) * task.inner_stride];
    result = select(result + x, max(result, x), is_max);
  }
  fold[invocation] = result;
  workgroupBarrier();
  for (var half = lanes / 2u; half > 0u; half /= 2u) {
    if (invocation < half * together) {
      let a = fold[invocation];
      let b = fold[invocation + half * together];
      fold[invocation] = select(a + b, max(a, b), is_max);
    }
    workgroupBarrier();
  }
  if (live && invocation < together) {
    result = fold[invocation];
    if (!is_max) { result = result / task.divisor; }
    // Nothing was left to take the maximum of.
    if (is_max && result == ${lowest}) { result = 0.0; }
    if ((task.how & 2u) != 0u && result < 0x1p-126f) { result = 0.0; }
    smalls[task.to + output] = result;
  }
}`;

/** Axes before the last that a task has room for. */
const mostAxes = taskWords - 5;

/** The least scale of the leading axes, by row. */
export interface Spread {
  readonly rows: number;
  readonly to: number;
  /** First scale. */
  readonly at: number;
  readonly axes: readonly number[];
}

export const spreadCode = `
struct Task { first: u32, rows: u32, to: u32, at: u32, axes: u32, shape: array<u32, ${mostAxes}> }
@group(0) @binding(0) var<storage, read> tasks: array<Task>;
@group(0) @binding(1) var<storage, read_write> smalls: array<f32>;

@compute @workgroup_size(${combineWorkgroup})
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) invocation: u32,
) {${findTask("rows")}
  let row = local * ${combineWorkgroup}u + invocation;
  if (row >= tasks[index].rows) { return; }
  var rest = row;
  var end = tasks[index].at;
  for (var axis = 0u; axis < tasks[index].axes; axis += 1u) { end += tasks[index].shape[axis]; }
  var least = bitcast<f32>(0x7f7fffffu);
  for (var axis = tasks[index].axes; axis > 0u; axis -= 1u) {
    let n = tasks[index].shape[axis - 1u];
    end -= n;
    least = min(least, smalls[end + rest % n]);
    rest /= n;
  }
  smalls[tasks[index].to + row] = least;
}`;

export function packSpreads(spreads: readonly Spread[]): {
  words: Uint32Array<ArrayBuffer>;
  groups: number;
} {
  const words = new Uint32Array(taskWords * (spreads.length + 1));
  let groups = 0;
  spreads.forEach(({ rows, to, at, axes }, i) => {
    words.set(
      [groups, rows, to, at, axes.length, ...axes],
      taskWords * (i + 1),
    );
    groups += Math.ceil(rows / combineWorkgroup);
  });
  words.set([spreads.length, groups]);
  return { words, groups };
}

/** What follows a pass for one tensor. */
export function tasksOf(
  {
    program,
    formats,
    shape,
    size,
  }: TensorPlan & {
    readonly formats: readonly Format[];
  },
  places: SmallPlaces,
  pass: number,
): { first: Task[]; leading: Task[]; spreads: Spread[] } {
  const { tiling } = places;
  const { matrices, rows, columns, strips, columnTiles, parts } = tiling;
  const first: Task[] = [];
  const leading: Task[] = [];
  const spreads: Spread[] = [];
  const plain = { group: 1, groupStride: 0, runStride: 0, divisor: 1 };
  (takesOf(program, formats)[pass] ?? []).forEach((take, i) => {
    const at = places.partials[pass]![i]!;
    const { how, over, of } = take;
    const scale = of.kind === "rank1";
    const common = { ...plain, how, at, scale };
    // Rows side by side, as they are found: neighbours write and read next to each other.
    const perRow = columnTiles * parts;
    const byRow = {
      ...common,
      outputs: matrices * rows,
      group: matrices * rows,
      stride: 1,
      count: perRow,
      run: perRow,
      innerStride: matrices * rows,
    };
    const perColumn = strips * parts;
    if (of.kind === "node") {
      const node = program.nodes[of.node] as { how: string };
      const to = places.nodes.get(of.node)!;
      const length = shapeLength(program.shapes[of.node]!, geometryOf(shape));
      const divisor = node.how === "mean" ? size / length : 1;
      const perTensor = matrices * strips * columnTiles * parts;
      first.push(
        over === "row"
          ? { ...byRow, to, divisor }
          : over === "column"
            ? {
                ...common,
                to,
                divisor,
                outputs: matrices * columns,
                group: columns,
                groupStride: perColumn * columns,
                stride: 1,
                count: perColumn,
                run: perColumn,
                innerStride: columns,
              }
            : {
                ...common,
                to,
                divisor,
                outputs: 1,
                stride: 0,
                count: perTensor,
                run: perTensor,
                innerStride: 1,
              },
      );
      return;
    }
    const own = places.rank1.get(of.state)!;
    const { rowMaxima, last, scales, toNew, lead } = own;
    const { scale: kind, blockSize: side } = formats[
      of.state
    ] as QuantizedFormat;
    if (kind === "tile") {
      first.push(
        ...(over === "row"
          ? [tileRows(common, tiling, side, rowMaxima)]
          : tileColumns(common, tiling, side, last + toNew)),
      );
      return;
    }
    if (over === "column") {
      const count = matrices * perColumn;
      first.push({
        ...common,
        to: last + toNew,
        outputs: columns,
        group: columns,
        stride: 1,
        count,
        run: count,
        innerStride: columns,
      });
      return;
    }
    const flat = shape.length === 2;
    first.push({ ...byRow, to: rowMaxima, scale: flat });
    if (flat) return;
    const axes = shape.slice(0, -1);
    if (axes.length > mostAxes)
      throw new RangeError(
        `webgpu: rank-1 scales take up to ${mostAxes + 1} axes, given a shape of ${shape.length}: [${shape.join(", ")}]; reshape it or use scale: "block"`,
      );
    let to = scales + toNew;
    let inner = matrices * rows;
    for (const n of axes) {
      inner /= n;
      const count = (matrices * rows) / n;
      leading.push({
        ...common,
        at: rowMaxima,
        to,
        outputs: n,
        group: n,
        stride: inner,
        count,
        run: inner,
        runStride: n * inner,
        innerStride: 1,
      });
      to += n;
    }
    spreads.push({
      rows: matrices * rows,
      to: lead + toNew,
      at: scales + toNew,
      axes,
    });
  });
  return { first, leading, spreads };
}

type Common = Pick<
  Task,
  "how" | "at" | "scale" | "divisor" | "runStride" | "group" | "groupStride"
>;

/** The scales of the rows of tiles, from those of a pass's narrower ones. */
function tileRows(
  common: Common,
  { rows, columns, wide, laneBits, parts }: Tiling,
  side: number,
  to: number,
): Task {
  const across = Math.ceil(columns / side);
  const count = (side / (2 ** laneBits * (wide ? 4 : 1))) * parts;
  return {
    ...common,
    to,
    outputs: rows * across,
    group: across,
    groupStride: 1,
    stride: count * rows,
    count,
    run: count,
    innerStride: rows,
  };
}

/** The scales of the columns of tiles, from strips; the last tiles may have fewer. */
function tileColumns(
  common: Common,
  { rows, columns, strips, stripRows, parts }: Tiling,
  side: number,
  to: number,
): Task[] {
  const perTile = (side / stripRows) * parts;
  const full = Math.floor(rows / side);
  const task = (tile: number, tiles: number, count: number): Task => ({
    ...common,
    at: common.at + tile * perTile * columns,
    to: to + tile * columns,
    outputs: tiles * columns,
    group: columns,
    groupStride: perTile * columns,
    stride: 1,
    count,
    run: count,
    innerStride: columns,
  });
  const rest = strips * parts - full * perTile;
  return [
    ...(full > 0 ? [task(0, full, perTile)] : []),
    ...(rest > 0 ? [task(full, 1, rest)] : []),
  ];
}
