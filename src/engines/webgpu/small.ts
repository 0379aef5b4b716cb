/**
 * What is not per element on the device: states and values of a row, a column
 * or a tensor, rank-1 scales, and the partial sums they are made from. Every
 * tensor has one block of float32 words for all of it.
 *
 * A pass over the elements takes tiles of a matrix: 128 columns where rows begin
 * at fours, else as many as a workgroup has lanes, and a strip of 64 rows or
 * more. A tile leaves one partial result a row, one a column and one for itself:
 * a value for every 128th element (256th where rows do not begin at fours, 64th
 * on software drivers) and for every 64th, unless matrices have fewer columns or
 * rows than that: then it is as many as the results themselves. All passes share
 * the room.
 */
import type { Format, QuantizedFormat } from "../../formats/format.ts";
import { isRankOne } from "../../formats/quantize.ts";
import { rank1Count, tileCount, tileRowCount } from "../../formats/rank1.ts";
import { reductionsOf, type Program } from "../../formula/program.ts";
import { geometryOf, shapeLength, type Geometry } from "../../formula/small.ts";
import type { TensorPlan } from "../engine.ts";
import type { Arena } from "./buffers.ts";
import { stateNodes } from "./heeded.ts";

/** One reduction of a pass over the elements. */
export interface Take {
  readonly how: "sum" | "max";
  readonly over: "all" | "row" | "column";
  /** The program's node, or the state whose magnitudes rank-1 scales bound. */
  readonly of:
    | { readonly kind: "node"; readonly node: number }
    | { readonly kind: "rank1"; readonly state: number };
}

/** The bits of the least number: a maximum of nothing so far. */
export const lowestBits = 0xff7fffff;

/** Whether a state has rank-1 scales, of the tensor or inside tiles. */
export const isRank1 = (format: Format): boolean =>
  format.kind === "quantized" && isRankOne(format);

/** Sides of the tiles of a tensor's states, the least first. */
export const tileSides = (formats: readonly Format[]): number[] =>
  formats
    .flatMap((format) =>
      format.kind === "quantized" && format.scale === "tile"
        ? [format.blockSize]
        : [],
    )
    .sort((a, b) => a - b);

/** What every pass before the update takes. */
export function takesOf(
  program: Program,
  formats: readonly Format[],
): readonly (readonly Take[])[] {
  const passes = Array.from({ length: program.passes }, (_, pass): Take[] =>
    reductionsOf(program, pass).map((node) => {
      const { how, over } = program.nodes[node] as {
        how: string;
        over: Take["over"];
      };
      return {
        how: how === "max" ? "max" : "sum",
        over,
        of: { kind: "node", node },
      };
    }),
  );
  // New scales are known as soon as all new states are.
  const level = Math.max(
    0,
    ...stateNodes(program).map((node) => program.levels[node]!),
  );
  formats.forEach((format, state) => {
    if (isRank1(format))
      (passes[level] ??= []).push(
        { how: "max", over: "row", of: { kind: "rank1", state } },
        { how: "max", over: "column", of: { kind: "rank1", state } },
      );
  });
  return passes;
}

/** Whether a kernel reads anything that is not per element. */
export const usesSmall = (
  program: Program,
  formats: readonly Format[],
): boolean => program.small.includes(true) || formats.some(isRank1);

/** Invocations of a workgroup of a pass, which are the widest tile's lanes. */
export const passWorkgroup = (solo: boolean): number => (solo ? 64 : 256);

/** Whether columns are those of a matrix: for sums of everything they are any number. */
export const knowsRows = (
  program: Program,
  formats: readonly Format[],
): boolean => program.needsMatrix || formats.some(isRank1);

/** How a pass cuts a tensor into tiles. */
export interface Tiling extends Geometry {
  /** Binary logarithm of the columns of a tile. */
  readonly laneBits: number;
  readonly columnTiles: number;
  readonly stripRows: number;
  /** Strips of one matrix. */
  readonly strips: number;
  /** Pieces of the tensor: each leaves partial results of its own. */
  readonly parts: number;
  /** Lanes take four columns: not on software drivers, and rows must begin at fours. */
  readonly wide: boolean;
}

/** Lanes that share a row, of four columns each: with more, adding up its parts took longer. */
const mostLaneBits = 5;

/** Large tensors are cut into this many tiles, enough for a large GPU. */
const mostTiles = 4096;

export function tilingOf(
  plan: Pick<TensorPlan, "program" | "formats" | "shape" | "size">,
  solo: boolean,
  parts: number,
): Tiling {
  const workgroup = passWorkgroup(solo);
  const { matrices, rows, columns } = tilingGeometry(plan, 4 * workgroup);
  const wide = !solo && columns % 4 === 0;
  const across = wide ? columns / 4 : columns;
  const laneBits = Math.max(
    3,
    Math.min(
      wide ? mostLaneBits : Math.log2(workgroup),
      Math.ceil(Math.log2(across)),
    ),
  );
  const sides = tileSides(plan.formats);
  if (sides.length > 0)
    return tilesInTiles(
      { matrices, rows, columns },
      sides,
      wide,
      laneBits,
      parts,
    );
  const columnTiles = Math.ceil(across / 2 ** laneBits);
  // The rows that a workgroup takes at a time, eight deep at most.
  const step = 8 * (workgroup / 2 ** laneBits);
  const wanted = Math.max(64, (rows * columnTiles * matrices) / mostTiles);
  const stripRows = Math.ceil(wanted / step) * step;
  return {
    matrices,
    rows,
    columns,
    laneBits,
    columnTiles,
    stripRows,
    strips: Math.ceil(rows / stripRows),
    parts,
    wide,
  };
}

/**
 * Where scales have tiles of their own, each of those is so many whole tiles of
 * a pass across, some of them perhaps beyond the last column, and so many strips
 * down: its scales are maxima of what those leave.
 */
function tilesInTiles(
  geometry: Geometry,
  sides: readonly number[],
  wide: boolean,
  laneBits: number,
  parts: number,
): Tiling {
  const [least, most] = [sides[0]!, sides.at(-1)!];
  const lanes = Math.min(laneBits, Math.log2(wide ? least / 4 : least));
  const width = 2 ** lanes * (wide ? 4 : 1);
  return {
    ...geometry,
    laneBits: lanes,
    columnTiles: Math.ceil(geometry.columns / most) * (most / width),
    stripRows: least,
    strips: Math.ceil(geometry.rows / least),
    parts,
    wide,
  };
}

function tilingGeometry(
  {
    program,
    formats,
    shape,
    size,
  }: Pick<TensorPlan, "program" | "formats" | "shape" | "size">,
  all: number,
): Geometry {
  if (program.needsMatrix) {
    if (shape.length > 2 && tileSides(formats).length > 0)
      throw new RangeError(
        `webgpu: scales in tiles do not go with ${program.owner}, which speaks of rows and columns, for a tensor of shape [${shape.join(", ")}]; reshape it to two axes or use scale: "block"`,
      );
    return geometryOf(shape);
  }
  // Rank-1 scales know rows and one last axis; sums of everything know nothing.
  const columns = formats.some(isRank1) ? shape.at(-1)! : all;
  return { matrices: 1, rows: Math.ceil(size / columns), columns };
}

export interface Rank1Places {
  /** Of all axes, one after the other. */
  readonly scales: number;
  readonly count: number;
  /** The least of all axes but the last, by row; with two axes the first one's scales. */
  readonly lead: number;
  readonly last: number;
  /** The new ones lie this much further on. */
  readonly toNew: number;
  /** What is copied from new to old. */
  readonly length: number;
  /** Largest magnitudes by row, where they are not the scales themselves. */
  readonly rowMaxima: number;
}

/** Where the values of a tensor lie, in words of a chunk. */
export interface SmallPlaces {
  readonly chunk: number;
  readonly tiling: Tiling;
  /** By state. */
  readonly states: ReadonlyMap<number, number>;
  /** By node; of states before the step, the states themselves. */
  readonly nodes: ReadonlyMap<number, number>;
  /** By state. */
  readonly rank1: ReadonlyMap<number, Rank1Places>;
  /** First partial result of each take of each pass. */
  readonly partials: readonly (readonly number[])[];
  /** Ranges that begin as the least number: maxima of which not every part is written. */
  readonly lowest: readonly { readonly at: number; readonly words: number }[];
}

export function placeSmall(
  plan: TensorPlan,
  solo: boolean,
  parts: number,
  arena: Arena,
): SmallPlaces | undefined {
  const { program, formats, shape, size } = plan;
  if (!usesSmall(program, formats) || size === 0) return undefined;
  const geometry = geometryOf(shape);
  let words = 0;
  // At multiples of four: the update reads four of a row's columns at a time.
  const take = (count: number) => {
    const at = words;
    words += 4 * Math.ceil(count / 4);
    return at;
  };
  const states = new Map<number, number>();
  program.stateShapes.forEach((kind, s) => {
    if (kind !== "element") states.set(s, take(shapeLength(kind, geometry)));
  });
  const nodes = new Map<number, number>();
  program.nodes.forEach((node, index) => {
    if (!program.small[index]) return;
    nodes.set(
      index,
      node.op === "input"
        ? states.get(program.states.indexOf(node.name))!
        : take(shapeLength(program.shapes[index]!, geometry)),
    );
  });
  const rank1 = new Map<number, Rank1Places>();
  formats.forEach((format, s) => {
    if (!isRank1(format)) return;
    const { scale, blockSize } = format as QuantizedFormat;
    const tiled = scale === "tile";
    const count = tiled ? tileCount(shape, blockSize) : rank1Count(shape);
    const rows = geometry.matrices * geometry.rows;
    const flat = tiled || shape.length === 2;
    const length = 4 * Math.ceil((count + (flat ? 0 : rows)) / 4);
    const scales = take(2 * length);
    rank1.set(s, {
      scales,
      count,
      lead: flat ? scales : scales + count,
      last:
        scales +
        (tiled ? tileRowCount(shape, blockSize) : count - geometry.columns),
      toNew: length,
      length,
      rowMaxima: flat ? scales + length : take(rows),
    });
  });
  const tiling = tilingOf(plan, solo, parts);
  const first = words;
  let most = first;
  const lowest: { at: number; words: number }[] = [];
  const partials = takesOf(program, formats).map((takes) => {
    // Passes of one piece write every partial result, so they can share.
    if (parts === 1) words = first;
    const places = takes.map(({ how, over }) => {
      const count = partialCount(tiling, over);
      if (how === "max" && parts > 1) lowest.push({ at: words, words: count });
      return take(count);
    });
    most = Math.max(most, words);
    return places;
  });
  const { chunk, offset } = arena.place(4 * Math.max(4, most));
  const base = offset / 4;
  const shift = <K>(map: Map<K, number>) =>
    new Map([...map].map(([key, at]) => [key, at + base]));
  return {
    chunk,
    tiling,
    states: shift(states),
    nodes: shift(nodes),
    rank1: new Map(
      [...rank1].map(([s, places]) => [
        s,
        {
          ...places,
          scales: places.scales + base,
          lead: places.lead + base,
          last: places.last + base,
          rowMaxima: places.rowMaxima + base,
        },
      ]),
    ),
    partials: partials.map((places) => places.map((at) => at + base)),
    lowest: lowest.map(({ at, words }) => ({ at: at + base, words })),
  };
}

export function partialCount(tiling: Tiling, over: Take["over"]): number {
  const { matrices, rows, columns, strips, columnTiles, parts } = tiling;
  switch (over) {
    case "row":
      return matrices * rows * columnTiles * parts;
    case "column":
      return matrices * strips * columns * parts;
    case "all":
      return matrices * strips * columnTiles * parts;
  }
}

/** Fields of a segment that have to do with tiles. */
export const tileFields = [
  "matrices",
  "rows",
  "columns",
  "first_tile",
  "tile_count",
  "first_strip",
  "strips",
  "strip_rows",
  "column_tiles",
  "lane_bits",
  "parts",
  "part",
] as const;

/** The tiles that hold elements of a piece. */
export function tilesOf(
  tiling: Tiling,
  start: number,
  length: number,
): { firstStrip: number; count: number } {
  const { rows, columns, strips, stripRows, columnTiles } = tiling;
  const strip = (element: number) => {
    const row = Math.floor(element / columns);
    return (
      Math.floor(row / rows) * strips + Math.floor((row % rows) / stripRows)
    );
  };
  const firstStrip = strip(start);
  return {
    firstStrip,
    count: (strip(start + length - 1) - firstStrip + 1) * columnTiles,
  };
}

/** The fields of a segment that find what is not per element. */
export function smallFields(
  { tiling, nodes, rank1, partials }: SmallPlaces,
  { program }: TensorPlan,
  { start, length }: { readonly start: number; readonly length: number },
  part: number,
): Record<string, number> {
  const { matrices, rows, columns, strips, stripRows, columnTiles } = tiling;
  const { firstStrip, count } = tilesOf(tiling, start, length);
  const values: Record<string, number> = {
    matrices,
    rows,
    columns,
    tile_count: count,
    first_strip: firstStrip,
    strips,
    strip_rows: stripRows,
    column_tiles: columnTiles,
    lane_bits: tiling.laneBits,
    parts: tiling.parts,
    part,
  };
  for (const [node, at] of nodes) values[`n${node}`] = at;
  for (const [state, { lead, last, toNew }] of rank1) {
    const name = program.states[state]!;
    values[`${name}_lead`] = lead;
    values[`${name}_last`] = last;
    values[`${name}_next_lead`] = lead + toNew;
    values[`${name}_next_last`] = last + toNew;
  }
  partials.forEach((places, pass) =>
    places.forEach((at, i) => (values[`t${pass}_${i}`] = at)),
  );
  return values;
}
