import type { RunResult } from "./protocol.ts";

/** Mean over seeds and, from two on, the sample's standard deviation. */
export interface Spread {
  readonly mean: number;
  readonly deviation: number | undefined;
  readonly count: number;
}

/** One recipe's row of the table: over its finished runs, else over those that ended early. */
export interface RecipeSummary {
  readonly optimizer: string;
  readonly status: "finished" | "interrupted";
  readonly seeds: readonly number[];
  /** Steps of its runs. */
  readonly steps: number;
  /** The last look at the validation loss, nats a byte, over the runs that did not diverge. */
  readonly validationLoss: Spread | undefined;
  /** Runs whose last validation loss is no number. */
  readonly diverged: number;
  /**
   * Its difference to the first recipe's, seed by seed; undefined for the first
   * recipe, and where no seed has both as numbers.
   */
  readonly difference: Spread | undefined;
  readonly stateBytes: number;
  /** What the same states would take in float32. */
  readonly stateBytes32: number;
  /** Means over the seeds. */
  readonly optimizerMilliseconds: number;
  readonly stepMilliseconds: number;
  readonly peakBytes: number;
}

/** A row for each recipe that has a run. */
export function summarize(
  optimizers: readonly string[],
  runs: readonly RunResult[],
): RecipeSummary[] {
  const of = (optimizer: string) => {
    const all = runs.filter(({ config }) => config.optimizer === optimizer);
    const whole = all.filter(({ status }) => status === "finished");
    return whole.length > 0 ? whole : all;
  };
  const first = of(optimizers[0]!);
  return optimizers.flatMap((optimizer, i): RecipeSummary[] => {
    const own = of(optimizer);
    const [one] = own;
    if (!one) return [];
    const losses = own.flatMap((run) => lastLoss(run) ?? []);
    const numbers = losses.filter(Number.isFinite);
    const differences = own.flatMap((run) => {
      const base = first.find(
        ({ config, steps }) =>
          config.seed === run.config.seed && steps === run.steps,
      );
      const [a, b] = [lastLoss(run), base && lastLoss(base)];
      return Number.isFinite(a) && Number.isFinite(b) ? a! - b! : [];
    });
    const mean = (value: (run: RunResult) => number) => average(own.map(value));
    return [
      {
        optimizer,
        status: one.status,
        seeds: own.map(({ config }) => config.seed),
        steps: Math.max(...own.map(({ steps }) => steps)),
        validationLoss: spread(numbers),
        diverged: losses.length - numbers.length,
        difference: i === 0 ? undefined : spread(differences),
        stateBytes: one.stateBytes,
        stateBytes32: one.stateBytes32,
        optimizerMilliseconds: mean((run) => run.optimizerMilliseconds),
        stepMilliseconds: mean((run) => run.stepMilliseconds),
        peakBytes: mean((run) => run.peakBytes),
      },
    ];
  });
}

/** The loss after the last step, when the run came to look at it. */
export function lastLoss({
  validationLoss,
  steps,
}: RunResult): number | undefined {
  const last = validationLoss.at(-1);
  return last && last[0] === steps ? last[1] : undefined;
}

/** How many of a recipe's runs diverged, in words; nothing for none. */
export const divergence = ({ diverged, seeds }: RecipeSummary): string =>
  diverged === 0
    ? ""
    : seeds.length === 1
      ? "diverged"
      : `${diverged} of ${seeds.length} diverged`;

function spread(values: readonly number[]): Spread | undefined {
  if (values.length === 0) return undefined;
  const mean = average(values);
  const squares = values.map((value) => (value - mean) ** 2);
  const deviation =
    values.length < 2
      ? undefined
      : Math.sqrt(squares.reduce((a, b) => a + b) / (values.length - 1));
  return { mean, deviation, count: values.length };
}

const average = (values: readonly number[]) =>
  values.reduce((a, b) => a + b, 0) / values.length;
