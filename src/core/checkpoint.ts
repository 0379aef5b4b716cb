/**
 * Saving and loading of an optimizer: what of it goes into a checkpoint, and
 * what of a checkpoint it takes. Loaded when first used.
 */
import type { Session } from "../engines/engine.ts";
import { describeFormat, type Format } from "../formats/format.ts";
import { randomKey } from "../formats/random.ts";
import {
  plainText,
  valuesOf,
  type Checkpoint,
  type CheckpointState,
  type CheckpointTensor,
} from "../io/checkpoint.ts";
import { openCheckpoint, type OpenCheckpoint } from "../io/checkpoint-read.ts";
import { checkpointFile } from "../io/checkpoint-write.ts";
import { FileError, owned } from "../io/fault.ts";
import { sameStorage } from "../io/format-data.ts";
import { decodeStored, encodeStored } from "../io/requantize.ts";
import { toSource, type FileData } from "../io/source.ts";
import type { Accumulator } from "./accumulate.ts";
import type { NormHistory } from "./norms.ts";
import type { Parts } from "./parts.ts";

export { checkpointFile };

/** A running optimizer, as saving and loading see it. */
export interface Running extends Parts {
  readonly session: Session;
  readonly accumulator: Accumulator | undefined;
  readonly norms: NormHistory | undefined;
  readonly step: number;
  /** Whether the learning rate comes from a function of the step. */
  readonly scheduled: boolean;
  readonly lastRate: number | undefined;
  /** Learning rate of a step, from 1. */
  rateAt(step: number): number;
  /** The same of a tensor that has its own. */
  ownRateAt(tensor: number, step: number): number | undefined;
}

/** What a load did that was not simply taking over. */
export interface LoadReport {
  /** Of the file's format. */
  readonly version: number;
  /** Steps that the saved optimizer had taken. */
  readonly step: number;
  /** States that were stored in another format: decoded and coded anew, with the loss of that. */
  readonly requantized: readonly {
    readonly tensor: string;
    readonly state: string;
    readonly from: string;
    readonly to: string;
  }[];
  /** What the file and this optimizer say differently, and which of the two holds now. */
  readonly differences: readonly {
    readonly what: string;
    readonly saved: unknown;
    readonly here: unknown;
    readonly used: "saved" | "here";
  }[];
}

/** What a load changes in the optimizer besides its states. */
export interface Loaded {
  readonly step: number;
  readonly lastRate: number | undefined;
  /** Undefined leaves the rate as it is. */
  readonly lr: number | undefined;
  readonly report: LoadReport;
}

/**
 * A running optimizer as a checkpoint, whose states are read when they are asked
 * for.
 *
 * @param step for which its learning rates are told, other than its own.
 */
export function describeRunning(
  running: Running,
  step = running.step,
): Checkpoint {
  const { recipe, tensors, resolved, settings, session } = running;
  const { accumulator, norms, lastRate } = running;
  const summing = accumulator && accumulator.taken > 0;
  return {
    optimizer: recipe.optimizer.name,
    recipe: recipe.name,
    hyper: recipe.hyper,
    lr: { value: running.rateAt(step + 1), scheduled: running.scheduled },
    step,
    lastRate,
    seed: settings.seed,
    norms: norms?.norms ?? [],
    accumulation: {
      every: settings.accumulate,
      taken: accumulator?.taken ?? 0,
    },
    tensors: tensors.map(({ name, shape }, i): CheckpointTensor => {
      const { optimizer, formats, hyper } = resolved[i]!;
      return {
        name,
        shape,
        hyper: differing(hyper, recipe.hyper),
        lr: running.ownRateAt(i, step + 1),
        update: plainText(optimizer.update),
        states: optimizer.program.states.map((state, s): CheckpointState => ({
          name: state,
          kind: optimizer.state[state]!,
          format: formats[s]!,
          read: () => session.readState(i, s),
        })),
        sum: summing ? () => accumulator.readSum(i) : undefined,
      };
    }),
  };
}

/** The file of a running optimizer, as one piece. */
export async function wholeFile(
  running: Running,
): Promise<Uint8Array<ArrayBuffer>> {
  const { size, chunks } = checkpointFile(describeRunning(running));
  const file = new Uint8Array(size);
  let at = 0;
  for await (const chunk of chunks()) {
    file.set(chunk, at);
    at += chunk.length;
  }
  return file;
}

const differing = (
  values: Readonly<Record<string, number>>,
  base: Readonly<Record<string, number>>,
) =>
  Object.fromEntries(
    Object.entries(values).filter(([key, value]) => value !== base[key]),
  );

/**
 * Takes over a checkpoint. Everything that can be wrong with the file is found
 * before the first write.
 *
 * @param begin called before the first write.
 * @throws FileError that says what is wrong.
 */
export function loadRunning(
  running: Running,
  file: FileData,
  begin: () => void,
): Promise<Loaded> {
  return owned(`${running.recipe.name}: load`, async () => {
    const checkpoint = await openCheckpoint(toSource(file));
    const pairs = matchStates(running, checkpoint);
    for (const { saved } of pairs) await saved.read();
    for (const { sum } of checkpoint.tensors) await sum?.();
    begin();
    const { session, accumulator, norms, settings, tensors } = running;
    for (const { tensor, state, saved, format } of pairs) {
      const { shape } = tensors[tensor]!;
      const stored = await saved.read();
      const length = valuesOf(saved.kind, shape);
      const key = randomKey(settings.seed, checkpoint.step, tensor, state);
      session.writeState(
        tensor,
        state,
        sameStorage(saved.format, format)
          ? stored
          : encodeStored(
              decodeStored(stored, saved.format, length, shape),
              format,
              shape,
              key,
            ),
      );
      await settle(session, length);
    }
    const byName = tensorsByName(checkpoint);
    for (const [i, { name, size }] of tensors.entries()) {
      const { sum } = byName.get(name)!;
      if (!sum) continue;
      accumulator!.writeSum(i, await sum());
      await settle(session, size);
    }
    accumulator?.restore(checkpoint.accumulation.taken);
    norms?.restore(checkpoint.norms);
    const { step, lastRate, lr } = checkpoint;
    return {
      step,
      lastRate,
      lr: lr.scheduled || running.scheduled ? undefined : lr.value,
      report: describeLoad(running, checkpoint, pairs),
    };
  });
}

/**
 * Waits until a device has taken what was written: what is queued is memory,
 * too. Small tensors are not worth the wait.
 */
export async function settle(session: Session, size: number): Promise<void> {
  if (size >= 2 ** 20) await session.report();
}

/** A state here and the one in the file. */
interface Pair {
  readonly tensor: number;
  readonly state: number;
  readonly format: Format;
  readonly saved: CheckpointState;
}

const tensorsByName = ({ tensors }: Checkpoint) =>
  new Map(tensors.map((tensor) => [tensor.name, tensor]));

/** @throws FileError when the file is of another optimizer, or of other tensors. */
function matchStates(
  { recipe, tensors, resolved, settings }: Running,
  checkpoint: Checkpoint,
): Pair[] {
  const { optimizer, accumulation } = checkpoint;
  if (optimizer !== recipe.optimizer.name)
    throw new FileError(
      `the file is of '${optimizer}' (${checkpoint.recipe}), and this optimizer is '${recipe.optimizer.name}'`,
    );
  const { every, taken } = accumulation;
  if (taken > 0 && every !== settings.accumulate)
    throw new FileError(
      `the file was saved after ${taken} of ${every} gradients of a step, and this optimizer takes a step every ${settings.accumulate}; create it with accumulate: ${every}`,
    );
  const byName = tensorsByName(checkpoint);
  checkNames(
    "tensor",
    tensors.map(({ name }) => name),
    [...byName.keys()],
  );
  return tensors.flatMap(({ name, shape }, tensor) => {
    const theirs = byName.get(name)!;
    if (String(theirs.shape) !== String(shape))
      throw new FileError(
        `'${name}' has the shape [${theirs.shape.join(", ")}] in the file, and [${shape.join(", ")}] here`,
      );
    const { optimizer: form, formats } = resolved[tensor]!;
    const states = new Map(theirs.states.map((one) => [one.name, one]));
    checkNames(`state of '${name}'`, form.program.states, [...states.keys()]);
    return form.program.states.map((state, s): Pair => {
      const one = states.get(state)!;
      if (one.kind !== form.state[state])
        throw new FileError(
          `'${name}/${state}' is ${one.kind} in the file, and ${form.state[state]} here`,
        );
      return { tensor, state: s, format: formats[s]!, saved: one };
    });
  });
}

function checkNames(
  what: string,
  here: readonly string[],
  saved: readonly string[],
): void {
  const missing = here.filter((name) => !saved.includes(name));
  const extra = saved.filter((name) => !here.includes(name));
  if (missing.length === 0 && extra.length === 0) return;
  const list = (names: readonly string[]) =>
    names
      .slice(0, 5)
      .map((name) => `'${name}'`)
      .join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "");
  throw new FileError(
    [
      ...(missing.length > 0
        ? [`the file has no ${what} ${list(missing)}`]
        : []),
      ...(extra.length > 0
        ? [`this optimizer has no ${what} ${list(extra)}, which the file has`]
        : []),
    ].join("; "),
  );
}

function describeLoad(
  running: Running,
  checkpoint: OpenCheckpoint,
  pairs: readonly Pair[],
): LoadReport {
  const { tensors } = running;
  return {
    version: checkpoint.version,
    step: checkpoint.step,
    requantized: pairs
      .filter(({ saved, format }) => !sameStorage(saved.format, format))
      .map(({ tensor, saved, format }) => ({
        tensor: tensors[tensor]!.name,
        state: saved.name,
        from: describeFormat(saved.format),
        to: describeFormat(format),
      })),
    differences: findDifferences(
      describeRunning(running, checkpoint.step),
      checkpoint,
    ),
  };
}

function findDifferences(
  here: Checkpoint,
  saved: Checkpoint,
): LoadReport["differences"] {
  const found: LoadReport["differences"][number][] = [];
  const compare = (
    what: string,
    left: unknown,
    right: unknown,
    used: "saved" | "here" = "here",
  ) => {
    if (left !== right) found.push({ what, saved: left, here: right, used });
  };
  const numbers = !saved.lr.scheduled && !here.lr.scheduled;
  compare("lr", saved.lr.value, here.lr.value, numbers ? "saved" : "here");
  compare("seed", saved.seed, here.seed);
  compare("accumulate", saved.accumulation.every, here.accumulation.every);
  for (const key of keysOf(saved.hyper, here.hyper))
    compare(key, saved.hyper[key], here.hyper[key]);
  const byName = tensorsByName(saved);
  for (const tensor of here.tensors) {
    const theirs = byName.get(tensor.name)!;
    compare(`lr of '${tensor.name}'`, theirs.lr, tensor.lr);
    compare(`update of '${tensor.name}'`, theirs.update, tensor.update);
    for (const key of keysOf(theirs.hyper, tensor.hyper))
      compare(
        `${key} of '${tensor.name}'`,
        theirs.hyper[key] ?? saved.hyper[key],
        tensor.hyper[key] ?? here.hyper[key],
      );
  }
  return found;
}

const keysOf = (a: object, b: object) => [
  ...new Set([...Object.keys(a), ...Object.keys(b)]),
];
