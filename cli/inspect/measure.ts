import {
  numbersOf,
  stateStatistics,
  valueStatistics,
  type OpenState,
  type StateStatistics,
  type TensorSource,
  type ValueStatistics,
} from "lowbit/io";
import type { InputFile } from "../files.ts";
import type { Progress } from "../progress.ts";

/** What is known of a file with an optimizer's state; also what `--json` prints. */
export interface MeasuredState {
  readonly file: string;
  readonly bytes: number;
  readonly kind: "optimizer state";
  readonly layout: string;
  readonly optimizer: string;
  readonly recipe: string;
  readonly step: number;
  readonly lr: number | null;
  readonly hyper: Readonly<Record<string, number>>;
  /** Elements of all parameters. */
  readonly parameters: number;
  readonly stateBytes: number;
  readonly stateBytes32: number;
  readonly notes: readonly string[];
  readonly tensors: readonly MeasuredTensor[];
}

export interface MeasuredTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly states: Readonly<Record<string, StateStatistics>>;
}

/** Reads every state once. */
export async function measureState(
  { name: file, size: bytes }: InputFile,
  { layout, checkpoint, notes }: OpenState,
  progress: Progress,
): Promise<MeasuredState> {
  const { optimizer, recipe, step, lr, hyper } = checkpoint;
  const tensors: MeasuredTensor[] = [];
  for (const { name, shape, states } of checkpoint.tensors) {
    const found: [string, StateStatistics][] = [];
    for (const state of states)
      found.push([state.name, await stateStatistics(state, shape)]);
    tensors.push({ name, shape, states: Object.fromEntries(found) });
    progress(tensors.length / checkpoint.tensors.length);
  }
  const all = tensors.flatMap(({ states }) => Object.values(states));
  return {
    file,
    bytes,
    kind: "optimizer state",
    layout,
    optimizer,
    recipe,
    step,
    lr: lr.scheduled ? null : lr.value,
    hyper,
    parameters: tensors.reduce((sum, { shape }) => sum + elements(shape), 0),
    stateBytes: all.reduce((sum, state) => sum + state.bytes, 0),
    stateBytes32: all.reduce(
      (sum, state) => sum + 4 * state.values.elements,
      0,
    ),
    notes,
    tensors,
  };
}

/** What is known of any other safetensors file. */
export interface MeasuredModel {
  readonly file: string;
  readonly bytes: number;
  readonly kind: "tensors";
  readonly metadata: Readonly<Record<string, string>>;
  /** Elements of all tensors. */
  readonly elements: number;
  readonly tensors: readonly {
    readonly name: string;
    readonly dtype: string;
    readonly shape: readonly number[];
    /** Absent for FP8, whose scales are elsewhere. */
    readonly values?: ValueStatistics;
  }[];
}

export async function measureModel(
  { name: file, size: bytes }: InputFile,
  source: TensorSource,
  progress: Progress,
): Promise<MeasuredModel> {
  const tensors: MeasuredModel["tensors"][number][] = [];
  for (const [name, { dtype, shape }] of source.tensors) {
    const numbers = numbersOf(dtype, await source.read(name));
    tensors.push({
      name,
      dtype,
      shape,
      ...(numbers ? { values: valueStatistics(numbers) } : {}),
    });
    progress(tensors.length / source.tensors.size);
  }
  return {
    file,
    bytes,
    kind: "tensors",
    metadata: source.metadata,
    elements: tensors.reduce((sum, { shape }) => sum + elements(shape), 0),
    tensors,
  };
}

export const elements = (shape: readonly number[]) =>
  shape.reduce((product, n) => product * n, 1);
