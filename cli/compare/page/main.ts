/** The report of `lowbit compare`: reads the data in the page and draws it. */
import type { Comparison } from "../report.ts";
import { costCharts } from "./costs.ts";
import { element, heading, note, table } from "./dom.ts";
import {
  bytes,
  count,
  duration,
  loss,
  lossOf,
  milliseconds,
  percent,
  plural,
} from "./format.ts";
import { divergence } from "../summary.ts";
import { colorsOf, type Colors } from "./look.ts";
import { lossCharts } from "./losses.ts";
import { quantizationCharts } from "./quantization.ts";

const text = document.getElementById("comparison")!.textContent;
// JSON writes null for what is no number. As 0 it would be the best of losses.
const comparison = JSON.parse(text, (_, value: unknown) =>
  value === null ? NaN : value,
) as Comparison;
const colors = colorsOf(comparison.optimizers);
document.title = `lowbit compare: ${comparison.optimizers.join(", ")}`;
document
  .getElementById("report")!
  .replaceChildren(
    ...header(comparison),
    findings(comparison),
    summaryTable(comparison, colors),
    ...lossCharts(comparison, colors),
    ...costCharts(comparison, colors),
    ...quantizationCharts(comparison, colors),
    ...settings(comparison),
  );

function header(all: Comparison): Node[] {
  const { runs, created, machine, planned, seconds } = all;
  const { config, parameters } = runs[0]!;
  const seeds = new Set(runs.map((run) => run.config.seed)).size;
  const missing = planned - runs.length;
  return [
    heading(1, all.optimizers.join(", ")),
    note(
      `The same GPT of ${count(parameters)} parameters, trained for ${plural(config.steps, "step")} of ${config.batch} × ${config.context} bytes on ${bytes(all.text.bytes)} of text, from ${plural(seeds, "seed")}. ${created.slice(0, 10)}; it took ${duration(seconds)} on ${machine}.`,
    ),
    ...(missing > 0 || runs.some(({ status }) => status !== "finished")
      ? [
          note(
            `Ended early: ${runs.length} of ${plural(planned, "run")} are here${runs.some(({ status }) => status !== "finished") ? ", the last not whole" : ""}.`,
          ),
        ]
      : []),
  ];
}

/** What the numbers say, in sentences. */
function findings({ summary }: Comparison): HTMLElement {
  const [base, ...others] = summary;
  const lines = others.map((row) => {
    const times = base!.stateBytes / row.stateBytes;
    const { difference } = row;
    const words = divergence(row);
    const state = `${row.optimizer}: ${bytes(row.stateBytes)} of state, ${times.toFixed(1)} times less than ${base!.optimizer}${words && `; ${words}: a validation loss that is no number`}`;
    if (!difference) return `${state}.`;
    const { mean, deviation } = difference;
    const where = `validation loss ${Math.abs(mean).toFixed(3)} nats a byte ${mean < 0 ? "lower" : "higher"}`;
    if (deviation === undefined)
      return `${state}; ${where} (one seed, so its spread is not known).`;
    const within =
      Math.abs(mean) <= 2 * (deviation / Math.sqrt(difference.count));
    return `${state}; ${where} (± ${deviation.toFixed(3)} over ${difference.count} seeds${within ? ", within noise" : ""}).`;
  });
  return lines.length === 0
    ? element("div", "")
    : element(
        "ul",
        "findings",
        ...lines.map((line) => element("li", "", line)),
      );
}

function summaryTable(
  { summary, optimizers }: Comparison,
  color: Colors,
): HTMLElement {
  const paired = summary.some(({ difference }) => difference);
  return table(
    [
      "optimizer",
      "validation loss",
      ...(paired ? ["difference"] : []),
      "state",
      `of ${optimizers[0]}`,
      "optimizer a step",
      "whole step",
      "peak memory",
    ],
    summary.map((row) => {
      const swatch = element("span", "swatch");
      swatch.style.background = color(row.optimizer);
      const ended =
        row.status === "finished"
          ? ""
          : ` (ended after ${plural(row.steps, "step")})`;
      return [
        element("span", "key", swatch, `${row.optimizer}${ended}`),
        lossOf(row),
        ...(paired ? [loss(row.difference, true)] : []),
        bytes(row.stateBytes),
        percent(row.stateBytes / summary[0]!.stateBytes),
        milliseconds(row.optimizerMilliseconds),
        milliseconds(row.stepMilliseconds),
        bytes(row.peakBytes),
      ];
    }),
  );
}

/** How to come to the same numbers. */
function settings(all: Comparison): Node[] {
  const { runs } = all;
  const [first] = runs;
  const {
    optimizer: _,
    lr: __,
    minLr: ___,
    seed: ____,
    ...config
  } = first!.config;
  const rates = new Map(
    runs.map((run) => [run.config.optimizer, run.config.lr]),
  );
  const seeds = [...new Set(runs.map((run) => run.config.seed))];
  const formats = new Map(
    runs.map((run) => [
      run.config.optimizer,
      run.formats
        .map(
          ({ format, tensors }) => `${format} (${plural(tensors, "tensor")})`,
        )
        .join("; "),
    ]),
  );
  const rows: [string, string][] = [
    ["text", `${all.text.description}; SHA-256 ${first!.text.sha256}`],
    ["seeds", seeds.join(", ")],
    ["model", `${first!.model}; optimizer on ${first!.device}`],
    ["versions", `lowbit ${all.lowbit}, Node ${all.node}`],
    ...[...rates].map(
      ([name, lr]) =>
        [name, `lr ${lr}; ${formats.get(name)}`] as [string, string],
    ),
    [
      "options",
      Object.entries(config)
        .filter(
          ([key]) => !["prompt", "temperature", "sampleLength"].includes(key),
        )
        .map(([key, value]) => `${key} ${String(value)}`)
        .join(", "),
    ],
  ];
  const list = table([], rows, 2);
  list.querySelector("table")!.className = "settings";
  return [
    heading(2, "Settings"),
    note(
      "config.json beside this file repeats the comparison (lowbit compare --config config.json); results.json has every number. Validation loss is the mean over the last tenth of the text after the last step; ± is the standard deviation over seeds; peak memory is the whole process's.",
    ),
    list,
  ];
}
