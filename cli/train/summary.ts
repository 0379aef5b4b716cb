import { createHash } from "node:crypto";
import type { TrainEvent, Trainer } from "lowbit/trainer";
import { version } from "../version.ts";
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

/** Watches a run and sums it up. */
export class Tally {
  readonly #start = performance.now();
  #steps = 0;
  #tokens = 0;
  #milliseconds = 0;
  #optimizerMilliseconds = 0;
  #train: { first?: number; last?: number } = {};
  #validation: { first?: number; last?: number } = {};
  #aborted = false;

  add(event: TrainEvent): void {
    if (event.kind === "validation")
      this.#validation = {
        first: event.loss,
        ...this.#validation,
        last: event.loss,
      };
    if (event.kind === "end") this.#aborted = event.aborted;
    if (event.kind !== "step") return;
    this.#steps = event.step;
    this.#train = { first: event.loss, ...this.#train, last: event.loss };
    this.#tokens += event.tokens;
    this.#milliseconds += event.milliseconds;
    this.#optimizerMilliseconds += event.optimizerMilliseconds;
  }

  summary(trainer: Trainer, text: Text): Summary {
    const { stateBytes, stateBytes32 } = trainer.memory();
    const { model, optimizer } = trainer.description;
    const milliseconds = Math.max(this.#milliseconds, Number.MIN_VALUE);
    return {
      status: this.#aborted ? "interrupted" : "finished",
      steps: this.#steps,
      parameters: trainer.parameterCount,
      seconds: (performance.now() - this.#start) / 1000,
      tokens: this.#tokens,
      tokensPerSecond: (1000 * this.#tokens) / milliseconds,
      optimizerShare: this.#optimizerMilliseconds / milliseconds,
      trainLoss: this.#train,
      validationLoss: this.#validation,
      stateBytes,
      stateBytes32,
      text: describeText(trainer, text),
      model,
      optimizer,
      versions: { lowbit: version(), node: process.version },
    };
  }
}

export function describeText(trainer: Trainer, text: Text): Summary["text"] {
  return {
    description: text.description,
    files: text.files,
    bytes: text.bytes.length,
    trainBytes: trainer.split.trainBytes,
    validationBytes: trainer.split.validationBytes,
    sha256: createHash("sha256").update(text.bytes).digest("hex"),
  };
}
