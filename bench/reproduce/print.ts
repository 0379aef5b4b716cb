/** Results as tables in Markdown. */
import type { Errors } from "./analysis.ts";
import type { Run } from "./pool.ts";
import type { Scheme } from "./schemes.ts";
import type { Outcome } from "./train.ts";

export const table = (
  head: readonly string[],
  rows: readonly (readonly string[])[],
): string =>
  [head, head.map(() => "---"), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n");

/** What the seeds of a scheme came to. */
export interface Row {
  readonly name: string;
  readonly bytes: number;
  /** By seed. */
  readonly outcomes: readonly Outcome[];
  /** Losses minus the baseline's of the same seed, of those that ended. */
  readonly gaps: readonly number[];
}

/** Gathers runs by scheme; rows with the stable embedding are held against the baseline with it. */
export function rowsOf(
  schemes: readonly Scheme[],
  outcomes: ReadonlyMap<Run, Outcome>,
  wanted: (run: Run) => boolean = () => true,
): Row[] {
  const of = (name: string) =>
    [...outcomes]
      .filter(([run]) => run.scheme === name && wanted(run))
      .sort(([a], [b]) => a.seed - b.seed)
      .map(([, outcome]) => outcome);
  return schemes.map(({ name, stable = false }) => {
    const mine = of(name);
    const base = schemes.find(
      (one) => one.name.startsWith("32-bit") && !!one.stable === stable,
    );
    const theirs = base ? of(base.name) : [];
    return {
      name,
      bytes: mine[0]?.bytes ?? NaN,
      outcomes: mine,
      gaps: mine
        .map(({ loss }, i) => loss - (theirs[i]?.loss ?? NaN))
        .filter(Number.isFinite),
    };
  });
}

export const mean = (values: readonly number[]): number =>
  values.reduce((a, b) => a + b, 0) / values.length;

export const deviation = (values: readonly number[]): number => {
  const m = mean(values);
  return Math.sqrt(
    values.reduce((sum, x) => sum + (x - m) ** 2, 0) /
      Math.max(1, values.length - 1),
  );
};

export const spread = (values: readonly number[], digits = 3, sign = false) => {
  if (values.length === 0) return "";
  const m = mean(values);
  const shown = `${sign && m >= 0 ? "+" : ""}${m.toFixed(digits)}`;
  return values.length > 1
    ? `${shown} ± ${deviation(values).toFixed(digits)}`
    : shown;
};

export function printRows(rows: readonly Row[]): string {
  return table(
    ["stored", "diverged", "loss", "minus 32-bit", "bytes a parameter"],
    rows.map(({ name, bytes, outcomes, gaps }) => {
      const lost = outcomes.flatMap(({ diverged }) => diverged ?? []);
      const ended = outcomes.map(({ loss }) => loss).filter(Number.isFinite);
      return [
        name,
        lost.length === 0
          ? `0 of ${outcomes.length}`
          : `${lost.length} of ${outcomes.length}, at ${lost.join(", ")}`,
        spread(ended),
        name.startsWith("32-bit") ? "" : spread(gaps, 4, true),
        bytes.toFixed(3),
      ];
    }),
  );
}

const digits = (x: number) =>
  x === 0 ? "0" : x >= 100 ? x.toFixed(0) : x.toPrecision(3);

/** Mean relative error of the update, its median in brackets. */
export function printErrors(
  errors: ReadonlyMap<string, ReadonlyMap<string, Errors>>,
): string {
  const tensors = [...(errors.values().next().value?.keys() ?? [])];
  return table(
    ["stored", ...tensors],
    [...errors]
      .filter(([name]) => name !== "exact")
      .map(([name, byTensor]) => [
        name,
        ...tensors.map((tensor) => {
          const { mean, median } = byTensor.get(tensor)!;
          return `${digits(mean)} [${digits(median)}]`;
        }),
      ]),
  );
}

/** Where 1 / (sqrt(v) + 1e-6) lies after v was stored. */
export function printZeros(
  errors: ReadonlyMap<string, ReadonlyMap<string, Errors>>,
  tensor: string,
): string {
  const percent = (x: number) =>
    x === 0 ? "" : `${(100 * x).toFixed(x < 0.1 ? 1 : 0)} %`;
  return table(
    [
      "v stored",
      "as 0",
      "decades off",
      ...[0, 1, 2, 3, 4, 5].map((k) => `1e${k}`),
      "1e6: h(0)",
    ],
    [...errors].map(([name, byTensor]) => {
      const { zeros, decades, histogram } = byTensor.get(tensor)!;
      return [
        name,
        percent(zeros),
        decades.toFixed(3),
        ...histogram.map(percent),
      ];
    }),
  );
}
