import { describeFormat, stateBytes, type Format } from "../formats/format.ts";
import { stateLength as lengthOf } from "../engines/engine.ts";
import type { Optimizer } from "../optimizers/compile.ts";
import type { Recipe } from "../optimizers/define.ts";
import {
  resolveTensors,
  type Resolved,
  type Settings,
  type TensorInfo,
} from "./options.ts";
import {
  checkSettings,
  checkShape,
  type OptimizerOptions,
} from "./settings.ts";

/** What the state of one tensor takes, and why. */
export interface TensorMemory {
  /** Name of the parameter; its position where shapes were given as a list. */
  readonly name: string;
  /** Shape of the parameter. */
  readonly shape: readonly number[];
  /** Elements. */
  readonly size: number;
  /** Bits of each state, by name. */
  readonly bits: Readonly<Record<string, number>>;
  /** Format of each state in words, by name. */
  readonly formats: Readonly<Record<string, string>>;
  /** Bytes of codes, scales and float32 values. */
  readonly bytes: number;
  /** Bytes that float32 state would take. */
  readonly bytes32: number;
  /** Which rule decided: the recipe, a group, an override, or the tensor's size. */
  readonly why: string;
}

/** What the states of an optimizer take, as a whole and by tensor. */
export interface MemoryReport {
  /** Bytes of all states. */
  readonly stateBytes: number;
  /** Bytes that the same states would take in float32. */
  readonly stateBytes32: number;
  /** Elements of all tensors. */
  readonly parameters: number;
  /** State bytes for each parameter element. */
  readonly bytesPerParameter: number;
  /** Bytes allocated beside the states: tables, scratch, staging; 0 in an estimate. */
  readonly workspaceBytes: number;
  /** In the order of the parameters. */
  readonly tensors: readonly TensorMemory[];
}

/** Values that a state of a tensor has. */
export const stateLength = (
  { program }: Optimizer,
  tensor: TensorInfo,
  state: number,
): number => lengthOf({ program, ...tensor }, state);

/** Sums up; `bytesOf` tells the bytes of a state, from buffers or by calculation. */
export function memoryReport(
  tensors: readonly TensorInfo[],
  resolved: readonly Resolved[],
  bytesOf: (tensor: number, state: number) => number,
  workspaceBytes: number,
): MemoryReport {
  const rows = tensors.map(({ name, shape, size }, i): TensorMemory => {
    const { formats, why, optimizer } = resolved[i]!;
    const byName = <T>(of: (format: Format) => T) =>
      Object.fromEntries(
        optimizer.program.states.map((state, s) => [state, of(formats[s]!)]),
      );
    return {
      name,
      shape,
      size,
      bits: byName(({ bits }) => bits),
      formats: byName(describeFormat),
      bytes: formats.reduce((sum, _, s) => sum + bytesOf(i, s), 0),
      bytes32: formats.reduce(
        (sum, _, s) => sum + 4 * stateLength(optimizer, tensors[i]!, s),
        0,
      ),
      why,
    };
  });
  const total = (of: (row: TensorMemory) => number) =>
    rows.reduce((sum, row) => sum + of(row), 0);
  const bytes = total((row) => row.bytes);
  const parameters = total((row) => row.size);
  return {
    stateBytes: bytes,
    stateBytes32: total((row) => row.bytes32),
    parameters,
    bytesPerParameter: parameters > 0 ? bytes / parameters : 0,
    workspaceBytes,
    tensors: rows,
  };
}

/**
 * What an optimizer's state would take for tensors of these shapes, without
 * allocating anything; the same rules as createOptimizer.
 *
 * @param shapes shape by name, or a list of shapes.
 * @param options those that decide about formats, as for `createOptimizer`.
 * @returns the report, with 0 bytes of workspace.
 * @throws TypeError or RangeError for bad options or shapes, as createOptimizer.
 */
export function estimateMemory(
  shapes:
    | Readonly<Record<string, readonly number[]>>
    | readonly (readonly number[])[],
  recipe: Recipe,
  options: Pick<
    OptimizerOptions,
    "groups" | "overrides" | "minQuantizedSize"
  > = {},
): MemoryReport {
  const settings: Settings = checkSettings(options);
  const tensors = Object.entries(shapes).map(([name, shape]): TensorInfo => {
    const size = checkShape("estimateMemory", name, shape);
    return { name, shape: [...shape], size };
  });
  const resolved = resolveTensors(recipe, tensors, settings);
  return memoryReport(
    tensors,
    resolved,
    (i, s) =>
      stateBytes(
        resolved[i]!.formats[s]!,
        stateLength(resolved[i]!.optimizer, tensors[i]!, s),
        tensors[i]!.shape,
      ),
    0,
  );
}
