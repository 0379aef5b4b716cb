/** Loss curves. */
import * as Plot from "@observablehq/plot";
import type { RunResult } from "../protocol.ts";
import type { Comparison } from "../report.ts";
import { chart, heading, legend, note } from "./dom.ts";
import { look, type Colors } from "./look.ts";

interface Point {
  readonly optimizer: string;
  readonly step: number;
  readonly loss: number;
  /** Least and largest of the seeds. */
  readonly low: number;
  readonly high: number;
}

export function lossCharts(
  { runs, optimizers }: Comparison,
  colors: Colors,
): Node[] {
  const names = optimizers.filter((name) =>
    runs.some(({ config }) => config.optimizer === name),
  );
  const several = new Set(runs.map(({ config }) => config.seed)).size > 1;
  const band = several
    ? " Lines are means over the seeds, bands reach from the least to the largest."
    : "";
  const validation = names.flatMap((name) =>
    overSeeds(name, runs, ({ validationLoss }) => validationLoss),
  );
  const training = names.flatMap((name) => overSeeds(name, runs, smoothed));
  const [base] = names;
  const differences = names.slice(1).flatMap((name) =>
    overSeeds(name, runs, (run) => {
      const other = runs.find(
        ({ config }) =>
          config.optimizer === base && config.seed === run.config.seed,
      );
      const at = new Map(other?.validationLoss);
      return run.validationLoss.flatMap(([step, loss]) =>
        at.has(step) ? [[step, loss - at.get(step)!] as const] : [],
      );
    }),
  );
  return [
    heading(2, "Loss"),
    note(`In nats a byte; lower is better.${band}`),
    heading(3, "On text that training never sees"),
    legend(names, colors),
    chart("validation", "Validation loss by step", (width) =>
      lines(width, validation, colors, { dots: true, zero: false }),
    ),
    ...(differences.length > 0
      ? [
          heading(3, `The same, less that of ${base} with the same seed`),
          note(
            "Above the line is worse. What changes sign from look to look, or is smaller than the seeds' spread, is noise.",
          ),
          legend(names.slice(1), colors),
          chart(
            "difference",
            "Difference of validation losses by step",
            (width) =>
              lines(width, differences, colors, { dots: true, zero: true }),
          ),
        ]
      : []),
    heading(3, "On the batches of training, smoothed"),
    legend(names, colors),
    chart("training", "Training loss by step", (width) =>
      lines(width, training, colors, { dots: false, zero: false }),
    ),
  ];
}

/** Mean, least and largest over the seeds at each step that all of them have. */
function overSeeds(
  optimizer: string,
  runs: readonly RunResult[],
  curve: (run: RunResult) => readonly (readonly [number, number])[],
): Point[] {
  const own = runs.filter(({ config }) => config.optimizer === optimizer);
  const bySteps = new Map<number, number[]>();
  for (const run of own)
    for (const [step, loss] of curve(run))
      bySteps.set(step, [...(bySteps.get(step) ?? []), loss]);
  return [...bySteps]
    .filter(([, losses]) => losses.length === own.length)
    .map(([step, losses]) => ({
      optimizer,
      step,
      loss: losses.reduce((a, b) => a + b) / losses.length,
      low: Math.min(...losses),
      high: Math.max(...losses),
    }));
}

/** Means over about a hundred windows: single batches hide the course. */
function smoothed({ trainLoss }: RunResult): (readonly [number, number])[] {
  const window = Math.max(1, Math.round(trainLoss.length / 100));
  const points: (readonly [number, number])[] = [];
  for (let i = 0; i + window <= trainLoss.length; i += window) {
    const part = trainLoss.slice(i, i + window);
    const mean = part.reduce((a, b) => a + b) / window;
    points.push([i + (window + 1) / 2, mean]);
  }
  return points;
}

function lines(
  width: number,
  points: readonly Point[],
  colors: Colors,
  { dots, zero }: { readonly dots: boolean; readonly zero: boolean },
): Element {
  const stroke = (point: Point) => colors(point.optimizer);
  const by = { x: "step", z: "optimizer" } as const;
  const title = ({ optimizer, step, loss }: Point) =>
    `${optimizer}\nstep ${step}\n${zero && loss >= 0 ? "+" : ""}${loss.toFixed(4)}`;
  return Plot.plot({
    ...look(width, Math.min(380, Math.max(240, width * 0.42))),
    x: { label: "step", labelOffset: 38 },
    y: {
      label: zero ? "difference" : "loss",
      grid: true,
      zero: false,
      nice: true,
    },
    marks: [
      ...(zero ? [Plot.ruleY([0], { stroke: "currentColor" })] : []),
      Plot.areaY(points, {
        ...by,
        y1: "low",
        y2: "high",
        fill: stroke,
        fillOpacity: 0.15,
      }),
      Plot.lineY(points, { ...by, y: "loss", stroke, strokeWidth: 2 }),
      ...(dots
        ? [Plot.dot(points, { ...by, y: "loss", fill: stroke, r: 2.5 })]
        : []),
      Plot.tip(
        points,
        Plot.pointer({ x: "step", y: "loss", title, lineHeight: 1.3 }),
      ),
    ],
  });
}
