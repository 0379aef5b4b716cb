/** Memory and time. */
import * as Plot from "@observablehq/plot";
import type { Comparison } from "../report.ts";
import { chart, heading, legend, note } from "./dom.ts";
import { bytes, milliseconds } from "./format.ts";
import { look, type Colors } from "./look.ts";

const parts = ["parameters", "gradients", "optimizer state"] as const;
const fills: Readonly<Record<string, string>> = {
  parameters: "var(--part0)",
  gradients: "var(--part1)",
};

export function costCharts(
  { runs, summary }: Comparison,
  colors: Colors,
): Node[] {
  const names = summary.map(({ optimizer }) => optimizer);
  const parameters = 4 * (runs[0]?.parameters ?? 0);
  const memory = summary.flatMap(({ optimizer, stateBytes }) =>
    [parameters, parameters, stateBytes].map((size, i) => ({
      optimizer,
      part: parts[i]!,
      size,
    })),
  );
  const times = runs.map((run) => ({
    optimizer: run.config.optimizer,
    seed: run.config.seed,
    time: run.optimizerMilliseconds,
  }));
  return [
    heading(2, "Memory"),
    note(
      "What training holds between steps: float32 parameters and gradients, and the optimizer's state, counted in real buffers.",
    ),
    legend(parts, (part) => fills[part] ?? striped(names.map(colors))),
    chart("memory", "Bytes by optimizer and part", (width) =>
      Plot.plot({
        ...rows(width, names),
        x: {
          label: null,
          tickFormat: (n: number) => bytes(n),
          ticks: width < 480 ? 3 : 6,
          grid: true,
        },
        marks: [
          Plot.barX(memory, {
            y: "optimizer",
            x: "size",
            order: [...parts],
            fill: ({ part, optimizer }: (typeof memory)[number]) =>
              fills[part] ?? colors(optimizer),
            z: "part",
            title: ({ part, size }: (typeof memory)[number]) =>
              `${part}: ${bytes(size)}`,
            insetTop: 2,
            insetBottom: 2,
          }),
          Plot.text(summary, {
            y: "optimizer",
            x: ({ stateBytes }: (typeof summary)[number]) =>
              2 * parameters + stateBytes,
            text: ({ stateBytes }: (typeof summary)[number]) =>
              `state ${bytes(stateBytes)}`,
            textAnchor: "start",
            dx: 5,
            fill: "currentColor",
          }),
        ],
        marginRight: 110,
      }),
    ),
    heading(2, "Time"),
    note(
      "The optimizer's part of a step: the median over a run, a dot for each seed. It depends on the machine and on what else runs there.",
    ),
    chart("time", "Milliseconds of the optimizer in a step", (width) =>
      Plot.plot({
        ...rows(width, names),
        x: {
          label: null,
          zero: true,
          grid: true,
          tickFormat: (n: number) => `${n} ms`,
          ticks: width < 480 ? 3 : 6,
        },
        marks: [
          Plot.barX(summary, {
            y: "optimizer",
            x: "optimizerMilliseconds",
            fill: ({ optimizer }: (typeof summary)[number]) =>
              colors(optimizer),
            fillOpacity: 0.35,
            insetTop: 5,
            insetBottom: 5,
          }),
          Plot.dot(times, {
            y: "optimizer",
            x: "time",
            fill: ({ optimizer }: (typeof times)[number]) => colors(optimizer),
            r: 4,
            title: ({ seed, time }: (typeof times)[number]) =>
              `seed ${seed}: ${milliseconds(time)}`,
          }),
        ],
      }),
    ),
  ];
}

/** Several colours beside each other. */
function striped(colors: readonly string[]): string {
  const each = 100 / colors.length;
  const stops = colors.map(
    (color, i) => `${color} ${i * each}% ${(i + 1) * each}%`,
  );
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}

/** A row for each optimizer. */
const rows = (width: number, names: readonly string[]) => ({
  ...look(width, 52 + 34 * names.length),
  marginLeft: 16 + 7 * Math.max(...names.map((name) => name.length)),
  marginRight: 24,
  y: { domain: names, label: null, tickSize: 0 },
});
