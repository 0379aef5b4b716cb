/** Plans a session's memory: what lies where, before the memory is made. */
import {
  scaleCount,
  type Format,
  type QuantizedFormat,
} from "../../formats/format.ts";
import { codeBytes } from "../../formats/pack.ts";
import { twoLists } from "../../formats/rank1.ts";
import { reductionsOf, type Program } from "../../formula/program.ts";
import { geometryOf, shapeLength, type Geometry } from "../../formula/small.ts";
import { stateLength, type EngineOptions, type TensorPlan } from "../engine.ts";
import type { Tables } from "./tables.ts";
import { kernelFor, type Kernels, type KernelSet } from "./kernels.ts";
import { Arena, mostReductions, taskBytes } from "./layout.ts";
import { controlBytes } from "./pool.ts";
import { buildStatistics } from "./statistics.ts";

/** Elements of a task; a multiple of every block size. */
export const chunk = 32768;

/** Where a state lies. */
export interface PlacedState {
  readonly format: Format;
  /** Address of the codes or values; with the host's states, an offset in their region. */
  readonly codes: number;
  readonly scales: number;
}

/** Where a tensor's data lies; an address of 0 means elsewhere, to be staged. */
export interface Placed {
  readonly plan: TensorPlan;
  readonly kernels: Kernels;
  readonly parameterAt: number;
  readonly gradientAt: number;
  /** The states per element, in the order of the kernel. */
  readonly states: readonly PlacedState[];
  /** The states that are not per element, by name. */
  readonly smallStates: Map<string, Float32Array<ArrayBuffer>>;
  /** Where the host keeps them, an offset each, in the same order. */
  readonly smallStatesAt: readonly number[];
  readonly geometry: Geometry;
  /** Address of the addresses of the kernel's small values. */
  readonly smallAt: number;
  /** Address of each small value, by node. */
  readonly smallValues: ReadonlyMap<number, number>;
  /** Of each state with rank-1 scales, in the kernel's order. */
  readonly rank1: readonly PlacedRank1[];
  readonly tasks: number;
}

/** Addresses of what the kernel reads of a state's rank-1 scales, see kernel.ts. */
export interface PlacedRank1 {
  readonly s: number;
  readonly oldRow: number;
  readonly oldLast: number;
  readonly newRow: number;
  readonly newLast: number;
}

/** Room for a chunk of parameters and one of gradients that live elsewhere. */
export interface Slot {
  readonly parameter: number;
  readonly gradient: number;
}

export interface MemoryPlan {
  readonly placed: readonly Placed[];
  readonly tables: ReadonlyMap<string, Tables>;
  readonly kernels: KernelSet;
  readonly control: number;
  readonly scratch: readonly number[];
  readonly slots: readonly Slot[];
  /** Address of the task records, and their distance. */
  readonly tasks: number;
  readonly stride: number;
  readonly uniforms: readonly number[];
  /** Where sums by row and column are gathered: their addresses, and the room. */
  readonly sums: { readonly table: number; readonly at: number };
  /** Bytes beside states and resident tensors. */
  readonly workspace: number;
  /** Bytes of the region of the host's states. */
  readonly regionBytes: number;
  /** Address behind everything. */
  readonly end: number;
}

/** @param start address of the first byte that may be used, a multiple of 64. */
export function planMemory(
  plans: readonly TensorPlan[],
  options: EngineOptions,
  threads: number,
  start: number,
): MemoryPlan {
  const arena = new Arena(start);
  const region = new Arena(0);
  const control = arena.take(threads > 1 ? controlBytes : 0);

  // Tables first: their addresses are immediates of the kernels.
  const tables = new Map<string, Tables>();
  const kernels: KernelSet = {
    modules: [{ module: buildStatistics(), name: "statistics" }],
    byKey: new Map(),
    scratchBytes: 64,
  };
  const chosen = plans.map((plan) =>
    kernelFor(plan, options, arena, tables, kernels),
  );
  const scratch = Array.from({ length: threads }, () =>
    arena.take(kernels.scratchBytes),
  );
  const tablesEnd = arena.top;
  const placed = plans.map((plan, i) =>
    placeTensor(plan, chosen[i]!, options, arena, region),
  );

  // Staging: slots of a chunk of parameters and one of gradients.
  const states = Math.max(0, ...placed.map((one) => one.states.length));
  const stride = Math.ceil(taskBytes(states) / 8) * 8;
  const staged = placed.some((one) => !one.parameterAt || !one.gradientAt);
  const largest = Math.min(
    chunk,
    Math.max(1, ...plans.map(({ size }) => size)),
  );
  const slots = staged
    ? Array.from({ length: threads === 1 ? 1 : 4 * threads }, () => ({
        parameter: arena.take(4 * largest),
        gradient: arena.take(4 * largest),
      }))
    : [];
  const records = Math.max(
    1,
    slots.length,
    placed.reduce((sum, one) => sum + one.tasks, 0),
  );
  const tasks = arena.take(stride * records);
  const sumBytes = Math.max(0, ...placed.map(bytesOfSums));
  const sums = {
    table: arena.take(4 * mostReductions),
    at: arena.take(sumBytes),
  };
  const uniforms = plans.map(({ program }) =>
    arena.take(4 * program.uniformCount),
  );
  return {
    placed,
    tables,
    kernels,
    control,
    scratch,
    slots,
    tasks,
    stride,
    uniforms,
    sums,
    workspace:
      tablesEnd -
      start +
      slots.length * 8 * largest +
      stride * records +
      sumBytes +
      plans.reduce((sum, { program }) => sum + 4 * program.uniformCount, 0),
    regionBytes: region.top,
    end: arena.top,
  };
}

function placeTensor(
  plan: TensorPlan,
  kernels: Kernels,
  { resident, hostStates = false, hostParameters = false }: EngineOptions,
  arena: Arena,
  region: Arena,
): Placed {
  const { program, size, shape } = plan;
  const geometry = geometryOf(shape);
  const own = resident || (!hostParameters && plan.parameter === undefined);
  // Kernels read whole vectors, and so up to 12 bytes past the end.
  const vector = (length: number) => arena.take(4 * length + 16);
  const perElement = elementPositions(program);
  const small = program.states.flatMap((name, s) =>
    perElement.includes(s) ? [] : [{ name, length: stateLength(plan, s) }],
  );
  const kept = hostStates ? region : arena;
  return {
    plan,
    kernels,
    geometry,
    smallStates: new Map(
      small.map(({ name, length }) => [name, new Float32Array(length)]),
    ),
    smallStatesAt: hostStates
      ? small.map(({ length }) => region.take(4 * length))
      : [],
    smallAt: arena.take(4 * (kernels.small.length + 4 * kernels.rank1.length)),
    rank1: kernels.rank1.map((s) => {
      const { rows, last } = listsOf(plan, s);
      return {
        s,
        oldRow: vector(rows),
        oldLast: vector(last),
        newRow: vector(rows),
        newLast: vector(last),
      };
    }),
    smallValues: new Map(
      kernels.small.map((node) => [
        node,
        vector(shapeLength(program.shapes[node]!, geometry)),
      ]),
    ),
    parameterAt: own ? arena.take(4 * size) : 0,
    gradientAt: resident ? arena.take(4 * size) : 0,
    states: perElement
      .map((s) => plan.formats[s]!)
      .map((format) => ({
        format,
        codes: kept.take(storageBytes(format, size)),
        scales: kept.take(4 * scaleCount(format, size, shape)),
      })),
    tasks: Math.ceil(size / chunk),
  };
}

/** Lengths of the two lists of rank-1 scales of a state, counted among those per element. */
const listsOf = ({ program, formats, shape }: TensorPlan, s: number) =>
  twoLists(formats[elementPositions(program)[s]!] as QuantizedFormat, shape);

/** Bytes of a state's codes, or of its float32 or bfloat16 values. */
const storageBytes = (format: Format, size: number): number =>
  format.kind === "float"
    ? (format.bits / 8) * size
    : codeBytes(format.bits, size);

/** Bytes for the sums by row and by column of a tensor, and for its rank-1 maxima. */
function bytesOfSums({ plan, geometry, kernels }: Placed): number {
  const { program } = plan;
  const maxima = kernels.rank1.reduce((sum, s) => {
    const { rows, last } = listsOf(plan, s);
    return sum + rows + last;
  }, 0);
  const sums = Array.from({ length: program.passes }, (_, pass) =>
    reductionsOf(program, pass).reduce((sum, node) => {
      const shape = program.shapes[node]!;
      return sum + (shape === "one" ? 0 : shapeLength(shape, geometry));
    }, 0),
  );
  return 8 * Math.max(0, maxima, ...sums);
}

/** Positions among all states of those that are per element. */
const positions = /* @__PURE__ */ new WeakMap<Program, readonly number[]>();
export function elementPositions(program: Program): readonly number[] {
  let known = positions.get(program);
  if (!known) {
    known = program.stateShapes.flatMap((shape, s) =>
      shape === "element" ? [s] : [],
    );
    positions.set(program, known);
  }
  return known;
}
