/**
 * The fused step: one generated module for a formula and the formats of its
 * states. Reads gradient, parameter and states once and writes them once.
 *
 * Elements are taken in superblocks: the largest block of the formats. Codes
 * cannot be written before a block's absmax is known, so a superblock goes
 * through two phases, with the new states as float32 in scratch between them:
 *
 *   A: decode, new states, largest magnitudes -> scales
 *   B: new parameter, encode
 *
 * The loop runs phase A of one superblock before phase B of the one before it,
 * which hides the latency of maxima and reciprocals (measured, 3 %).
 *
 * A superblock in which something is not finite, and the last one when it is
 * not full, go through the same two phases with masks, in a function of their
 * own, so that the usual path pays for neither. Phase A writes nothing but
 * scratch, so it can be run again.
 */
import type { Format, QuantizedFormat } from "../../formats/format.ts";
import { storedBits } from "../../formats/pack.ts";
import { isRankOne } from "../../formats/quantize.ts";
import {
  doWhile,
  f32x4,
  i32,
  i32x4,
  i8x16,
  memoryCopy,
  memoryFill,
  ModuleBuilder,
  v128,
  when,
  type Code,
  type FunctionBuilder,
  type Local,
} from "../../formula/assembler.ts";
import {
  inputsOf,
  reducedNode,
  reductionsOf,
  smallNodesOf,
  watchedNodes,
  type Program,
} from "../../formula/program.ts";
import { MathFunctions, printWasm, type Vectors } from "../../formula/wasm.ts";
import {
  emitCorrected,
  emitDecode,
  emitEncode,
  emitStore,
  storedBytes,
  type Correction,
  type Randomness,
  type Tables,
} from "./codec.ts";
import { task, taskState, taskStateBytes } from "./layout.ts";
import { Reducer, Segments, smallestSide, type Reduction } from "./reduce.ts";
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

/** A kernel's module text and what it needs. */
export interface Kernel {
  readonly module: ModuleBuilder;
  /** Bytes of scratch that a running kernel needs. */
  readonly scratchBytes: number;
  /** Whether a scale of a whole tensor must be measured before the update. */
  readonly measures: boolean;
  /** Nodes whose values the kernel reads from memory, in the order of their addresses. */
  readonly small: readonly number[];
  /**
   * States with rank-1 scales, of the tensor or of tiles. After the small values
   * come four addresses for each: least old scale of the leading axes by row, old
   * scales of the last axis (or of rows and columns of tiles), and the inverses of
   * the same two of the new scales.
   */
  readonly rank1: readonly number[];
}

/** Names of the states that have a value for each element. */
export const elementStates = (program: Program): readonly string[] =>
  program.states.filter((_, s) => program.stateShapes[s] === "element");

const infiniteTwice = 0xff000000; // bits of Infinity, shifted left by one
const smallestNormal = 0x00800000;
const lanes = [0, 1, 2, 3] as const;

/**
 * Builds the kernel: `update(task, scratch)`, if it measures `measure(task,
 * scratch)`, and for a program with reductions `pass0`, `pass1`, ...
 */
export function buildKernel(spec: KernelSpec): Kernel {
  return new KernelBuilder(spec).build();
}

/** Addresses of one superblock's data, as variables. */
interface Pointers {
  readonly parameter: Local;
  readonly gradient: Local;
  readonly codes: readonly Local[];
  readonly scales: readonly Local[];
  /** Index in the tensor of its first element. */
  readonly first: Local;
}

/** What a function loads once: uniforms, factor, scales of tensors. */
interface Constants {
  readonly uniform: (index: number) => Local;
  readonly factor: Local | undefined;
  /** Old scale of states with one scale a tensor. */
  readonly tensorScale: readonly (Local | undefined)[];
  readonly tensorInverse: readonly (Local | undefined)[];
  readonly keys: readonly (Local | undefined)[];
  /** Of states whose preconditioner is rounded. */
  readonly floors: readonly (Local | undefined)[];
  /** Small values that are one number, by node. */
  readonly single: ReadonlyMap<number, Local>;
}

/** What a run through phase A is for. */
type Aim =
  | { readonly kind: "update" | "measure" }
  | { readonly kind: "pass"; readonly reductions: readonly Reduction[] };

/** Masks of the careful path. */
interface Careful {
  /** Number of elements that count, splat. */
  readonly valid: Local;
  /** Elements left out so far. */
  readonly count: Local;
}

/** Values in memory, by row or column, that are spread over a superblock in scratch. */
interface Spread {
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
interface Rank1State {
  readonly s: number;
  readonly oldRow: number;
  readonly oldLast: number;
  readonly newRow: number;
  readonly newLast: number;
  readonly reductions: readonly Reduction[];
}

type BlockState = { readonly s: number; readonly format: QuantizedFormat };

class KernelBuilder {
  readonly #spec: KernelSpec;
  readonly #module = new ModuleBuilder();
  readonly #math = new MathFunctions(this.#module);
  readonly #block: readonly BlockState[];
  readonly #tensor: readonly BlockState[];
  readonly #size: number;
  /** The new parameter needs old states, so phase A must compute it. */
  readonly #early: boolean;
  /** Values whose bits are watched for what is not finite. */
  readonly #watchGradient: boolean;
  /** States per element. */
  readonly #names: readonly string[];
  readonly #small: readonly number[];
  /** What varies within a superblock and is spread over it. */
  readonly #spreads: Spread[] = [];
  /** Where small values are spread, by node. */
  readonly #spreadAt = new Map<number, number>();
  readonly #rank1: readonly Rank1State[];
  readonly #reducer: Reducer;
  #scratch = 0;
  readonly #rowAt: number[] = [];
  readonly #parameterRow: number;
  readonly #maskRow: number;
  readonly #scaleAt: number[] = [];
  readonly #passes: readonly (readonly Reduction[])[];
  readonly #half: number;
  readonly #touched: number;
  readonly #stage: {
    parameter: number;
    gradient: number;
    codes: number[];
    scales: number[];
    end: number;
  };

  constructor(spec: KernelSpec) {
    this.#spec = spec;
    const { program, formats, check } = spec;
    const quantized = formats.flatMap((format, s) =>
      format.kind === "quantized" ? [{ s, format }] : [],
    );
    this.#block = quantized.filter(({ format }) => format.scale === "block");
    this.#tensor = quantized.filter(({ format }) => format.scale === "tensor");
    this.#names = elementStates(program);
    this.#small = this.#smallNodes();
    const spread = this.#small.filter((node) => program.shapes[node] !== "one");
    const rank1 = quantized.filter(({ format }) => isRankOne(format));
    this.#size = Math.max(
      // Float32 alone needs no phases.
      spread.length + rank1.length > 0 ||
        formats.some(({ bits }) => bits !== 32)
        ? 256
        : 16,
      ...this.#block.map(({ format }) => format.blockSize),
    );
    const p = program.outputs.get("p")!;
    const fresh = new Set(this.#watched());
    this.#early = [...inputsOf(program, [p], fresh)].some((name) =>
      this.#names.includes(name),
    );
    this.#watchGradient = check && !alwaysShows(program);

    const bytes = 4 * this.#size;
    const take = (size: number) => {
      const at = this.#scratch;
      this.#scratch += Math.ceil(size / 16) * 16;
      return at;
    };
    this.#rowAt = formats.map(() => take(bytes));
    this.#parameterRow = take(this.#early ? bytes : 0);
    this.#maskRow = take(bytes);
    this.#scaleAt = formats.map((format) => take(8 * this.#blocksIn(format)));
    // Spreading writes whole vectors, and so up to 12 bytes too many.
    const takeSpread = (
      place: number,
      shape: Spread["shape"],
      tiles: { readonly side?: number } = {},
    ) => {
      const offset = take(bytes + 16);
      this.#spreads.push({ offset, place, shape, ...tiles });
      return offset;
    };
    for (const node of spread)
      this.#spreadAt.set(
        node,
        takeSpread(
          this.#small.indexOf(node),
          program.shapes[node] as Spread["shape"],
        ),
      );
    this.#reducer = new Reducer(this.#module, () => take(bytes));
    this.#rank1 = rank1.map(({ s, format }, i) => {
      const place = this.#small.length + 4 * i;
      const rowAt = this.#reducer.takeRow();
      const tiled = format.scale === "tile";
      const [row, last] = tiled
        ? (["tileRow", "tileColumn"] as const)
        : (["row", "last"] as const);
      const tiles = tiled ? { side: format.blockSize } : {};
      return {
        s,
        oldRow: takeSpread(place, row, tiles),
        oldLast: takeSpread(place + 1, last, tiles),
        newRow: takeSpread(place + 2, row, tiles),
        newLast: takeSpread(place + 3, last, tiles),
        reductions: [row, last].map((over, k) => ({
          ...{ node: -1, operand: -1, maximum: true, over, rowAt, ...tiles },
          place: 2 * i + k,
        })),
      };
    });
    const passes = Array.from({ length: program.passes }, (_, pass) =>
      this.#reducer.plan(program, pass),
    );
    this.#passes = passes;
    this.#half = this.#scratch;
    this.#scratch *= 2;
    this.#touched = take(4);
    this.#stage = {
      parameter: take(bytes),
      gradient: take(bytes),
      codes: formats.map((format) => take(storedBytes(format, this.#size))),
      scales: formats.map((format) => take(4 * this.#blocksIn(format))),
      end: this.#scratch,
    };
  }

  build(): Kernel {
    const careful = this.#carefulFunction({ kind: "update" });
    const update =
      this.#size > 16 ? this.#blockLoop(careful) : this.#floatLoop(careful);
    this.#module.export("update", update);
    const measures = this.#tensor.length + this.#rank1.length > 0;
    const measure = (name: string, aim: Aim) =>
      this.#module.export(name, this.#measureLoop(this.#carefulFunction(aim)));
    if (measures) measure("measure", { kind: "measure" });
    this.#passes.forEach((reductions, pass) =>
      measure(`pass${pass}`, { kind: "pass", reductions }),
    );
    return {
      module: this.#module,
      scratchBytes: this.#scratch,
      measures,
      small: this.#small,
      rank1: this.#rank1.map(({ s }) => s),
    };
  }

  /** Every small node that some function of the kernel reads. */
  #smallNodes(): number[] {
    const { program } = this.#spec;
    const wanted = [
      program.outputs.get("p")!,
      ...this.#watched(),
      ...watchedNodes(program),
      ...Array.from({ length: program.passes }, (_, pass) =>
        reductionsOf(program, pass).map((one) => reducedNode(program, one)),
      ).flat(),
    ];
    return smallNodesOf(program, wanted);
  }

  /** Scales of a state in a superblock. */
  #blocksIn(format: Format): number {
    return format.kind === "quantized" && format.scale === "block"
      ? this.#size / format.blockSize
      : 0;
  }

  #watched(): number[] {
    const { program } = this.#spec;
    return this.#names.map((name) => program.outputs.get(name)!);
  }

  // --- The loop over superblocks -------------------------------------------

  #blockLoop(careful: FunctionBuilder): FunctionBuilder {
    const fn = this.#module.function(["i32", "i32"]);
    const constants = this.#loadConstants(fn);
    const at = this.#loadPointers(fn);
    const before = this.#copyPointers(fn);
    const current = fn.let("i32", fn.parameter(1).get);
    const previous = fn.let("i32", i32.add(current.get, i32.const(this.#half)));
    const spare = fn.local("i32");
    const live = fn.let("i32", i32.const(0));
    const next = fn.local("i32");
    const left = fn.let(
      "i32",
      i32.shr_u(this.#field(fn, task.count), i32.const(Math.log2(this.#size))),
    );
    const all = this.#allPointers(at);
    const allBefore = this.#allPointers(before);
    const turn = fn.capture(() => {
      const phaseA = fn.capture(() => {
        this.#touchAhead(fn, at);
        const worst = this.#phaseA(fn, constants, at, current);
        fn.emit(next.set(i32.const(1)));
        if (this.#spec.check)
          fn.emit(
            when(
              v128.any_true(i32x4.ge_u(worst.get, i32x4.const(infiniteTwice))),
              fn.capture(() => {
                this.#callCareful(
                  fn,
                  careful,
                  at,
                  current,
                  i32.const(this.#size),
                );
                fn.emit(next.set(i32.const(0)));
              }),
            ),
          );
      });
      fn.emit(
        next.set(i32.const(0)),
        when(i32.gt_s(left.get, i32.const(0)), phaseA),
      );
      fn.emit(
        when(
          live.get,
          fn.capture(() => this.#phaseB(fn, constants, before, previous)),
        ),
      );
      fn.emit(
        live.set(next.get),
        ...allBefore.map((pointer, i) => pointer.set(all[i]!.get)),
        spare.set(current.get),
        current.set(previous.get),
        previous.set(spare.get),
      );
      fn.emit(
        when(
          i32.gt_s(left.get, i32.const(0)),
          fn.capture(() => this.#advance(fn, at)),
        ),
      );
    });
    fn.emit([
      0x03,
      0x40,
      ...turn,
      ...i32.ge_s(left.tee(i32.sub(left.get, i32.const(1))), i32.const(0)),
      0x0d,
      0x00,
      0x0b,
    ]);
    this.#tail(fn, careful, at, current);
    return fn;
  }

  /**
   * Reads a word of every cache line of the next superblock, all at once, so
   * that their misses overlap; one by one in the phases they would not.
   * Measured on one Xeon core from memory: 8-bit AdamW 3.6 -> 2.1 ns an element;
   * from cache it costs 4 %. Two or four superblocks ahead are no better, and
   * the float32 loop gains nothing: its reads are regular enough.
   */
  #touchAhead(fn: FunctionBuilder, at: Pointers): void {
    const { formats } = this.#spec;
    const sum = fn.let("i32", i32.const(0));
    const touch = (pointer: Local, bytes: number) => {
      for (let line = 0; line < bytes; line += 64)
        fn.emit(sum.set(i32.xor(sum.get, i32.load(pointer.get, bytes + line))));
    };
    touch(at.gradient, 4 * this.#size);
    touch(at.parameter, 4 * this.#size);
    formats.forEach((format, s) =>
      touch(at.codes[s]!, storedBytes(format, this.#size)),
    );
    fn.emit(i32.store(fn.parameter(1).get, sum.get, this.#touched));
  }

  /** All states float32: no phases, sixteen elements at a time. */
  #floatLoop(careful: FunctionBuilder): FunctionBuilder {
    const fn = this.#module.function(["i32", "i32"]);
    const constants = this.#loadConstants(fn);
    const at = this.#loadPointers(fn);
    const scratch = fn.parameter(1);
    const { program, check } = this.#spec;
    const left = fn.let(
      "i32",
      i32.shr_u(this.#field(fn, task.count), i32.const(4)),
    );
    const body = fn.capture(() => {
      const inputs = new Map<string, Vectors>();
      const input = (name: string) => {
        let vectors = inputs.get(name);
        if (!vectors) {
          const s = this.#names.indexOf(name);
          const pointer =
            name === "p"
              ? at.parameter
              : name === "g"
                ? at.gradient
                : at.codes[s]!;
          vectors = lanes.map((v) => {
            const value = v128.load(pointer.get, 16 * v);
            return fn.let(
              "v128",
              name === "g" && constants.factor
                ? f32x4.mul(value, constants.factor.get)
                : value,
            );
          });
          inputs.set(name, vectors);
        }
        return vectors;
      };
      const p = program.outputs.get("p")!;
      const states = this.#watched();
      const [parameter, ...fresh] = printWasm(
        program,
        [p, ...states, ...(check ? watchedNodes(program) : [])],
        4,
        fn,
        this.#math,
        {
          input,
          uniform: constants.uniform,
          small: (node) => lanes.map(() => constants.single.get(node)!),
        },
      );
      const stored = fresh.slice(0, states.length);
      const write = fn.capture(() => {
        for (const v of lanes) {
          fn.emit(v128.store(at.parameter.get, parameter![v]!.get, 16 * v));
          stored.forEach((vectors, s) =>
            fn.emit(v128.store(at.codes[s]!.get, vectors[v]!.get, 16 * v)),
          );
        }
      });
      if (!check) {
        fn.emit(write);
      } else {
        const watched = [
          ...fresh,
          ...(this.#watchGradient ? [input("g")] : []),
        ];
        const worst = watched
          .flat()
          .map((vector) => i32x4.shl(vector.get, 1))
          .reduce((a, b) => i32x4.max_u(a, b));
        const bad = v128.any_true(
          i32x4.ge_u(worst, i32x4.const(infiniteTwice)),
        );
        const slow = fn.capture(() =>
          this.#callCareful(fn, careful, at, scratch, i32.const(16)),
        );
        fn.emit([...bad, 0x04, 0x40, ...slow, 0x05, ...write, 0x0b]);
      }
      this.#advance(fn, at);
    });
    fn.emit(
      when(left.get, [
        0x03,
        0x40,
        ...body,
        ...left.tee(i32.sub(left.get, i32.const(1))),
        0x0d,
        0x00,
        0x0b,
      ]),
    );
    this.#tail(fn, careful, at, scratch);
    return fn;
  }

  /** Measures with masks throughout: it is the rarer pass, and simple. */
  #measureLoop(careful: FunctionBuilder): FunctionBuilder {
    const fn = this.#module.function(["i32", "i32"]);
    const at = this.#loadPointers(fn);
    const scratch = fn.parameter(1);
    const left = fn.let(
      "i32",
      i32.shr_u(this.#field(fn, task.count), i32.const(Math.log2(this.#size))),
    );
    const body = fn.capture(() => {
      this.#callCareful(fn, careful, at, scratch, i32.const(this.#size));
      this.#advance(fn, at);
    });
    fn.emit(
      when(left.get, [
        0x03,
        0x40,
        ...body,
        ...left.tee(i32.sub(left.get, i32.const(1))),
        0x0d,
        0x00,
        0x0b,
      ]),
    );
    this.#tail(fn, careful, at, scratch);
    return fn;
  }

  /** The last superblock when it is not full: staged in scratch, and masked. */
  #tail(
    fn: FunctionBuilder,
    careful: FunctionBuilder,
    at: Pointers,
    scratch: Local,
  ): void {
    const { formats } = this.#spec;
    const rest = fn.let(
      "i32",
      i32.and(this.#field(fn, task.count), i32.const(this.#size - 1)),
    );
    const base = fn.parameter(1);
    const here = (offset: number) => i32.add(base.get, i32.const(offset));
    const floats = i32.shl(rest.get, i32.const(2));
    const ceiling = (log: number) =>
      i32.shr_u(i32.add(rest.get, i32.const(2 ** log - 1)), i32.const(log));
    const pieces: { real: Code; staged: Code; bytes: Code; back: boolean }[] = [
      {
        real: at.parameter.get,
        staged: here(this.#stage.parameter),
        bytes: floats,
        back: true,
      },
      {
        real: at.gradient.get,
        staged: here(this.#stage.gradient),
        bytes: floats,
        back: false,
      },
      ...formats.flatMap((format, s) => {
        const codes = {
          real: at.codes[s]!.get,
          staged: here(this.#stage.codes[s]!),
          bytes:
            format.kind === "float"
              ? i32.shl(rest.get, i32.const(Math.log2(format.bits / 8)))
              : ceiling(Math.log2(8 / storedBits(format.bits))),
          back: true,
        };
        if (format.kind === "float" || format.scale !== "block") return [codes];
        return [
          codes,
          {
            real: at.scales[s]!.get,
            staged: here(this.#stage.scales[s]!),
            bytes: i32.shl(ceiling(Math.log2(format.blockSize)), i32.const(2)),
            back: true,
          },
        ];
      }),
    ];
    fn.emit(
      when(
        rest.get,
        fn.capture(() => {
          fn.emit(
            memoryFill(
              here(this.#stage.parameter),
              i32.const(0),
              i32.const(this.#stage.end - this.#stage.parameter),
            ),
          );
          for (const { real, staged, bytes } of pieces)
            fn.emit(memoryCopy(staged, real, bytes));
          const staged: Pointers = {
            parameter: fn.let("i32", here(this.#stage.parameter)),
            gradient: fn.let("i32", here(this.#stage.gradient)),
            codes: this.#stage.codes.map((offset) =>
              fn.let("i32", here(offset)),
            ),
            scales: formats.map((format, s) =>
              format.kind === "quantized" && format.scale === "block"
                ? fn.let("i32", here(this.#stage.scales[s]!))
                : at.scales[s]!,
            ),
            first: at.first,
          };
          this.#callCareful(fn, careful, staged, scratch, rest.get);
          for (const { real, staged: copy, bytes, back } of pieces)
            if (back) fn.emit(memoryCopy(real, copy, bytes));
        }),
      ),
    );
  }

  // --- The careful path -----------------------------------------------------

  /** One superblock with masks: (task, scratch, parameter, gradient, first, valid, codes..., scales...). */
  #carefulFunction(aim: Aim): FunctionBuilder {
    const { formats } = this.#spec;
    const n = formats.length;
    const fn = this.#module.function(
      Array.from({ length: 6 + 2 * n }, () => "i32" as const),
    );
    const constants = this.#loadConstants(fn);
    const at: Pointers = {
      parameter: fn.parameter(2),
      gradient: fn.parameter(3),
      first: fn.parameter(4),
      codes: formats.map((_, s) => fn.parameter(6 + s)),
      scales: formats.map((_, s) => fn.parameter(6 + n + s)),
    };
    const scratch = fn.parameter(1);
    const careful: Careful = {
      valid: fn.let("v128", i32x4.splat(fn.parameter(5).get)),
      count: fn.let("i32", i32.const(0)),
    };
    this.#phaseA(fn, constants, at, scratch, careful, aim);
    if (aim.kind === "pass")
      this.#reducer.accumulate(fn, aim.reductions, {
        scratch,
        first: at.first,
        valid: fn.parameter(5),
      });
    if (aim.kind === "measure")
      this.#reducer.accumulate(
        fn,
        this.#rank1.flatMap(({ reductions }) => reductions),
        { scratch, first: at.first, valid: fn.parameter(5) },
      );
    if (aim.kind === "update") {
      this.#phaseB(fn, constants, at, scratch, careful);
      const record = fn.parameter(0).get;
      fn.emit(
        i32.store(
          record,
          i32.add(i32.load(record, task.nonFinite), careful.count.get),
          task.nonFinite,
        ),
      );
    }
    return fn;
  }

  #callCareful(
    fn: FunctionBuilder,
    careful: FunctionBuilder,
    at: Pointers,
    scratch: Local,
    valid: Code,
  ): void {
    fn.emit(
      fn.call(
        careful,
        fn.parameter(0).get,
        scratch.get,
        at.parameter.get,
        at.gradient.get,
        at.first.get,
        valid,
        ...at.codes.map((one) => one.get),
        ...at.scales.map((one) => one.get),
      ),
    );
  }

  // --- Phase A ---------------------------------------------------------------

  /**
   * New states into scratch, scales and their reciprocals beside them.
   *
   * @param measure only take the largest magnitudes of tensor-wide states.
   * @returns the largest bits (shifted left by one) seen in what is watched.
   */
  #phaseA(
    fn: FunctionBuilder,
    constants: Constants,
    at: Pointers,
    scratch: Local,
    careful?: Careful,
    aim: Aim = { kind: "update" },
  ): Local {
    const { program, formats, tables, check } = this.#spec;
    const measure = aim.kind !== "update";
    this.#spread(fn, scratch, at.first);
    const gradient = fn.let("i32", at.gradient.get);
    const parameter = fn.let("i32", at.parameter.get);
    const codes = at.codes.map((pointer) => fn.let("i32", pointer.get));
    const row = fn.let("i32", scratch.get);
    const scales = at.scales.map((pointer) => fn.let("i32", pointer.get));
    const written = formats.map(() => fn.let("i32", scratch.get));
    const worst = fn.let("v128", i32x4.const(0));
    const largest = formats.map(() => fn.let("v128", i32x4.const(0)));
    const scale = formats.map(
      (_, s) => constants.tensorScale[s] ?? fn.local("v128"),
    );
    const index = careful ? fn.let("v128", i32x4.const(0, 1, 2, 3)) : undefined;
    const states = this.#watched();
    const p = program.outputs.get("p")!;
    const watched = check && !measure ? watchedNodes(program) : [];
    const wanted =
      aim.kind === "pass"
        ? aim.reductions.map(({ operand }) => operand)
        : [...states, ...watched, ...(this.#early ? [p] : [])];
    const reads = inputsOf(program, wanted);
    const masksStates = careful && aim.kind !== "pass";
    const totals =
      aim.kind === "pass" ? this.#reducer.begin(fn, aim.reductions) : undefined;

    const turn = () => {
      const decoded = formats.map((format, s) =>
        emitDecode(fn, format, tables[s], codes[s]!.get),
      );
      // Two vectors at a time: four would not fit the registers.
      for (const pair of [0, 2]) {
        const side = [pair, pair + 1];
        const inputs = new Map<string, Vectors>();
        formats.forEach((format, s) => {
          const name = this.#names[s]!;
          if (!reads.has(name) && !masksStates) return;
          inputs.set(
            name,
            side.map((v) =>
              fn.let(
                "v128",
                format.kind === "float"
                  ? decoded[s]![v]!
                  : f32x4.mul(
                      decoded[s]![v]!,
                      this.#rank1Scale(s, "old", row, v) ?? scale[s]!.get,
                    ),
              ),
            ),
          );
        });
        const load = (pointer: Local, factor?: Local): Vectors =>
          side.map((v) => {
            const value = v128.load(pointer.get, 16 * v);
            return fn.let(
              "v128",
              factor ? f32x4.mul(value, factor.get) : value,
            );
          });
        const watch = careful ? check : this.#watchGradient;
        if (reads.has("g") || watch)
          inputs.set("g", load(gradient, constants.factor));
        if (reads.has("p")) inputs.set("p", load(parameter));
        const results = printWasm(program, wanted, 2, fn, this.#math, {
          input: (name) => inputs.get(name)!,
          uniform: constants.uniform,
          small: (node) => this.#smallVectors(fn, constants, node, row, side),
        });
        side.forEach((v, i) => {
          if (aim.kind === "pass") {
            this.#reducer.take(fn, aim.reductions, totals!, {
              values: results.map((vectors) => vectors[i]!),
              gradient: check ? inputs.get("g")![i]! : undefined,
              inside: i32x4.lt_s(index!.get, careful!.valid.get),
              row,
              offset: 16 * v,
            });
            fn.emit(index!.set(i32x4.add(index!.get, i32x4.const(4))));
            return;
          }
          let fresh = results
            .slice(0, states.length)
            .map((vectors) => vectors[i]!);
          const others = results
            .slice(states.length, states.length + watched.length)
            .map((vectors) => vectors[i]!);
          if (careful)
            fresh = this.#mask(
              fn,
              careful,
              fresh,
              others,
              inputs,
              i,
              index!,
              row,
              v,
            );
          else
            for (const value of others)
              fn.emit(
                worst.set(i32x4.max_u(worst.get, i32x4.shl(value.get, 1))),
              );
          for (const { s, reductions } of measure ? this.#rank1 : [])
            fn.emit(
              v128.store(
                row.get,
                f32x4.abs(fresh[s]!.get),
                reductions[0]!.rowAt + 16 * v,
              ),
            );
          fresh.forEach((vector, s) => {
            if (!measure)
              fn.emit(
                v128.store(row.get, vector.get, this.#rowAt[s]! + 16 * v),
              );
            const twice = i32x4.shl(vector.get, 1);
            fn.emit(largest[s]!.set(i32x4.max_u(largest[s]!.get, twice)));
          });
          if (this.#watchGradient && !careful)
            fn.emit(
              worst.set(
                i32x4.max_u(worst.get, i32x4.shl(inputs.get("g")![i]!.get, 1)),
              ),
            );
          if (this.#early && !measure)
            fn.emit(
              v128.store(
                row.get,
                results.at(-1)![i]!.get,
                this.#parameterRow + 16 * v,
              ),
            );
          if (index) fn.emit(index.set(i32x4.add(index.get, i32x4.const(4))));
        });
      }
      fn.emit(
        gradient.bump(64),
        ...(reads.has("p") ? [parameter.bump(64)] : []),
        ...codes.map((pointer, s) =>
          pointer.bump(storedBytes(formats[s]!, 16)),
        ),
        row.bump(64),
      );
    };
    const begin = ({ s }: BlockState) => {
      fn.emit(
        scale[s]!.set(v128.load32_splat(scales[s]!.get)),
        scales[s]!.bump(4),
        largest[s]!.set(i32x4.const(0)),
      );
    };
    const finish = ({ s }: BlockState) => {
      const x = largest[s]!;
      if (check && !careful) fn.emit(worst.set(i32x4.max_u(worst.get, x.get)));
      if (measure) return;
      const { value, inverse } = scaleOf(fn, this.#widest(fn, x));
      const offset = this.#scaleAt[s]!;
      fn.emit(
        v128.store32_lane(written[s]!.get, value, 0, offset),
        v128.store32_lane(written[s]!.get, inverse, 0, offset + 4),
        written[s]!.bump(8),
      );
    };
    this.#blocks(fn, turn, begin, finish);
    if (aim.kind === "pass") {
      this.#reducer.finish(fn, aim.reductions, totals!);
      return worst;
    }
    formats.forEach((format, s) => {
      if (format.kind === "quantized" && format.scale === "block") return;
      if (check && !careful)
        fn.emit(worst.set(i32x4.max_u(worst.get, largest[s]!.get)));
      if (measure && format.kind === "quantized" && format.scale === "tensor") {
        const record = fn.parameter(0).get;
        const offset = this.#stateField(s, taskState.largest);
        fn.emit(
          v128.store32_lane(
            record,
            this.#widest(
              fn,
              fn.let(
                "v128",
                i32x4.max_u(largest[s]!.get, v128.load32_splat(record, offset)),
              ),
            ).get,
            0,
            offset,
          ),
        );
      }
    });
    return worst;
  }

  /** Old values where an element is left out, 0 beyond the last; the mask into scratch. */
  #mask(
    fn: FunctionBuilder,
    careful: Careful,
    fresh: readonly Local[],
    others: readonly Local[],
    inputs: ReadonlyMap<string, Vectors>,
    i: number,
    index: Local,
    row: Local,
    v: number,
  ): Local[] {
    const { check } = this.#spec;
    const inside = fn.let("v128", i32x4.lt_s(index.get, careful.valid.get));
    const out = fn.let("v128", i32x4.const(0));
    if (check) {
      const notFinite = (value: Local) =>
        i32x4.ge_u(i32x4.shl(value.get, 1), i32x4.const(infiniteTwice));
      for (const value of [inputs.get("g")![i]!, ...fresh, ...others])
        fn.emit(out.set(v128.or(out.get, notFinite(value))));
      fn.emit(
        out.set(v128.and(out.get, inside.get)),
        careful.count.set(
          i32.add(careful.count.get, i32.popcnt(i32x4.bitmask(out.get))),
        ),
      );
    }
    fn.emit(v128.store(row.get, out.get, this.#maskRow + 16 * v));
    return fresh.map((value, s) =>
      fn.let(
        "v128",
        v128.and(
          inside.get,
          v128.bitselect(
            inputs.get(this.#names[s]!)![i]!.get,
            value.get,
            out.get,
          ),
        ),
      ),
    );
  }

  // --- Phase B ---------------------------------------------------------------

  /** New parameter and codes, from the new states in scratch. */
  #phaseB(
    fn: FunctionBuilder,
    constants: Constants,
    at: Pointers,
    scratch: Local,
    careful?: Careful,
  ): void {
    const { program, formats, tables } = this.#spec;
    const parameter = fn.let("i32", at.parameter.get);
    const gradient = fn.let("i32", at.gradient.get);
    const codes = at.codes.map((pointer) => fn.let("i32", pointer.get));
    const scales = at.scales.map((pointer) => fn.let("i32", pointer.get));
    const row = fn.let("i32", scratch.get);
    const written = formats.map(() => fn.let("i32", scratch.get));
    const inverse = formats.map(
      (_, s) => constants.tensorInverse[s] ?? fn.local("v128"),
    );
    const index = formats.some(isStochastic)
      ? fn.let(
          "v128",
          i32x4.add(i32x4.splat(at.first.get), i32x4.const(0, 1, 2, 3)),
        )
      : undefined;
    const corrections = formats.map((format): Correction | undefined =>
      format.kind === "quantized" && format.correctScale
        ? { squares: fn.local("v128"), products: fn.local("v128") }
        : undefined,
    );
    const p = program.outputs.get("p")!;
    const states = this.#watched();
    const reads = this.#early
      ? new Set(["p"])
      : inputsOf(program, [p], new Set(states));

    const turn = () => {
      const fromRow = (offset: number): Vectors =>
        lanes.map((v) => fn.let("v128", v128.load(row.get, offset + 16 * v)));
      const fresh = formats.map((_, s) => fromRow(this.#rowAt[s]!));
      const load = (pointer: Local, factor?: Local): Vectors =>
        lanes.map((v) => {
          const value = v128.load(pointer.get, 16 * v);
          return fn.let("v128", factor ? f32x4.mul(value, factor.get) : value);
        });
      const old = reads.has("p") || careful ? load(parameter) : undefined;
      const g = reads.has("g") ? load(gradient, constants.factor) : undefined;
      let updated = this.#early
        ? fromRow(this.#parameterRow)
        : printWasm(
            program,
            [p],
            4,
            fn,
            this.#math,
            {
              input: (name) => (name === "p" ? old! : g!),
              uniform: constants.uniform,
              small: (node) =>
                this.#smallVectors(fn, constants, node, row, lanes),
            },
            new Map(states.map((node, s) => [node, fresh[s]!])),
          )[0]!;
      if (careful)
        updated = updated.map((vector, v) =>
          fn.let(
            "v128",
            v128.bitselect(
              old![v]!.get,
              vector.get,
              v128.load(row.get, this.#maskRow + 16 * v),
            ),
          ),
        );
      for (const v of lanes)
        fn.emit(v128.store(parameter.get, updated[v]!.get, 16 * v));
      formats.forEach((format, s) => {
        if (format.kind === "float") {
          emitStore(fn, format, fresh[s]!, codes[s]!.get, randomOf(s));
          return;
        }
        const inverses = lanes.map(
          (v) => this.#rank1Scale(s, "new", row, v) ?? inverse[s]!.get,
        );
        const x = fresh[s]!.map((vector, v) =>
          fn.let("v128", f32x4.mul(vector.get, inverses[v]!)),
        );
        const random = randomOf(s);
        const floor = constants.floors[s];
        emitEncode(
          fn,
          tables[s]!,
          x,
          codes[s]!.get,
          random && floor
            ? {
                ...random,
                floors: inverses.map((one) =>
                  fn.let("v128", f32x4.mul(floor.get, f32x4.sqrt(one))),
                ),
              }
            : random,
          corrections[s],
        );
      });
      fn.emit(
        parameter.bump(64),
        ...(g ? [gradient.bump(64)] : []),
        ...codes.map((pointer, s) =>
          pointer.bump(storedBytes(formats[s]!, 16)),
        ),
        row.bump(64),
        ...(index ? [index.set(i32x4.add(index.get, i32x4.const(16)))] : []),
      );
    };
    const randomOf = (s: number): Randomness | undefined =>
      isStochastic(formats[s]!)
        ? { key: constants.keys[s]!, index: index! }
        : undefined;
    const begin = ({ s }: BlockState) => {
      const offset = this.#scaleAt[s]!;
      fn.emit(
        v128.store32_lane(
          scales[s]!.get,
          v128.load32_zero(written[s]!.get, offset),
          0,
        ),
        inverse[s]!.set(v128.load32_splat(written[s]!.get, offset + 4)),
        scales[s]!.bump(4),
        written[s]!.bump(8),
      );
      for (const sum of Object.values(corrections[s] ?? {}))
        fn.emit((sum as Local).set(i32x4.const(0)));
    };
    const correct = (s: number) => {
      const correction = corrections[s];
      if (!correction) return;
      // The scale was written when its block began.
      const at = fn.let("i32", i32.sub(scales[s]!.get, i32.const(4)));
      const scale = fn.let("v128", v128.load32_splat(at.get));
      fn.emit(
        v128.store32_lane(at.get, emitCorrected(fn, scale, correction), 0),
      );
    };
    const zeros = (s: number, format: QuantizedFormat, elements: number) => {
      const table = tables[s]!;
      if (!table.fillZeros) return;
      const bytes = storedBytes(format, elements);
      fn.emit(
        when(
          i32.eqz(v128.any_true(inverse[s]!.get)),
          memoryFill(
            i32.sub(codes[s]!.get, i32.const(bytes)),
            i32.const(table.zeroByte),
            i32.const(bytes),
          ),
        ),
      );
    };
    this.#blocks(fn, turn, begin, ({ s, format }) => {
      zeros(s, format, format.blockSize);
      correct(s);
    });
    for (const { s, format } of this.#tensor) zeros(s, format, this.#size);
  }

  // --- Small values ------------------------------------------------------------

  #smallVectors(
    fn: FunctionBuilder,
    constants: Constants,
    node: number,
    row: Local,
    side: readonly number[],
  ): Vectors {
    const single = constants.single.get(node);
    if (single) return side.map(() => single);
    const offset = this.#spreadAt.get(node)!;
    return side.map((v) => fn.let("v128", v128.load(row.get, offset + 16 * v)));
  }

  /** The scale of four elements, or the inverse of the new one: the largest of the inverses. */
  #rank1Scale(
    s: number,
    which: "old" | "new",
    row: Local,
    v: number,
  ): Code | undefined {
    const state = this.#rank1.find((one) => one.s === s);
    if (!state) return undefined;
    const load = (offset: number) => v128.load(row.get, offset + 16 * v);
    return which === "old"
      ? f32x4.pmin(load(state.oldRow), load(state.oldLast))
      : f32x4.pmax(load(state.newRow), load(state.newLast));
  }

  /** Calls the function that spreads values of rows and columns over a superblock. */
  #spread(fn: FunctionBuilder, scratch: Local, first: Local): void {
    if (this.#spreads.length === 0) return;
    this.#spreader ??= this.#makeSpreader();
    fn.emit(
      fn.call(this.#spreader, fn.parameter(0).get, scratch.get, first.get),
    );
  }
  #spreader: FunctionBuilder | undefined;

  /** spread(task, scratch, first): segment by segment, each inside one row. */
  #makeSpreader(): FunctionBuilder {
    const fn = this.#module.function(["i32", "i32", "i32"]);
    const [scratch, first] = [fn.parameter(1), fn.parameter(2)];
    const addresses = fn.let("i32", this.#field(fn, task.small));
    const segment = new Segments(
      fn,
      first,
      i32.const(this.#size),
      smallestSide(this.#spreads),
    );
    fn.emit(
      segment.loop(() => {
        const target = fn.let(
          "i32",
          i32.add(scratch.get, i32.shl(segment.done.get, i32.const(2))),
        );
        for (const { offset, place, shape, side } of this.#spreads) {
          const base = i32.load(addresses.get, 4 * place);
          const at = (index: Code) =>
            i32.add(base, i32.shl(index, i32.const(2)));
          const moving = ["column", "last", "tileColumn"].includes(shape);
          const source = fn.let("i32", at(segment.index(shape, side)));
          const to = fn.let("i32", target.get);
          const end = fn.let(
            "i32",
            i32.add(to.get, i32.shl(segment.length.get, i32.const(2))),
          );
          const value = moving
            ? v128.load(source.get)
            : fn.let("v128", v128.load32_splat(source.get)).get;
          fn.emit(
            doWhile(
              [
                ...v128.store(to.get, value, offset),
                ...to.bump(16),
                ...(moving ? source.bump(16) : []),
              ],
              i32.lt_u(to.get, end.get),
            ),
          );
        }
      }),
    );
    return fn;
  }

  // --- Pieces ----------------------------------------------------------------

  /** Nested loops: turns of 16 elements inside blocks, small blocks inside large ones. */
  #blocks(
    fn: FunctionBuilder,
    turn: () => void,
    begin: (state: BlockState) => void,
    finish: (state: BlockState) => void,
  ): void {
    const sizes = [
      ...new Set([
        ...this.#block.map(({ format }) => format.blockSize),
        this.#size,
      ]),
    ].sort((a, b) => a - b);
    const level = (k: number): void => {
      const size = sizes[k]!;
      const mine = this.#block.filter(
        ({ format }) => format.blockSize === size,
      );
      mine.forEach(begin);
      if (k === 0) fn.repeat(size / 16, turn);
      else fn.repeat(size / sizes[k - 1]!, () => level(k - 1));
      mine.forEach(finish);
    };
    level(sizes.length - 1);
  }

  /** The largest of the four lanes, in all of them. */
  #widest(fn: FunctionBuilder, x: Local): Local {
    for (const order of [
      [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7],
      [4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11],
    ])
      fn.emit(x.set(i32x4.max_u(x.get, i8x16.shuffle(x.get, x.get, order))));
    return x;
  }

  #loadConstants(fn: FunctionBuilder): Constants {
    const { program, formats, clip } = this.#spec;
    const uniforms = fn.let("i32", this.#field(fn, task.uniforms));
    const splat = (pointer: Code, offset = 0) =>
      fn.let("v128", v128.load32_splat(pointer, offset));
    const loaded = Array.from({ length: program.uniformCount }, (_, i) =>
      splat(uniforms.get, 4 * i),
    );
    const record = fn.parameter(0).get;
    const ofTensor = (s: number, make: () => Local) =>
      this.#tensor.some((one) => one.s === s) ? make() : undefined;
    return {
      uniform: (index) => loaded[index]!,
      factor: clip ? splat(record, task.factor) : undefined,
      tensorScale: formats.map((_, s) =>
        ofTensor(s, () =>
          splat(i32.load(record, this.#stateField(s, taskState.scales))),
        ),
      ),
      tensorInverse: formats.map((_, s) =>
        ofTensor(s, () =>
          splat(record, this.#stateField(s, taskState.inverse)),
        ),
      ),
      keys: formats.map((format, s) =>
        isStochastic(format)
          ? splat(record, this.#stateField(s, taskState.key))
          : undefined,
      ),
      floors: formats.map((format, s) =>
        format.rounding === "preconditioner"
          ? splat(record, this.#stateField(s, taskState.floor))
          : undefined,
      ),
      single: new Map(
        this.#small.flatMap((node, i) =>
          program.shapes[node] === "one"
            ? [
                [
                  node,
                  splat(i32.load(this.#field(fn, task.small), 4 * i)),
                ] as const,
              ]
            : [],
        ),
      ),
    };
  }

  #loadPointers(fn: FunctionBuilder): Pointers {
    const { formats } = this.#spec;
    const load = (offset: number) => fn.let("i32", this.#field(fn, offset));
    return {
      parameter: load(task.parameter),
      gradient: load(task.gradient),
      first: load(task.first),
      codes: formats.map((_, s) => load(this.#stateField(s, taskState.codes))),
      scales: formats.map((_, s) =>
        load(this.#stateField(s, taskState.scales)),
      ),
    };
  }

  #copyPointers(fn: FunctionBuilder): Pointers {
    const { formats } = this.#spec;
    const make = () => fn.local("i32");
    return {
      parameter: make(),
      gradient: make(),
      first: make(),
      codes: formats.map(make),
      scales: formats.map(make),
    };
  }

  #allPointers(at: Pointers): Local[] {
    return [at.parameter, at.gradient, at.first, ...at.codes, ...at.scales];
  }

  /** Moves to the next superblock. */
  #advance(fn: FunctionBuilder, at: Pointers): void {
    const { formats } = this.#spec;
    fn.emit(
      at.parameter.bump(4 * this.#size),
      at.gradient.bump(4 * this.#size),
      at.first.bump(this.#size),
      ...at.codes.map((pointer, s) =>
        pointer.bump(storedBytes(formats[s]!, this.#size)),
      ),
      ...at.scales.map((pointer, s) =>
        pointer.bump(4 * this.#blocksIn(formats[s]!)),
      ),
    );
  }

  #field(fn: FunctionBuilder, offset: number): Code {
    return i32.load(fn.parameter(0).get, offset);
  }

  #stateField(s: number, offset: number): number {
    return task.states + s * taskStateBytes + offset;
  }
}

/** Scale and its reciprocal from the largest bits shifted left by one; 0 and 0 below the normals. */
function scaleOf(
  fn: FunctionBuilder,
  twice: Local,
): { value: Code; inverse: Code } {
  const bits = fn.let("v128", i32x4.shr_u(twice.get, 1));
  const counts = fn.let(
    "v128",
    i32x4.ge_u(bits.get, i32x4.const(smallestNormal)),
  );
  return {
    value: v128.and(bits.get, counts.get),
    inverse: v128.and(f32x4.div(f32x4.const(1), bits.get), counts.get),
  };
}

const isStochastic = (format: Format): boolean => format.rounding !== "nearest";
