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
  /** It is time to save a checkpoint; the run goes on when the event was taken. */
  | { readonly kind: "save"; readonly step: number }
  | { readonly kind: "end"; readonly step: number; readonly aborted: boolean };

/**
 * Trains to the end of `config.steps`: a look at the validation loss and a
 * sample of text before and after, more looks between, and checkpoints every
 * `config.saveEvery` steps, at the end, and when the run ends early.
 *
 * @param signal when aborted, the run ends after the step that is under way,
 * and `end` says so
 * @param looked step of the last look at the validation loss, of a trainer that
 * was restored
 */
export async function* run(
  trainer: Trainer,
  signal?: AbortSignal,
  looked = -1,
): AsyncGenerator<TrainEvent, void, undefined> {
  const { steps, evalEvery, saveEvery, sampleLength } = trainer.config;
  const aborted = () => signal?.aborted ?? false;
  const isDue = (every: number) =>
    trainer.steps === steps || (every > 0 && trainer.steps % every === 0);
  const sample = async () =>
    ({
      kind: "sample",
      step: trainer.steps,
      text: await trainer.sample(signal),
    }) as const;
  const save = () => ({ kind: "save", step: trainer.steps }) as const;
  let lastLook = looked;
  let saved = trainer.steps;

  for (;;) {
    const step = trainer.steps;
    if ((step === 0 || isDue(evalEvery)) && lastLook < step && !aborted()) {
      yield { kind: "validation", step, loss: await trainer.validationLoss() };
      lastLook = step;
    }
    if (step === 0 && sampleLength > 0 && !aborted()) yield await sample();
    if (saveEvery > 0 && isDue(saveEvery) && saved < step) {
      yield save();
      saved = step;
    }
    if (step >= steps || aborted()) break;
    yield { kind: "step", ...(await trainer.step()) };
  }
  if (aborted() && saved < trainer.steps) yield save();
  if (!aborted() && sampleLength > 0) yield await sample();
  yield { kind: "end", step: trainer.steps, aborted: aborted() };
}
