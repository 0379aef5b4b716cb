/** What `lowbit compare` and its worker processes say to each other. */
import type {
  CodeUse,
  QuantizationError,
  StepResult,
  TrainConfig,
} from "lowbit/trainer";

/** One run, for a process of its own: so that its peak memory is its own. */
export interface Job {
  readonly data: readonly string[] | undefined;
  /** For `Trainer.create`. */
  readonly options: TrainConfig;
  /** Recipes whose formats are tried on this run's float32 states at its end. */
  readonly formatsOf: readonly string[];
}

/** What a run came to. */
export interface RunResult {
  readonly config: TrainConfig;
  readonly status: "finished" | "interrupted";
  readonly steps: number;
  readonly parameters: number;
  readonly text: { readonly bytes: number; readonly sha256: string };
  /** The loss of each step, nats a byte. */
  readonly trainLoss: readonly number[];
  /** Pairs of step and loss. */
  readonly validationLoss: readonly (readonly [step: number, loss: number])[];
  readonly stateBytes: number;
  readonly stateBytes32: number;
  /** Each state's format, and the bytes of all tensors in it. */
  readonly formats: readonly {
    readonly format: string;
    readonly tensors: number;
  }[];
  /** Medians over the steps after the first, which compiles the model. */
  readonly stepMilliseconds: number;
  readonly optimizerMilliseconds: number;
  /** Most memory that the process had (its resident set), in bytes. */
  readonly peakBytes: number;
  readonly seconds: number;
  readonly model: string;
  readonly device: string;
  readonly codes: readonly CodeUse[];
  /** By recipe: what its formats make of this run's states. */
  readonly errors: Readonly<Record<string, readonly QuantizationError[]>>;
}

export type FromWorker =
  | { readonly kind: "start" }
  | { readonly kind: "step"; readonly result: StepResult }
  | {
      readonly kind: "validation";
      readonly step: number;
      readonly loss: number;
    }
  | { readonly kind: "end"; readonly result: RunResult }
  | { readonly kind: "refused"; readonly message: string };

export type ToWorker =
  { readonly kind: "job"; readonly job: Job } | { readonly kind: "stop" };
