/** What the functions of one kernel have in common: their scratch, and what they must do. */
import type { Format, QuantizedFormat } from "../../formats/format.ts";
import { isRankOne } from "../../formats/quantize.ts";
import {
  ModuleBuilder,
  type FunctionBuilder,
} from "../../formula/assembler.ts";
import {
  inputsOf,
  reducedNode,
  reductionsOf,
  smallNodesOf,
  watchedNodes,
  type Program,
} from "../../formula/program.ts";
import { MathFunctions } from "../../formula/wasm.ts";
import { storedBytes, type Tables } from "./tables.ts";
import { Reducer, type Reduction } from "./reduce.ts";
import { alwaysShows } from "./shows.ts";

export interface KernelSpec {
  readonly program: Program;
  /** Of the states per element, in their order. */
  readonly formats: readonly Format[];
  /** Tables of the formats, undefined for float32. */
  readonly tables: readonly (Tables | undefined)[];
  /** Leave out elements that are not finite. */
  readonly check: boolean;
  /** Multiply gradients by the task's factor. */
  readonly clip: boolean;
}

/** Elements of a turn, as vectors: four of four. */
export const lanes = [0, 1, 2, 3] as const;

export const isStochastic = (format: Format): boolean =>
  format.rounding !== "nearest";

/** Names of the states that have a value for each element. */
export const elementStates = (program: Program): readonly string[] =>
  program.states.filter((_, s) => program.stateShapes[s] === "element");

/** Values in memory, by row or column, that are spread over a superblock in scratch. */
export interface Spread {
  /** Offset in a half of scratch. */
  readonly offset: number;
  /** Position among the addresses of the record. */
  readonly place: number;
  readonly shape:
    "matrix" | "row" | "column" | "last" | "tileRow" | "tileColumn";
  /** Side of the tiles. */
  readonly side?: number;
}

/** A state with rank-1 scales: offsets of what is spread, and its reductions. */
export interface Rank1State {
  readonly s: number;
  readonly oldRow: number;
  readonly oldLast: number;
  readonly newRow: number;
  readonly newLast: number;
  readonly reductions: readonly Reduction[];
}

/** A state with scales of blocks, or of the tensor. */
export type BlockState = {
  readonly s: number;
  readonly format: QuantizedFormat;
};

/** Built once a kernel; its functions in the files beside this one take it first. */
export class KernelPlan {
  readonly spec: KernelSpec;
  readonly module = new ModuleBuilder();
  readonly math = new MathFunctions(this.module);
  readonly block: readonly BlockState[];
  readonly tensor: readonly BlockState[];
  readonly size: number;
  /** The new parameter needs old states, so phase A must compute it. */
  readonly early: boolean;
  /** Values whose bits are watched for what is not finite. */
  readonly watchGradient: boolean;
  /** States per element. */
  readonly names: readonly string[];
  readonly small: readonly number[];
  /** What varies within a superblock and is spread over it. */
  readonly spreads: Spread[] = [];
  /** Where small values are spread, by node. */
  readonly spreadAt = new Map<number, number>();
  readonly rank1: readonly Rank1State[];
  readonly reducer: Reducer;
  scratch = 0;
  /** The function that spreads values, once there is one, see spreads.ts. */
  spreader: FunctionBuilder | undefined;
  readonly rowAt: number[] = [];
  readonly parameterRow: number;
  readonly maskRow: number;
  readonly scaleAt: number[] = [];
  readonly passes: readonly (readonly Reduction[])[];
  readonly half: number;
  readonly touched: number;
  readonly stage: {
    parameter: number;
    gradient: number;
    codes: number[];
    scales: number[];
    end: number;
  };

  constructor(spec: KernelSpec) {
    this.spec = spec;
    const { program, formats, check } = spec;
    const quantized = formats.flatMap((format, s) =>
      format.kind === "quantized" ? [{ s, format }] : [],
    );
    this.block = quantized.filter(({ format }) => format.scale === "block");
    this.tensor = quantized.filter(({ format }) => format.scale === "tensor");
    this.names = elementStates(program);
    this.small = smallNodes(program, this.names);
    const spread = this.small.filter((node) => program.shapes[node] !== "one");
    const rank1 = quantized.filter(({ format }) => isRankOne(format));
    // Float32 alone needs no phases.
    const phases =
      spread.length + rank1.length > 0 ||
      formats.some(({ bits }) => bits !== 32);
    this.size = Math.max(
      phases ? 256 : 16,
      ...this.block.map(({ format }) => format.blockSize),
    );
    this.early = readsOldStates(program, this.names);
    this.watchGradient = check && !alwaysShows(program);

    const bytes = 4 * this.size;
    const take = (size: number) => {
      const at = this.scratch;
      this.scratch += Math.ceil(size / 16) * 16;
      return at;
    };
    this.rowAt = formats.map(() => take(bytes));
    this.parameterRow = take(this.early ? bytes : 0);
    this.maskRow = take(bytes);
    this.scaleAt = formats.map((format) => take(8 * this.blocksIn(format)));
    // Spreading writes whole vectors, and so up to 12 bytes too many.
    const takeSpread = (
      place: number,
      shape: Spread["shape"],
      tiles: { readonly side?: number } = {},
    ) => {
      const offset = take(bytes + 16);
      this.spreads.push({ offset, place, shape, ...tiles });
      return offset;
    };
    for (const node of spread)
      this.spreadAt.set(
        node,
        takeSpread(
          this.small.indexOf(node),
          program.shapes[node] as Spread["shape"],
        ),
      );
    this.reducer = new Reducer(this.module, () => take(bytes));
    this.rank1 = rank1.map(({ s, format }, i) =>
      rank1State(s, format, i, this.reducer.takeRow(), (shape, k, tiles) =>
        takeSpread(this.small.length + 4 * i + k, shape, tiles),
      ),
    );
    this.passes = Array.from({ length: program.passes }, (_, pass) =>
      this.reducer.plan(program, pass),
    );
    this.half = this.scratch;
    this.scratch *= 2;
    this.touched = take(4);
    this.stage = {
      parameter: take(bytes),
      gradient: take(bytes),
      codes: formats.map((format) => take(storedBytes(format, this.size))),
      scales: formats.map((format) => take(4 * this.blocksIn(format))),
      end: this.scratch,
    };
  }

  /** Scales of a state in a superblock. */
  blocksIn(format: Format): number {
    return format.kind === "quantized" && format.scale === "block"
      ? this.size / format.blockSize
      : 0;
  }

  /** Nodes of the new states per element. */
  watched(): number[] {
    return outputsOf(this.spec.program, this.names);
  }
}

const outputsOf = (program: Program, names: readonly string[]): number[] =>
  names.map((name) => program.outputs.get(name)!);

/** Whether the new parameter depends on states before the step. */
const readsOldStates = (program: Program, states: readonly string[]) =>
  [
    ...inputsOf(
      program,
      outputsOf(program, ["p"]),
      new Set(outputsOf(program, states)),
    ),
  ].some((name) => states.includes(name));

/** Every small node that some function of the kernel reads. */
function smallNodes(program: Program, states: readonly string[]): number[] {
  return smallNodesOf(program, [
    ...outputsOf(program, ["p", ...states]),
    ...watchedNodes(program),
    ...Array.from({ length: program.passes }, (_, pass) =>
      reductionsOf(program, pass).map((one) => reducedNode(program, one)),
    ).flat(),
  ]);
}

/**
 * @param i its position among the states with rank-1 scales.
 * @param rowAt offset in scratch of the row of its magnitudes.
 * @param spread takes place in scratch for the k-th list of its scales.
 */
function rank1State(
  s: number,
  format: QuantizedFormat,
  i: number,
  rowAt: number,
  spread: (
    shape: Spread["shape"],
    k: number,
    tiles: { readonly side?: number },
  ) => number,
): Rank1State {
  const tiled = format.scale === "tile";
  const [row, last] = tiled
    ? (["tileRow", "tileColumn"] as const)
    : (["row", "last"] as const);
  const tiles = tiled ? { side: format.blockSize } : {};
  return {
    s,
    oldRow: spread(row, 0, tiles),
    oldLast: spread(last, 1, tiles),
    newRow: spread(row, 2, tiles),
    newLast: spread(last, 3, tiles),
    reductions: [row, last].map((over, k) => ({
      ...{ node: -1, operand: -1, maximum: true, over, rowAt, ...tiles },
      place: 2 * i + k,
    })),
  };
}
