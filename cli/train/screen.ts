import type { StepResult, TrainEvent, Trainer } from "lowbit/trainer";
import { harmless, type Terminal } from "../terminal.ts";
import {
  bytes,
  count,
  duration,
  hundredths,
  plural,
  rate,
  short,
} from "../units.ts";
import { Pace, progressLine } from "./progress.ts";
import { decode, type Reporter } from "./reporter.ts";
import type { Summary } from "./summary.ts";
import type { Text } from "./text.ts";

/** For a person at a terminal, or reading a log of it. */
export class Screen implements Reporter {
  readonly #terminal: Terminal;
  readonly #out: NodeJS.WriteStream;
  #steps = 0;
  #prompt = "";
  #pace = new Pace();
  #warned = false;
  #saved: number | undefined;
  /** Whether the line under the cursor is a progress bar. */
  #barShown = false;

  constructor(terminal: Terminal, out: NodeJS.WriteStream) {
    this.#terminal = terminal;
    this.#out = out;
  }

  start(trainer: Trainer, text: Text): void {
    const { config, split } = trainer;
    const { model, optimizer } = trainer.description;
    const { stateBytes, stateBytes32 } = trainer.memory();
    this.#steps = config.steps;
    this.#prompt = config.prompt;
    const heldOut = Math.round(
      (100 * split.validationBytes) / text.bytes.length,
    );
    this.#rows([
      [
        "model",
        `GPT of ${count(trainer.parameterCount)} parameters: ${plural(config.layers, "layer")}, ${plural(config.heads, "head")}, width ${config.width}, context ${config.context} bytes`,
      ],
      [
        "text",
        `${bytes(text.bytes.length)} in ${plural(text.files, "file")}: ${harmless(text.description)}`,
      ],
      [
        "held out",
        `the last ${bytes(split.validationBytes)} (${heldOut} %), for the validation loss`,
      ],
      [
        "training",
        `${plural(config.steps, "step")} of ${config.batch} x ${config.context} bytes, seed ${config.seed}`,
      ],
      [
        "optimizer",
        `${config.optimizer}, lr ${short(config.lr)} (warm-up ${plural(config.warmup, "step")}, then ${config.schedule}${config.schedule === "constant" ? "" : ` to ${short(config.minLr)}`}), weight decay ${short(config.weightDecay)}`,
      ],
      ["state", stateLine(stateBytes, stateBytes32)],
      ...(trainer.steps > 0
        ? ([["goes on", `after ${plural(trainer.steps, "step")}`]] as const)
        : []),
      ["runs on", `${model}; optimizer on ${optimizer}`],
    ]);
    this.#line("");
  }

  event(event: TrainEvent): void {
    switch (event.kind) {
      case "step":
        return this.#step(event);
      case "validation":
        return this.#line(
          `step ${count(event.step)}: validation loss ${this.#terminal.bold(event.loss.toFixed(3))} nats a byte`,
        );
      case "sample":
        return this.#sample(event.step, event.text);
      case "save":
        this.#saved = event.step;
        return;
      case "end":
        return this.#clearBar();
    }
    return event satisfies never;
  }

  notice(text: string): void {
    this.#line(text);
  }

  interrupted(): void {
    this.#line("ending after this step (Ctrl-C again ends at once) ...");
  }

  end(summary: Summary, folder: string, whole: boolean): void {
    const { validationLoss, optimizerShare, status } = summary;
    const { first, last } = validationLoss;
    this.#line("");
    this.#rows([
      [
        status,
        `${plural(summary.steps, "step")} in ${duration(summary.seconds)}, ${rate(summary.tokensPerSecond)} bytes/s`,
      ],
      ...(!isNumber(first) || !isNumber(last)
        ? []
        : ([
            [
              "validation",
              `loss ${first.toFixed(3)} -> ${this.#terminal.bold(last.toFixed(3))} nats a byte`,
            ],
          ] as const)),
      ["state", stateLine(summary.stateBytes, summary.stateBytes32)],
      ["optimizer", `${hundredths(optimizerShare)} % of the steps' time`],
      ["outputs", whole ? folder : `${folder}, not whole: see below`],
      ...(status === "interrupted" && this.#saved === summary.steps
        ? ([["go on with", `lowbit train --resume ${folder}`]] as const)
        : []),
    ]);
  }

  #step(result: StepResult): void {
    this.#pace.add(result);
    const { step, nonFinite } = result;
    if (nonFinite > 0 && !this.#warned) {
      this.#warned = true;
      this.#line(
        `step ${count(step)}: ${plural(nonFinite, "number")} of the gradient not finite and left out; a smaller --lr may help (log.jsonl tells of more such steps)`,
      );
    }
    if (this.#terminal.live) {
      const width = this.#terminal.width();
      // A last column written to makes some terminals begin a new line.
      const line = progressLine(this.#pace, step, this.#steps, width - 1);
      this.#out.write(`\r${line}\x1b[K`);
      this.#barShown = true;
      return;
    }
    const every = Math.max(1, Math.ceil(this.#steps / 10));
    if (step % every === 0 || step === 1 || step === this.#steps)
      this.#line(progressLine(this.#pace, step, this.#steps));
  }

  #sample(step: number, text: Uint8Array): void {
    const when =
      step === 0 ? "before training" : `after ${plural(step, "step")}`;
    this.#line(`the model's text ${when}:`);
    const lines = harmless(this.#prompt + decode(text))
      .trim()
      .split("\n");
    for (const line of lines) this.#line(this.#terminal.dim(`  | ${line}`));
    this.#line("");
  }

  #rows(rows: readonly (readonly [string, string])[]): void {
    for (const [name, value] of rows)
      this.#line(`${this.#terminal.dim(name.padEnd(11))} ${value}`);
  }

  #line(text: string): void {
    this.#clearBar();
    this.#out.write(`${text}\n`);
  }

  #clearBar(): void {
    if (this.#barShown) this.#out.write("\r\x1b[K");
    this.#barShown = false;
  }
}

/** A loss that was no number is null in JSON, from which a run may go on. */
const isNumber = (loss: unknown): loss is number => typeof loss === "number";

const stateLine = (stateBytes: number, stateBytes32: number) =>
  stateBytes === 0
    ? "none"
    : `${count(stateBytes)} bytes (${bytes(stateBytes)}); in 32-bit ${count(stateBytes32)} bytes (${bytes(stateBytes32)}), ${(stateBytes32 / stateBytes).toFixed(2)} times as much`;
