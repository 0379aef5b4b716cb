/**
 * What an engine is: something that keeps the states of a list of tensors and
 * applies a step to all of them. The core above decides hyperparameters,
 * formats and schedules; an engine only runs programs over memory.
 *
 * What every engine must do alike:
 *
 * - A step updates each parameter in place with the fresh float32 states, then
 *   stores the states: scale = absmax of the group (0 when below the smallest
 *   normal float32), x = value * (1 / scale), code by the format's thresholds.
 * - `skip: "element"`: an element whose gradient, or whose new state, is not
 *   finite keeps its parameter bit for bit and its states' values, and is
 *   counted. `skip: "step"`: one gradient that is not finite anywhere leaves
 *   everything as it is; the elements are counted. `skip: "off"`: no checks.
 * - `maxGradNorm`: every gradient is multiplied by min(1, maxGradNorm / (norm +
 *   1e-6)), norm being the 2-norm over all tensors' finite gradients.
 * - Reductions leave out elements whose gradient, or what is reduced, is not
 *   finite; in the update pass such elements are left out as above.
 * - Stochastic rounding draws from (key, element index), see formats/random.ts;
 *   the chances are those of formats/quantize.ts.
 * - `correctScale`: codes are found with the absmax, and the scale corrected then.
 */
import type { Format } from "../formats/format.ts";
import type { Program } from "../formula/program.ts";
import { geometryOf, shapeLength } from "../formula/small.ts";

/** When elements with gradients that are not finite are left out. */
export type SkipMode = "element" | "step" | "off";

/** A tensor as an engine sees it. */
export interface TensorPlan {
  readonly name: string;
  readonly shape: readonly number[];
  /** Number of elements. */
  readonly size: number;
  readonly program: Program;
  /** In the order of `program.states`. */
  readonly formats: readonly Format[];
  /**
   * Where the parameter lives: a Float32Array, or what else the engine takes
   * (GPU buffers). Absent when the engine is to allocate it, zero-filled.
   */
  readonly parameter: unknown;
}

/** What holds for all steps of a session. */
export interface EngineOptions {
  /** What to leave out when a gradient is not finite. */
  readonly skip: SkipMode;
  /** Whether steps will have a maximal gradient norm. */
  readonly clip: boolean;
  /** Whether parameters and gradients are to live in the engine's own memory. */
  readonly resident: boolean;
  /** Upper limit of threads; undefined lets the engine decide. */
  readonly threads: number | undefined;
  /**
   * The states lie in memory of the host, which passes it to each step, see
   * {@link HostStates}. Default: in the engine's own.
   */
  readonly hostStates?: boolean;
  /**
   * Every step says where its parameters lie, so that plans without a parameter
   * do not ask for memory. Default false.
   */
  readonly hostParameters?: boolean;
}

/**
 * What a step writes where a parameter lies: the parameter, one step further; or its
 * `change`, what the step adds to it, 0 for what is left out. `unreadChange` is
 * the same of a formula that does not read the parameter: then the step does
 * not either, and anything may lie there.
 */
export type Written = "parameter" | "change" | "unreadChange";

/** What one tensor gets in a step. */
export interface StepTensor {
  /**
   * A Float32Array of `size` elements, or what else the engine takes; undefined
   * with resident gradients, or to leave the tensor as it is in this step.
   */
  readonly gradient: unknown;
  /** From `program.uniforms`. */
  readonly uniforms: Float32Array;
  /** Keys for stochastic rounding, one for each state. */
  readonly keys: Uint32Array;
  /**
   * For states whose preconditioner is rounded: eps in the unit of the state's
   * root, one for each state. Absent when there are none.
   */
  readonly floors?: Float32Array;
  /** Where the parameter lies in this step, when that is not the plan's place. */
  readonly parameter?: unknown;
  /** Default `parameter`; another only on an engine that {@link Engine.writesChanges}. */
  readonly written?: Written;
}

/** What a step gets, for all tensors. */
export interface StepInput {
  /** In the order of the plans; undefined leaves a tensor as it is. */
  readonly tensors: readonly (StepTensor | undefined)[];
  /** Required when the session was made with `clip`. */
  readonly maxGradNorm: number | undefined;
  /** With `hostStates`: the memory of each region in this step, as {@link HostStates.regions} lists them. */
  readonly regions?: readonly unknown[];
}

/** What happened in a step. */
export interface StepReport {
  /** Elements left out in the last step because they were not finite. */
  readonly nonFinite: number;
  /** 2-norm of all gradients before clipping, when it was needed. */
  readonly gradNorm: number | undefined;
  /** Whether the whole step was left out (`skip: "step"`). */
  readonly skipped: boolean;
}

/** The stored form of one state. */
export type StoredState =
  | { readonly kind: "float"; readonly values: Float32Array<ArrayBuffer> }
  | {
      readonly kind: "quantized";
      /** Packed, see formats/pack.ts. */
      readonly codes: Uint8Array<ArrayBuffer>;
      readonly scales: Float32Array<ArrayBuffer>;
    };

/** A run of a state's values in a region, see {@link HostStates}. */
export interface StatePiece {
  /** First value of the state, and how many. */
  readonly start: number;
  readonly length: number;
  readonly region: number;
  /** Byte offset of the packed codes, or of the values. */
  readonly codes: number;
  /** Byte offset of the scales of this piece; absent without scales. */
  readonly scales: number | undefined;
}

/** How states lie that are kept in memory of the host. */
export interface HostStates {
  /** Bytes of each region, a multiple of 4, and what it holds before the first step. */
  readonly regions: readonly {
    readonly bytes: number;
    initial(): Uint8Array<ArrayBuffer>;
  }[];
  /** Where a state lies; undefined when only the engine can tell it from other things it keeps. */
  pieces(tensor: number, state: number): readonly StatePiece[] | undefined;
}

/** The states of a list of tensors, on a device. */
export interface Session {
  /** For reports: `wasm, 2 threads`. */
  readonly description: string;
  /** With `hostStates`. */
  readonly hostStates?: HostStates;
  /** Takes a step, see the head of this file. Not called again before it has ended. */
  step(input: StepInput): Promise<void>;
  /** The same at once, on sessions of {@link Engine.createSessionSync}; on a device it is queued. */
  stepSync?(input: StepInput): void;
  /** Of the last step; a promise where it must be read from a device. */
  report(): StepReport | Promise<StepReport>;
  /** The stored form of a tensor's state; a copy. */
  readState(tensor: number, state: number): Promise<StoredState>;
  /**
   * Replaces a tensor's state, before it returns (on a device: queued); sizes
   * were checked by the caller.
   */
  writeState(tensor: number, state: number, stored: StoredState): void;
  /** Where the parameter lives now; the caller's own object unless resident. */
  parameter(tensor: number): unknown;
  /** The values of a parameter that the engine allocated; a copy. */
  readParameter(tensor: number): Promise<Float32Array<ArrayBuffer>>;
  /** Replaces them, before it returns (on a device: queued). */
  writeParameter(tensor: number, values: Float32Array<ArrayBuffer>): void;
  /** Memory for the gradient that a step reads without a copy, when resident. */
  gradient(tensor: number): unknown;
  /** Bytes of one state as really allocated: codes and scales, or float32. */
  stateBytes(tensor: number, state: number): number;
  /** Bytes allocated beside states and resident tensors: tables, scratch, staging. */
  workspaceBytes(): number;
  /** Frees all memory of the session; it is not called any more after. */
  dispose(): void;
}

/** Makes sessions on one kind of device. */
export interface Engine {
  /** For reports and messages: `wasm`. */
  readonly name: string;
  /** Whether the engine takes this as a parameter or gradient, beside Float32Array. */
  accepts?(data: unknown): boolean;
  /** Whether steps can write changes, see {@link Written}. */
  readonly writesChanges?: boolean;
  /** @throws RangeError when the memory cannot be had; nothing stays allocated. */
  createSession(
    plans: readonly TensorPlan[],
    options: EngineOptions,
  ): Promise<Session>;
  /** The same at once, for hosts whose optimizers are functions that do not wait. */
  createSessionSync?(
    plans: readonly TensorPlan[],
    options: EngineOptions,
  ): Session;
}

/** Number of values of a plan's state: its elements, or rows, columns, one. */
export function stateLength(
  plan: Pick<TensorPlan, "program" | "shape" | "size">,
  state: number,
): number {
  const shape = plan.program.stateShapes[state]!;
  return shape === "element"
    ? plan.size
    : shapeLength(shape, geometryOf(plan.shape));
}

/**
 * Factor of every gradient for a maximal norm, as PyTorch's clip_grad_norm_:
 * min(1, maxGradNorm / (norm + 1e-6)), rounded to float32.
 */
export function clipFactor(norm: number, maxGradNorm: number): number {
  return Math.fround(Math.min(1, maxGradNorm / (norm + 1e-6)));
}
