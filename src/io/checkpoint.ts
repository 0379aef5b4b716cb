/**
 * What a checkpoint of an optimizer holds, whoever wrote it. States are read one
 * at a time, from an engine or from a file, so that nothing is in memory twice.
 *
 * As a file it is safetensors, see docs/checkpoints.md.
 */
import type { StoredState } from "../engines/engine.ts";
import type { Format } from "../formats/format.ts";
import { geometryOf, shapeLength } from "../formula/small.ts";
import { stateShape, type StateKind } from "../formula/program.ts";

/** Of the file; readers for all versions before stay. */
export const VERSION = 1;

/** One state of one tensor. */
export interface CheckpointState {
  /** As in the definition: `m`. */
  readonly name: string;
  /** Whether it has a value for each element, with a sign or without, or for each row, each column, or one. */
  readonly kind: StateKind;
  /** How it is stored. */
  readonly format: Format;
  /** A copy of what is stored; from a file it is checked. */
  read(): Promise<StoredState>;
}

/** One parameter and its states. */
export interface CheckpointTensor {
  /** Name of the parameter. */
  readonly name: string;
  /** Sizes of its axes. */
  readonly shape: readonly number[];
  /** Hyperparameters that differ from the checkpoint's. */
  readonly hyper: Readonly<Record<string, number>>;
  /** Own learning rate of the next step; undefined where it is the checkpoint's. */
  readonly lr: number | undefined;
  /** The update as text, in the formula language. */
  readonly update: string;
  /** In the order of the definition. */
  readonly states: readonly CheckpointState[];
  /** float32 sum of gradients, in the midst of an accumulation. */
  readonly sum: (() => Promise<Float32Array<ArrayBuffer>>) | undefined;
}

/** A saved optimizer: everything but the parameters themselves. */
export interface Checkpoint {
  /** Name of the optimizer: `adamw`. */
  readonly optimizer: string;
  /** Name of the recipe: `adamw8bit`. */
  readonly recipe: string;
  /** Every hyperparameter but lr, booleans as 1 and 0. */
  readonly hyper: Readonly<Record<string, number>>;
  /** Learning rate of the next step, and whether a schedule gave it. */
  readonly lr: { readonly value: number; readonly scheduled: boolean };
  /** Steps taken; with it the position in a schedule. */
  readonly step: number;
  /** Learning rate of the last step; undefined before the first. */
  readonly lastRate: number | undefined;
  /** Seed of stochastic rounding. */
  readonly seed: number;
  /** Gradient norms that percentile clipping looks at, oldest first. */
  readonly norms: readonly number[];
  /** Gradients a step, and how many of them the sums hold. */
  readonly accumulation: { readonly every: number; readonly taken: number };
  /** In the order of the parameters. */
  readonly tensors: readonly CheckpointTensor[];
}

/** Values that a state has in a tensor of this shape. */
export const valuesOf = (kind: StateKind, shape: readonly number[]): number =>
  shapeLength(stateShape(kind), geometryOf(shape));

/** A formula without the indentation of the source it stood in. */
export const plainText = (update: string) =>
  update
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean)
    .join("\n");

/**
 * Names of a file's tensors. A parameter may have any name, so the last slash
 * parts it from what follows, and no state is called `0` or `gradient.sum`.
 */
export const tensorName = {
  state: (parameter: string, state: string, suffix: string) =>
    `${parameter}/${state}${suffix}`,
  sum: (parameter: string) => `${parameter}/gradient.sum`,
  codebook: (place: number) => `codebook/${place}`,
  checksums: "checksums/0",
} as const;
