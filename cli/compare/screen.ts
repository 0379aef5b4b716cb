import { parameterCount, type TrainConfig } from "lowbit/trainer";
import { table } from "../table.ts";
import { harmless, type Terminal } from "../terminal.ts";
import { Pace, progressLine } from "../train/progress.ts";
import type { Text } from "../train/text.ts";
import { bytes, count, digits, duration, nats, plural } from "../units.ts";
import type { CompareFlags } from "./flags.ts";
import type { FromWorker, RunResult } from "./protocol.ts";
import type { Comparison } from "./report.ts";
import type { Reporter } from "./reporter.ts";
import {
  divergence,
  lastLoss,
  type RecipeSummary,
  type Spread,
} from "./summary.ts";

/** For a person at a terminal, or reading a log of it. */
export class CompareScreen implements Reporter {
  readonly #terminal: Terminal;
  readonly #out: NodeJS.WriteStream;
  readonly #paces = new Map<number, Pace>();
  #plans: readonly TrainConfig[] = [];
  /** Whether the line under the cursor is a progress bar. */
  #barShown = false;

  constructor(terminal: Terminal, out: NodeJS.WriteStream) {
    this.#terminal = terminal;
    this.#out = out;
  }

  start(plans: readonly TrainConfig[], text: Text, flags: CompareFlags): void {
    this.#plans = plans;
    const config = plans[0]!;
    const last = plans.at(-1)!;
    const seeds =
      config.seed === last.seed
        ? `seed ${config.seed}`
        : `seeds ${config.seed} to ${last.seed}`;
    this.#rows([
      [
        "model",
        `GPT of ${count(parameterCount(config))} parameters: ${plural(config.layers, "layer")}, ${plural(config.heads, "head")}, width ${config.width}, context ${config.context} bytes`,
      ],
      [
        "text",
        `${bytes(text.bytes.length)} in ${plural(text.files, "file")}: ${harmless(text.description)}`,
      ],
      [
        "training",
        `${plural(config.steps, "step")} of ${config.batch} x ${config.context} bytes, ${seeds}`,
      ],
      ["optimizers", flags.optimizers.join(", ")],
      [
        "runs",
        `${plans.length}${flags.jobs > 1 ? `, ${flags.jobs} at a time (which disturbs the times)` : ", one after another"}`,
      ],
    ]);
    this.#line("");
  }

  event(run: number, event: FromWorker): void {
    if (event.kind === "start") this.#paces.set(run, new Pace());
    if (event.kind !== "step" || !this.#terminal.live) return;
    const pace = this.#paces.get(run)!;
    pace.add(event.result);
    const head = `${this.#name(run)} `;
    const { steps } = this.#plans[run]!;
    // A last column written to makes some terminals begin a new line.
    const width = this.#terminal.width() - head.length - 1;
    const line = progressLine(pace, event.result.step, steps, width);
    this.#out.write(`\r${head}${line}\x1b[K`);
    this.#barShown = true;
  }

  ran(run: number, result: RunResult): void {
    const loss = lastLoss(result);
    const parts = [
      result.status === "finished"
        ? `${plural(result.steps, "step")} in ${duration(result.seconds)}`
        : `ended after ${plural(result.steps, "step")}`,
      ...(loss === undefined ? [] : [lossInWords(loss)]),
      `state ${bytes(result.stateBytes)}`,
    ];
    this.#line(`${this.#name(run)} ${parts.join(", ")}`);
  }

  failed(run: number, { message }: Error): void {
    this.#line(`${this.#name(run)} failed: ${message}`);
  }

  notice(text: string): void {
    this.#line(text);
  }

  interrupted(): void {
    this.#line("ending after this step (Ctrl-C again ends at once) ...");
  }

  end(comparison: Comparison, folder: string | undefined): void {
    this.#line("");
    for (const line of resultTable(comparison, this.#terminal.bold))
      this.#line(line);
    this.#line("");
    this.#rows([
      ["time", duration(comparison.seconds)],
      ...(folder === undefined
        ? []
        : ([
            ["report", `${folder}/report.html`],
            ["numbers", `${folder}/results.json`],
          ] as const)),
    ]);
  }

  /** `[ 3/12] adamw8bit   seed 1` */
  #name(run: number): string {
    const all = String(this.#plans.length);
    const { optimizer, seed } = this.#plans[run]!;
    const width = Math.max(...this.#plans.map((plan) => plan.optimizer.length));
    return `[${String(run + 1).padStart(all.length)}/${all}] ${optimizer.padEnd(width)} seed ${seed}:`;
  }

  #rows(rows: readonly (readonly [string, string])[]): void {
    for (const [name, value] of rows)
      this.#line(`${this.#terminal.dim(name.padEnd(11))} ${value}`);
  }

  #line(text: string): void {
    if (this.#barShown) this.#out.write("\r\x1b[K");
    this.#barShown = false;
    this.#out.write(`${text}\n`);
  }
}

/** The comparison as a table: a line for each recipe. */
export function resultTable(
  { summary, optimizers }: Comparison,
  bold: (text: string) => string,
): string[] {
  const paired = summary.some(({ difference }) => difference);
  const head = ["optimizer", "validation loss"];
  if (paired) head.push("difference");
  head.push("state", `of ${optimizers[0]}`, "optimizer", "step", "peak memory");
  const rows = summary.map((row) => {
    const cells = [title(row), showLoss(row)];
    if (paired) cells.push(showSpread(row.difference, true));
    cells.push(
      bytes(row.stateBytes),
      `${((100 * row.stateBytes) / summary[0]!.stateBytes).toFixed(1)} %`,
      `${digits(row.optimizerMilliseconds)} ms`,
      `${digits(row.stepMilliseconds)} ms`,
      bytes(row.peakBytes),
    );
    return cells;
  });
  return table(head, rows, bold);
}

const title = ({ optimizer, status, steps }: RecipeSummary) =>
  status === "finished"
    ? optimizer
    : `${optimizer} (ended after ${plural(steps, "step")})`;

const lossInWords = (loss: number) =>
  Number.isFinite(loss)
    ? `validation loss ${loss.toFixed(3)}`
    : "diverged: its validation loss is no number";

/** 1.953 ± 0.012, and what it leaves out. */
function showLoss(row: RecipeSummary): string {
  const { validationLoss } = row;
  const words = divergence(row);
  if (!words) return showSpread(validationLoss);
  return validationLoss ? `${showSpread(validationLoss)}, ${words}` : words;
}

/** 1.953 ± 0.012 */
export function showSpread(value: Spread | undefined, signed = false): string {
  if (!value) return "-";
  const { mean, deviation } = value;
  const tail = deviation === undefined ? "" : ` ± ${nats(deviation)}`;
  return `${nats(mean, signed)}${tail}`;
}
