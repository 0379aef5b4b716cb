// A process that trains one recipe for `lowbit compare` and reports to it.

import { InputError, run, Trainer, type TrainEvent } from "lowbit/trainer";
import { sha256 } from "../train/durable.ts";
import { readText } from "../train/text.ts";
import type { FromWorker, Job, RunResult, ToWorker } from "./protocol.ts";

const stop = new AbortController();
// Ctrl-C reaches every process of a terminal; the parent decides, and tells.
for (const name of ["SIGINT", "SIGHUP"] as const) process.on(name, () => {});
process.on("disconnect", () => process.exit(1));
process.on("message", (message: ToWorker) => {
  if (message.kind === "stop") stop.abort();
  else void work(message.job);
});

const send = (message: FromWorker) =>
  new Promise<void>((resolve) => process.send!(message, () => resolve()));

async function work(job: Job): Promise<void> {
  try {
    await send({ kind: "end", result: await train(job) });
    process.exit(0);
  } catch (error) {
    if (error instanceof InputError)
      await send({ kind: "refused", message: error.message });
    else console.error(error);
    process.exit(1);
  }
}

async function train({ data, options, formatsOf }: Job): Promise<RunResult> {
  const start = performance.now();
  const { bytes } = readText(data);
  const trainer = await Trainer.create(bytes, { ...options });
  await send({ kind: "start" });
  const course = new Course();
  for await (const event of run(trainer, stop.signal)) {
    course.add(event);
    if (event.kind === "step") {
      const { kind, ...result } = event;
      await send({ kind, result });
    }
    if (event.kind === "validation") await send(event);
  }
  // Before what only the report needs.
  const peakBytes = 1024 * process.resourceUsage().maxRSS;
  const { stateBytes, stateBytes32, tensors } = trainer.memory();
  const formats = new Map<string, number>();
  for (const tensor of tensors)
    for (const [state, format] of Object.entries(tensor.formats)) {
      const words = `${state}: ${format}`;
      formats.set(words, (formats.get(words) ?? 0) + 1);
    }
  const errors: Record<string, RunResult["errors"][string]> = {};
  for (const recipe of formatsOf)
    errors[recipe] = await trainer.quantizationError(recipe);
  const { model, optimizer: device } = trainer.description;
  return {
    ...course.result(),
    config: trainer.config,
    steps: trainer.steps,
    parameters: trainer.parameterCount,
    text: {
      bytes: bytes.length,
      sha256: sha256(bytes),
    },
    ...{ stateBytes, stateBytes32, peakBytes, model, device, errors },
    formats: [...formats].map(([format, count]) => ({
      format,
      tensors: count,
    })),
    seconds: (performance.now() - start) / 1000,
    codes: await trainer.codeUse(),
  };
}

/** Losses and times as they come. */
class Course {
  readonly #train: number[] = [];
  readonly #validation: (readonly [number, number])[] = [];
  readonly #steps: number[] = [];
  readonly #optimizer: number[] = [];
  #aborted = false;

  add(event: TrainEvent): void {
    if (event.kind === "validation")
      this.#validation.push([event.step, event.loss]);
    if (event.kind === "end") this.#aborted = event.aborted;
    if (event.kind !== "step") return;
    this.#train.push(event.loss);
    this.#steps.push(event.milliseconds);
    this.#optimizer.push(event.optimizerMilliseconds);
  }

  result() {
    return {
      status: this.#aborted ? ("interrupted" as const) : ("finished" as const),
      trainLoss: this.#train,
      validationLoss: this.#validation,
      stepMilliseconds: medianAfterFirst(this.#steps),
      optimizerMilliseconds: medianAfterFirst(this.#optimizer),
    };
  }
}

function medianAfterFirst(values: readonly number[]): number {
  const later = values.length > 1 ? values.slice(1) : values;
  const sorted = [...later].sort((a, b) => a - b);
  const [low, high] = [(sorted.length - 1) >> 1, sorted.length >> 1];
  return sorted.length === 0 ? 0 : (sorted[low]! + sorted[high]!) / 2;
}
