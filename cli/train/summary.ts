import type { TrainEvent, Trainer } from "lowbit/trainer";
import { version } from "../version.ts";
import { sha256 } from "./durable.ts";
import type { Text } from "./text.ts";

/** What a run came to: `summary.json`, and the last lines on the screen. */
export interface Summary {
  readonly status: "finished" | "interrupted";
  readonly steps: number;
  readonly parameters: number;
  /** Seconds from the first step's start to the end. */
  readonly seconds: number;
  readonly tokens: number;
  /** Over the steps alone, without looks at the validation loss. */
  readonly tokensPerSecond: number;
  /** The optimizer's part of the steps' time, 0 to 1. */
  readonly optimizerShare: number;
  /** Nats a byte. */
  readonly trainLoss: { readonly first?: number; readonly last?: number };
  readonly validationLoss: { readonly first?: number; readonly last?: number };
  readonly stateBytes: number;
  readonly stateBytes32: number;
  readonly text: {
    readonly description: string;
    readonly files: number;
    readonly bytes: number;
    readonly trainBytes: number;
    readonly validationBytes: number;
    readonly sha256: string;
  };
  readonly model: string;
  readonly optimizer: string;
  readonly versions: { readonly lowbit: string; readonly node: string };
}

/** What of a run is summed up; saved with it. */
export interface Progress {
  readonly seconds: number;
  readonly steps: number;
  readonly tokens: number;
  readonly milliseconds: number;
  readonly optimizerMilliseconds: number;
  readonly trainLoss: Summary["trainLoss"];
  readonly validationLoss: Summary["validationLoss"];
  /** Step of the last look at the validation loss; -1 for none. */
  readonly looked: number;
}

const nothing: Progress = {
  seconds: 0,
  steps: 0,
  tokens: 0,
  milliseconds: 0,
  optimizerMilliseconds: 0,
  trainLoss: {},
  validationLoss: {},
  looked: -1,
};

/** Watches a run and sums it up. */
export class Tally {
  readonly #start = performance.now();
  readonly #before: number;
  #progress: Progress;
  #aborted = false;

  /** @param before of the part of the run that was saved. */
  constructor(before: Progress = nothing) {
    this.#before = before.seconds;
    this.#progress = before;
  }

  get progress(): Progress {
    const seconds = this.#before + (performance.now() - this.#start) / 1000;
    return { ...this.#progress, seconds };
  }

  add(event: TrainEvent): void {
    const before = this.#progress;
    if (event.kind === "validation")
      this.#progress = {
        ...before,
        looked: event.step,
        validationLoss: withLast(before.validationLoss, event.loss),
      };
    if (event.kind === "end") this.#aborted = event.aborted;
    if (event.kind === "step")
      this.#progress = {
        ...before,
        steps: event.step,
        trainLoss: withLast(before.trainLoss, event.loss),
        tokens: before.tokens + event.tokens,
        milliseconds: before.milliseconds + event.milliseconds,
        optimizerMilliseconds:
          before.optimizerMilliseconds + event.optimizerMilliseconds,
      };
  }

  summary(trainer: Trainer, text: Text): Summary {
    const { stateBytes, stateBytes32 } = trainer.memory();
    const { model, optimizer } = trainer.description;
    const { seconds, steps, tokens, ...progress } = this.progress;
    const milliseconds = Math.max(progress.milliseconds, Number.MIN_VALUE);
    return {
      status: this.#aborted ? "interrupted" : "finished",
      steps,
      parameters: trainer.parameterCount,
      seconds,
      tokens,
      tokensPerSecond: (1000 * tokens) / milliseconds,
      optimizerShare: progress.optimizerMilliseconds / milliseconds,
      trainLoss: progress.trainLoss,
      validationLoss: progress.validationLoss,
      stateBytes,
      stateBytes32,
      text: describeText(trainer, text),
      model,
      optimizer,
      versions: { lowbit: version(), node: process.version },
    };
  }
}

const withLast = (losses: Summary["trainLoss"], last: number) => ({
  first: last,
  ...losses,
  last,
});

export function describeText(trainer: Trainer, text: Text): Summary["text"] {
  return {
    description: text.description,
    files: text.files,
    bytes: text.bytes.length,
    trainBytes: trainer.split.trainBytes,
    validationBytes: trainer.split.validationBytes,
    sha256: sha256(text.bytes),
  };
}
