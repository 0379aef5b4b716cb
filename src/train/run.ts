import type { StepResult, Trainer } from "./trainer.ts";

/** What happens in a run, in order. */
export type TrainEvent =
  | {
      readonly kind: "sample";
      readonly step: number;
      readonly text: Uint8Array;
    }
  | {
      readonly kind: "validation";
      readonly step: number;
      /** Nats a byte. */
      readonly loss: number;
    }
  | ({ readonly kind: "step" } & StepResult)
  | { readonly kind: "end"; readonly step: number; readonly aborted: boolean };

/**
 * Trains to the end of `config.steps`: a look at the validation loss and a
 * sample of text before and after, and more looks between.
 *
 * @param signal when aborted, the run ends after the step that is under way,
 * and `end` says so
 */
export async function* run(
  trainer: Trainer,
  signal?: AbortSignal,
): AsyncGenerator<TrainEvent, void, undefined> {
  const { steps, evalEvery, sampleLength } = trainer.config;
  const aborted = () => signal?.aborted ?? false;
  const validation = async () =>
    ({
      kind: "validation",
      step: trainer.steps,
      loss: await trainer.validationLoss(),
    }) as const;
  const sample = async () =>
    ({
      kind: "sample",
      step: trainer.steps,
      text: await trainer.sample(signal),
    }) as const;

  if (!aborted()) yield await validation();
  if (!aborted() && sampleLength > 0) yield await sample();
  while (trainer.steps < steps && !aborted()) {
    yield { kind: "step", ...(await trainer.step()) };
    const due =
      trainer.steps === steps ||
      (evalEvery > 0 && trainer.steps % evalEvery === 0);
    if (due && !aborted()) yield await validation();
  }
  if (!aborted() && sampleLength > 0) yield await sample();
  yield { kind: "end", step: trainer.steps, aborted: aborted() };
}
