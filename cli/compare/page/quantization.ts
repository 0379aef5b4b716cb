/** What quantization does to real states. */
import * as Plot from "@observablehq/plot";
import type { CodeUse, QuantizationError } from "lowbit/trainer";
import type { Comparison } from "../report.ts";
import { chart, element, heading, legend, note, table } from "./dom.ts";
import { count, percent } from "./format.ts";
import { look, type Colors } from "./look.ts";

/** An error, and whose format makes it; those who share one stand together. */
type Entry = QuantizationError & {
  readonly optimizers: readonly string[];
};

export function quantizationCharts(
  { runs, optimizers }: Comparison,
  colors: Colors,
): Node[] {
  const first = runs[0]?.config.seed;
  const sources = runs.filter(({ errors }) => Object.keys(errors).length > 0);
  const source = sources[0];
  const entries: (QuantizationError & { optimizers: string[] })[] = [];
  for (const optimizer of optimizers) {
    // The states of the first run in 32 bits that has them.
    const errors = sources.find(
      (run) => (run.errors[optimizer] ?? []).length > 0,
    )?.errors[optimizer];
    for (const error of errors ?? []) {
      const same = entries.find(
        ({ state, format, relativeError }) =>
          state === error.state &&
          format === error.format &&
          relativeError === error.relativeError,
      );
      if (same) same.optimizers.push(optimizer);
      else entries.push({ ...error, optimizers: [optimizer] });
    }
  }
  const uses = runs
    .filter(({ config }) => config.seed === first)
    .flatMap(({ config, codes }) =>
      codes.map((use) => ({ ...use, optimizer: config.optimizer })),
    );
  if (entries.length === 0 && uses.length === 0) return [];
  return [
    heading(2, "Quantization"),
    ...(entries.length > 0 && source
      ? errorCharts(entries, source.config.optimizer, colors)
      : [
          note(
            "Errors are measured on float32 states: add adamw32bit to the optimizers to see them.",
          ),
        ]),
    ...(uses.length > 0
      ? [
          heading(3, "Which codes are used"),
          note(
            "How many elements each code stands for in the states stored at the end of the run. Bars stand at the codes' order; the codebook's values, in parts of the scale, run along the axis.",
          ),
          element(
            "div",
            "columns",
            ...uses.map((use) => codeChart(use, colors)),
          ),
        ]
      : []),
  ];
}

function errorCharts(
  entries: readonly Entry[],
  source: string,
  colors: Colors,
): Node[] {
  const states = [...new Set(entries.map(({ state }) => state))];
  return [
    note(
      `The float32 states at the end of the ${source} run, stored in each optimizer's formats: ||Q(x) − x|| / ||x|| over all elements.`,
    ),
    table(
      ["state", "optimizer", "format", "relative error", "becomes 0"],
      entries.map(({ state, format, optimizers, relativeError, toZero }) => [
        state,
        optimizers.join(", "),
        format,
        percent(relativeError),
        toZero === 0 ? "–" : percent(toZero),
      ]),
      3,
    ),
    heading(3, "Error by magnitude"),
    note(
      "The mean of |Q(x) − x| / |x| by how large |x| is in parts of its scale (10⁰ is the largest value of a block).",
    ),
    element(
      "div",
      "columns",
      ...states.map((state) =>
        byMagnitude(
          state,
          entries.filter((entry) => entry.state === state),
          colors,
        ),
      ),
    ),
    heading(3, "Error by tensor"),
    note("||Q(x) − x|| / ||x|| of each tensor, from the largest to the least."),
    element(
      "div",
      "columns",
      ...states.map((state) =>
        byTensor(
          state,
          entries.filter((entry) => entry.state === state),
          colors,
        ),
      ),
    ),
  ];
}

const nameOf = ({ optimizers }: Pick<Entry, "optimizers">) =>
  optimizers.join(", ");

/** Names with the colour of the first of each. */
const keys = (entries: readonly Entry[], colors: Colors) =>
  legend(entries.map(nameOf), (name) => colors(name.split(", ")[0]!));

function byMagnitude(
  state: string,
  entries: readonly Entry[],
  colors: Colors,
): Node {
  const points = entries.flatMap((entry) =>
    entry.byMagnitude
      .filter(({ error }) => error > 0)
      .map((bin) => ({
        ...bin,
        name: nameOf(entry),
        color: colors(entry.optimizers[0]!),
      })),
  );
  const of = ({ color }: (typeof points)[number]) => color;
  const least = Math.floor(Math.min(...points.map((p) => p.magnitude)));
  return element(
    "div",
    "",
    keys(entries, colors),
    chart(`magnitude-${state}`, `Error of ${state} by magnitude`, (width) =>
      Plot.plot({
        ...look(width, 275),
        marginLeft: 56,
        x: {
          label: `|${state}| / scale`,
          tickFormat: (n: number) => `10${superscript(n)}`,
          labelOffset: 38,
          domain: [least, 0],
          ticks: decades(least, 0),
        },
        y: {
          type: "log",
          label: "relative error",
          grid: true,
          ticks: decades(
            Math.ceil(Math.log10(Math.min(...points.map((p) => p.error)))),
            Math.floor(Math.log10(Math.max(...points.map((p) => p.error)))),
          ).map((n) => 10 ** n),
          tickFormat: (n: number) => `${Number((100 * n).toPrecision(2))} %`,
        },
        marks: [
          Plot.lineY(points, {
            ...{ x: "magnitude", y: "error", z: "name" },
            ...{ stroke: of, strokeWidth: 2 },
          }),
          Plot.dot(points, {
            ...{ x: "magnitude", y: "error", r: 2.5, fill: of },
            title: (p: (typeof points)[number]) =>
              `${p.name}: ${percent(p.error)} of ${count(p.elements)} elements`,
          }),
        ],
      }),
    ),
  );
}

function byTensor(
  state: string,
  entries: readonly Entry[],
  colors: Colors,
): Node {
  const points = entries.flatMap((entry) =>
    entry.tensors.map((tensor) => ({
      ...tensor,
      whose: nameOf(entry),
      color: colors(entry.optimizers[0]!),
    })),
  );
  const worst = new Map<string, number>();
  for (const { name, relativeError } of points)
    worst.set(name, Math.max(worst.get(name) ?? 0, relativeError));
  const names = [...worst].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  return element(
    "div",
    "",
    keys(entries, colors),
    chart(`tensor-${state}`, `Error of ${state} by tensor`, (width) =>
      Plot.plot({
        ...look(width, 62 + 18 * names.length),
        marginLeft: 16 + 6.4 * Math.max(...names.map((name) => name.length)),
        x: {
          label: `relative error of ${state}`,
          labelOffset: 38,
          grid: true,
          zero: true,
          tickFormat: (n: number) => `${Number((100 * n).toPrecision(3))} %`,
          ticks: width < 480 ? 3 : 5,
        },
        y: { domain: names, label: null, tickSize: 0 },
        marks: [
          Plot.dot(points, {
            ...{ x: "relativeError", y: "name", r: 3.5 },
            fill: ({ color }: (typeof points)[number]) => color,
            title: (p: (typeof points)[number]) =>
              `${p.name}, ${p.whose}: ${percent(p.relativeError)} of ${count(p.elements)} elements`,
          }),
        ],
      }),
    ),
  );
}

function codeChart(
  use: CodeUse & { readonly optimizer: string },
  colors: Colors,
): Node {
  const { state, format, counts, codebook, optimizer } = use;
  const total = counts.reduce((a, b) => a + b, 0);
  const codes = counts.map((count, code) => ({
    code,
    share: count / total,
    value: codebook[code]!,
  }));
  const shown = (n: number) => String(Number(codebook[n]!.toPrecision(2)));
  const unused = counts.filter((n) => n === 0).length;
  return element(
    "div",
    "",
    heading(3, `${optimizer}: ${state}`),
    note(
      `${format}${unused > 0 ? `; ${unused} of ${counts.length} codes unused` : ""}`,
    ),
    chart(`codes-${optimizer}-${state}`, `Codes of ${state}`, (width) =>
      Plot.plot({
        ...look(width, 185),
        x: {
          label: "value of the code",
          labelOffset: 38,
          domain: [-0.5, counts.length - 0.5],
          ticks: spaced(counts.length, width < 480 ? 4 : 6),
          tickFormat: shown,
        },
        y: {
          label: "elements",
          grid: true,
          ticks: 4,
          tickFormat: (n: number) => `${Number((100 * n).toPrecision(2))} %`,
        },
        marks: [
          Plot.rectY(codes, {
            ...{ x1: ({ code }: { code: number }) => code - 0.5 },
            ...{ x2: ({ code }: { code: number }) => code + 0.5 },
            y: "share",
            fill: colors(optimizer),
            inset: counts.length > 32 ? 0 : 1,
            title: ({ code, value, share }: (typeof codes)[number]) =>
              `code ${code}, value ${value.toPrecision(3)}: ${percent(share)}`,
          }),
          Plot.ruleY([0]),
        ],
      }),
    ),
  );
}

/** First, last and evenly spaced places between. */
const spaced = (length: number, parts: number) =>
  Array.from({ length: parts + 1 }, (_, i) =>
    Math.round((i * (length - 1)) / parts),
  );

/** Whole numbers from `low` to `high`. */
const decades = (low: number, high: number) =>
  Array.from({ length: Math.max(0, high - low + 1) }, (_, i) => low + i);

const superscript = (n: number) =>
  String(n)
    .replace("-", "⁻")
    .replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(digit)]!);
