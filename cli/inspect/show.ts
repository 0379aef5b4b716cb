import type { StateStatistics } from "lowbit/io";
import { histogram } from "../histogram.ts";
import { table } from "../table.ts";
import { harmless, wrap, type Terminal } from "../terminal.ts";
import { bytes, count, plural } from "../units.ts";
import {
  elements,
  type MeasuredModel,
  type MeasuredState,
  type MeasuredTensor,
} from "./measure.ts";

/** Rows of a table without `--all`. */
const ROWS = 24;

/** An optimizer's state for people. */
export function showState(
  measured: MeasuredState,
  terminal: Terminal,
  all: boolean,
): string {
  const { bold, dim } = terminal;
  const { layout, optimizer, recipe, step, parameters, notes } = measured;
  const { stateBytes, stateBytes32, tensors } = measured;
  const rows = tensors.flatMap(rowsOf);
  const shown = all ? rows : largest(rows);
  const columns = Math.min(wide(terminal.width()), 100);
  return [
    `${bold(harmless(measured.file))}: state of ${optimizer} after ${plural(step, "step")}, ${layout === "lowbit" ? `a checkpoint of lowbit (${harmless(recipe)})` : `in the layout of ${layout}`}, ${bytes(measured.bytes)}`,
    `${count(parameters)} parameters in ${plural(tensors.length, "tensor")}; their state takes ${bytes(stateBytes)}, ${(stateBytes / Math.max(1, parameters)).toFixed(2)} bytes each, in float32 ${bytes(stateBytes32)}`,
    ...hyperLine(measured),
    ...notes.flatMap((note) => wrap(`note: ${harmless(note)}`, columns)),
    "",
    ...table(
      [
        "tensor",
        "shape",
        "state",
        "format",
        "bytes",
        "zeros",
        "at the end",
        "scales",
        "error",
      ],
      shown.map(({ cells }) => cells),
      bold,
    ),
    ...more(rows.length, shown.length, dim),
    ...histograms(measured, terminal),
  ].join("\n");
}

function hyperLine({ hyper, lr }: MeasuredState): string[] {
  const all = Object.entries({ ...(lr === null ? {} : { lr }), ...hyper });
  return all.length === 0
    ? []
    : [all.map(([key, value]) => `${key} ${value}`).join(", ")];
}

interface Row {
  readonly size: number;
  readonly cells: readonly string[];
}

function rowsOf({ name, shape, states }: MeasuredTensor): Row[] {
  return Object.entries(states).map(
    ([state, { format, bytes: size, values, codes }]) => ({
      size: elements(shape),
      cells: [
        harmless(name),
        `[${shape.join(", ")}]`,
        state,
        format,
        bytes(size),
        percent(values.zeros),
        codes ? percent(codes.saturated) : "",
        codes
          ? [codes.scales.smallest, codes.scales.median, codes.scales.largest]
              .map(small)
              .join(" ")
          : values.nonFinite > 0
            ? `${values.nonFinite} not finite`
            : `up to ${small(values.largest)}`,
        codes ? percent(codes.expectedError) : "",
      ],
    }),
  );
}

/** The rows of the largest tensors, in their own order. */
function largest(rows: readonly Row[]): Row[] {
  const limit = rows
    .map(({ size }) => size)
    .sort((a, b) => b - a)
    .at(ROWS);
  if (limit === undefined) return [...rows];
  const kept = rows.filter(({ size }) => size > limit);
  const room = ROWS - kept.length;
  let left = room;
  return rows.filter(
    ({ size }) => size > limit || (size === limit && left-- > 0),
  );
}

const more = (
  all: number,
  shown: number,
  dim: (text: string) => string,
): string[] =>
  all > shown
    ? [dim(`and ${plural(all - shown, "more row")} of smaller tensors: --all`)]
    : [];

/** Codes of all tensors that keep a state alike, as one picture. */
function histograms(
  { tensors }: MeasuredState,
  { bold, width }: Terminal,
): string[] {
  const groups = new Map<string, { state: string; of: StateStatistics[] }>();
  for (const { states } of tensors)
    for (const [state, statistics] of Object.entries(states)) {
      if (!statistics.codes) continue;
      const key = `${state} ${statistics.format}`;
      const group = groups.get(key) ?? { state, of: [] };
      group.of.push(statistics);
      groups.set(key, group);
    }
  return [...groups.values()].flatMap(({ state, of }) => {
    const { codebook } = of[0]!.codes!;
    const sums = codebook.map((_, code) =>
      of.reduce((sum, { codes }) => sum + codes!.histogram[code]!, 0),
    );
    const total = sums.reduce((a, b) => a + b, 0);
    const used = sums.filter((one) => one > 0).length;
    const columns = Math.min(64, wide(width()) - 2, codebook.length);
    const [low, high] = [codebook[0]!, codebook.at(-1)!].map(small) as [
      string,
      string,
    ];
    return [
      "",
      `${bold(`Codes of ${state}`)}, ${of[0]!.format}: ${count(used)} of ${codebook.length} in use, ${count(total)} elements in ${plural(of.length, "tensor")}`,
      ...histogram(sums, { width: columns, height: 5 }).map(
        (line) => `  ${line}`,
      ),
      `  ${low}${high.padStart(Math.max(1, columns - low.length))}`,
    ];
  });
}

/** Any other file of tensors. */
export function showModel(
  { file, bytes: size, elements: total, tensors, metadata }: MeasuredModel,
  { bold, dim }: Terminal,
  all: boolean,
): string {
  const rows = tensors.map(({ name, dtype, shape, values }): Row => ({
    size: elements(shape),
    cells: [
      harmless(name),
      `[${shape.join(", ")}]`,
      dtype,
      ...(values
        ? [
            small(values.rms),
            small(values.largest),
            percent(values.zeros),
            values.nonFinite > 0 ? count(values.nonFinite) : "",
          ]
        : []),
    ],
  }));
  const shown = all ? rows : largest(rows);
  return [
    `${bold(harmless(file))}: ${plural(tensors.length, "tensor")}, ${count(total)} elements, ${bytes(size)}; no optimizer state among them`,
    ...Object.entries(metadata).map(
      ([key, value]) => `${harmless(key)}: ${harmless(value.slice(0, 200))}`,
    ),
    "",
    ...table(
      ["tensor", "shape", "dtype", "rms", "largest", "zeros", "not finite"],
      shown.map(({ cells }) => cells),
      bold,
    ),
    ...more(rows.length, shown.length, dim),
  ].join("\n");
}

/** A terminal that does not know its width says 0. */
const wide = (columns: number) => (columns < 20 ? 80 : columns);

const percent = (part: number): string =>
  part === 0
    ? "0 %"
    : part < 0.0005
      ? "<0.1 %"
      : `${(100 * part).toFixed(1)} %`;

const small = (value: number): string => String(Number(value.toPrecision(3)));
