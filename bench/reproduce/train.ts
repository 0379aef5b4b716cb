/** One run: a recipe on the word model, from a seed. */
import {
  createOptimizer,
  schedules,
  type OptimizerHandle,
  type Recipe,
} from "lowbit";
import { randomSource } from "./random.ts";
import {
  initialParameters,
  WordModel,
  type ModelSize,
  type Parameters,
} from "./word-model.ts";
import { batchAt, context, type Words } from "./words.ts";

export interface Settings {
  readonly steps: number;
  readonly batch: number;
  readonly lr: number;
  readonly width: number;
  readonly hidden: number;
}

export interface Outcome {
  /** Mean over the validation words, nats a word; NaN when it diverged. */
  readonly loss: number;
  /** Step at which the loss was no number, or was above what guessing gives by far. */
  readonly diverged: number | undefined;
  /** Bytes of state a parameter, of all tensors. */
  readonly bytes: number;
}

/** What a run may look at after a step. */
export type Watch = (
  step: number,
  optimizer: OptimizerHandle,
  parameters: Parameters,
) => Promise<void>;

const models = new Map<string, Promise<WordModel>>();
/** Compiled once a process and size. */
function modelOf(size: ModelSize): Promise<WordModel> {
  const key = JSON.stringify(size);
  let model = models.get(key);
  if (!model) models.set(key, (model = WordModel.create(size)));
  return model;
}

/** Positions that losses are judged by. */
const judged = 2048;

/**
 * Trains and judges.
 *
 * @param recipe its lr is the highest of a schedule: warm-up over a twentieth of
 * the steps, then half a cosine down to 0.
 * @param stable with the stable embedding, whose state has 32 bits.
 */
export async function train(
  recipe: Recipe,
  { training, validation, vocabulary }: Words,
  settings: Settings,
  seed: number,
  stable = false,
  watch?: Watch,
): Promise<Outcome> {
  const { steps, batch, width, hidden } = settings;
  const size = { vocabulary, width, hidden, stable };
  const model = await modelOf(size);
  const parameters = initialParameters(size, seed);
  const random = randomSource(seed + 1);
  const lr = schedules.cosine({
    lr: recipe.lr as number,
    warmup: Math.max(1, Math.round(steps / 20)),
    steps,
  });
  const optimizer = await createOptimizer({ ...recipe, lr }, parameters, {
    // Paper 2: tensors of up to 4096 elements keep 32 bits.
    minQuantizedSize: 4097,
    overrides: stable ? [{ match: "embedding", bits: 32 }] : [],
    seed,
    threads: 1,
  });
  const { bytesPerParameter: bytes } = optimizer.memory();
  try {
    // Worse than guessing by half as much again: no run comes back from there.
    const worst = 1.5 * Math.log(vocabulary);
    for (let t = 1; t <= steps; t++) {
      const places = Array.from({ length: batch }, () =>
        Math.floor(random() * (training.length - context)),
      );
      const { loss, gradients } = await model.backward(
        parameters,
        batchAt(training, places),
      );
      if (!(loss < worst)) return { loss: NaN, diverged: t, bytes };
      await optimizer.step(gradients);
      await watch?.(t, optimizer, parameters);
    }
    const loss = await judge(model, parameters, validation, batch);
    return loss < worst
      ? { loss, diverged: undefined, bytes }
      : { loss: NaN, diverged: steps, bytes };
  } finally {
    optimizer.dispose();
  }
}

async function judge(
  model: WordModel,
  parameters: Parameters,
  validation: Int32Array,
  batch: number,
): Promise<number> {
  const random = randomSource(12345);
  let sum = 0;
  const rounds = Math.ceil(judged / batch);
  for (let round = 0; round < rounds; round++) {
    const places = Array.from({ length: batch }, () =>
      Math.floor(random() * (validation.length - context)),
    );
    sum += await model.loss(parameters, batchAt(validation, places));
  }
  return sum / rounds;
}
