/**
 * The WebAssembly engine: SIMD kernels generated from formula and formats, on
 * one thread or several. States live in one memory that is made with the right
 * size and never grows; parameters and gradients that live elsewhere pass
 * through staging areas, a chunk at a time.
 */
import { fromBfloat16, toBfloat16 } from "../../formats/bfloat16.ts";
import {
  scaleCount,
  type Format,
  type QuantizedFormat,
} from "../../formats/format.ts";
import {
  codeBytes,
  packCodes,
  storedBits,
  unpackCodes,
} from "../../formats/pack.ts";
import {
  inverseScale,
  smallestScale,
  storedScale,
} from "../../formats/quantize.ts";
import {
  leadingScales,
  leadingSpread,
  rank1Count,
} from "../../formats/rank1.ts";
import type { ModuleBuilder } from "../../formula/assembler.ts";
import { reductionsOf, type Program } from "../../formula/program.ts";
import {
  geometryOf,
  shapeLength,
  SmallValues,
  type Geometry,
} from "../../formula/small.ts";
import {
  clipFactor,
  stateLength,
  type Engine,
  type EngineOptions,
  type Session,
  type StepInput,
  type StepReport,
  type StepTensor,
  type StoredState,
  type TensorPlan,
} from "../engine.ts";
import { planTables, storedBytes, type Tables } from "./codec.ts";
import { buildKernel, elementStates } from "./kernel.ts";
import {
  Arena,
  mostReductions,
  task,
  taskBytes,
  taskState,
  taskStateBytes,
} from "./layout.ts";
import { canShare, controlBytes, createPool, type Pool } from "./pool.ts";
import { buildStatistics } from "./statistics.ts";

/** Elements of a task; a multiple of every block size. */
const chunk = 32768;
const pageBytes = 65536;
const mostPages = 65536;
/** Fewer elements than this are not worth waking a thread. */
const worthThreads = 1 << 17;

/** Where a state lies. */
interface PlacedState {
  readonly format: Format;
  readonly codes: number;
  readonly scales: number;
}

/** Where a tensor's data lies; an address of 0 means elsewhere, to be staged. */
interface Placed {
  readonly plan: TensorPlan;
  readonly kernels: Kernels;
  readonly parameterAt: number;
  readonly gradientAt: number;
  /** The states per element, in the order of the kernel. */
  readonly states: readonly PlacedState[];
  /** The states that are not per element, by name. */
  readonly smallStates: Map<string, Float32Array<ArrayBuffer>>;
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
interface PlacedRank1 {
  readonly s: number;
  readonly oldRow: number;
  readonly oldLast: number;
  readonly newRow: number;
  readonly newLast: number;
}

/** Numbers of the kernels of a program and its formats, as the pool knows them. */
interface Kernels {
  readonly update: number;
  readonly measure: number | undefined;
  readonly passes: readonly number[];
  /** Nodes whose values the kernels read from memory. */
  readonly small: readonly number[];
  /** States with rank-1 scales. */
  readonly rank1: readonly number[];
}

/** Kernels by what they are generated for, numbered as the pool knows them. */
interface KernelSet {
  readonly modules: { readonly module: ModuleBuilder; readonly name: string }[];
  readonly byKey: Map<string, Kernels>;
  scratchBytes: number;
}

function supportsSimd(): boolean {
  // (func (result v128) i32.const 0 i8x16.splat)
  return WebAssembly.validate(
    Uint8Array.of(
      ...[0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3],
      ...[2, 1, 0, 10, 8, 1, 6, 0, 65, 0, 253, 15, 11],
    ),
  );
}

export const wasmEngine: Engine = { name: "wasm", createSession };

async function createSession(
  plans: readonly TensorPlan[],
  options: EngineOptions,
): Promise<Session> {
  if (typeof WebAssembly !== "object" || !supportsSimd())
    throw new Error(
      "wasm: this machine has no WebAssembly with SIMD; pass { device: 'reference' } for the plain engine",
    );
  const elements = plans.reduce((sum, plan) => sum + plan.size, 0);
  const threads = chooseThreads(elements, options);
  const arena = new Arena(pageBytes);
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

  const placed = plans.map((plan, i): Placed => {
    const own = options.resident || plan.parameter === undefined;
    const { program } = plan;
    const geometry = geometryOf(plan.shape);
    const { small, rank1 } = chosen[i]!;
    const vector = (length: number) => arena.take(4 * length + 16);
    const rows = geometry.matrices * geometry.rows;
    const perElement = program.states.flatMap((_, s) =>
      program.stateShapes[s] === "element" ? [s] : [],
    );
    return {
      plan,
      kernels: chosen[i]!,
      geometry,
      smallStates: new Map(
        program.states.flatMap((name, s) =>
          perElement.includes(s)
            ? []
            : [[name, new Float32Array(stateLength(plan, s))] as const],
        ),
      ),
      smallAt: arena.take(4 * (small.length + 4 * rank1.length)),
      rank1: rank1.map((s) => ({
        s,
        oldRow: vector(rows),
        oldLast: vector(geometry.columns),
        newRow: vector(rows),
        newLast: vector(geometry.columns),
      })),
      // Kernels read whole vectors, and so up to 12 bytes past the end.
      smallValues: new Map(
        small.map((node) => [
          node,
          arena.take(4 * shapeLength(program.shapes[node]!, geometry) + 16),
        ]),
      ),
      parameterAt: own ? arena.take(4 * plan.size) : 0,
      gradientAt: options.resident ? arena.take(4 * plan.size) : 0,
      states: perElement
        .map((s) => plan.formats[s]!)
        .map((format) => ({
          format,
          codes: arena.take(storageBytes(format, plan.size)),
          scales: arena.take(4 * scaleCount(format, plan.size, plan.shape)),
        })),
      tasks: Math.ceil(plan.size / chunk),
    };
  });

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
  const most = Math.max(
    1,
    slots.length,
    placed.reduce((sum, one) => sum + one.tasks, 0),
  );
  const tasks = arena.take(stride * most);
  const most32 = (count: (one: Placed) => number) =>
    Math.max(0, ...placed.map(count));
  // Sums by row and by column, of one tensor at a time.
  const sums = {
    table: arena.take(4 * mostReductions),
    bytes: most32(
      ({ plan, geometry, kernels }) =>
        8 *
        Math.max(
          0,
          kernels.rank1.length *
            (geometry.matrices * geometry.rows + geometry.columns),
          ...Array.from({ length: plan.program.passes }, (_, pass) =>
            accumulatedLength(plan.program, pass, geometry),
          ),
        ),
    ),
    at: 0,
  };
  sums.at = arena.take(sums.bytes);
  const uniforms = plans.map((plan) =>
    arena.take(4 * plan.program.uniformCount),
  );

  // A page more: kernels look ahead of what they work on.
  const pages = Math.ceil(arena.top / pageBytes) + 1;
  const memory = makeMemory(pages, threads > 1);
  const shape = { initial: pages, maximum: pages, shared: threads > 1 };
  for (const { contents } of tables.values())
    for (const { at, bytes } of contents)
      new Uint8Array(memory.buffer).set(bytes, at);
  const compiled = new Map<ModuleBuilder, Promise<WebAssembly.Module>>();
  for (const { module } of kernels.modules)
    if (!compiled.has(module))
      compiled.set(module, WebAssembly.compile(module.bytes(shape)));
  const modules = await Promise.all(
    kernels.modules.map(({ module }) => compiled.get(module)!),
  );
  const pool = await createPool({
    memory,
    control,
    scratch,
    modules,
    names: kernels.modules.map(({ name }) => name),
  });
  return new WasmSession({
    placed,
    options,
    memory,
    pool,
    slots,
    tasks,
    stride,
    uniforms,
    tables,
    sums,
    workspace:
      tablesEnd -
      pageBytes +
      slots.length * 8 * largest +
      stride * most +
      sums.bytes +
      plans.reduce((sum, plan) => sum + 4 * plan.program.uniformCount, 0),
  });
}

function chooseThreads(elements: number, options: EngineOptions): number {
  const { threads } = options;
  if (threads === 1 || !canShare()) return 1;
  if (threads !== undefined) return threads;
  const cores =
    typeof navigator === "object" && navigator.hardwareConcurrency
      ? navigator.hardwareConcurrency
      : 1;
  // Staged data is copied by one thread, into shared memory at less than half
  // the speed: there threads only pay with several cores and much to do.
  const floor = options.resident ? worthThreads : 8 * worthThreads;
  const wanted =
    elements < floor || (!options.resident && cores < 4) ? 1 : cores;
  return Math.min(wanted, 8);
}

function makeMemory(pages: number, shared: boolean): WebAssembly.Memory {
  const bytes = pages * pageBytes;
  const size = `${(bytes / 2 ** 20).toFixed(0)} MiB`;
  if (pages > mostPages)
    throw new RangeError(
      `wasm: the states need ${size}, and a WebAssembly memory holds 4096 MiB at most; use fewer bits, or several optimizers`,
    );
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
  } catch (error) {
    throw new RangeError(
      `wasm: a memory of ${size} for the states could not be had; use fewer bits or close other programs`,
      { cause: error },
    );
  }
}

/** Builds the kernel for a tensor's program and formats, or finds it. */
function kernelFor(
  plan: TensorPlan,
  { skip, clip }: EngineOptions,
  arena: Arena,
  tables: Map<string, Tables>,
  kernels: KernelSet,
): Kernels {
  const { program } = plan;
  const formats = elementStates(program).map(
    (name) => plan.formats[program.states.indexOf(name)]!,
  );
  const formatKeys = formats.map(formatKey);
  const key = JSON.stringify([programNumber(plan.program), formatKeys]);
  const known = kernels.byKey.get(key);
  if (known) return known;
  const mine = formats.map((format) => {
    if (format.kind === "float") return undefined;
    const tableKey = tablesKey(format);
    let made = tables.get(tableKey);
    if (!made) tables.set(tableKey, (made = planTables(format, arena)));
    return { ...made, format };
  });
  const kernel = buildKernel({
    program,
    formats,
    tables: mine,
    check: skip !== "off",
    clip,
  });
  const add = (name: string) =>
    kernels.modules.push({ module: kernel.module, name }) - 1;
  const made = {
    update: add("update"),
    measure: kernel.measures ? add("measure") : undefined,
    passes: Array.from({ length: program.passes }, (_, pass) =>
      add(`pass${pass}`),
    ),
    small: kernel.small,
    rank1: kernel.rank1,
  };
  kernels.scratchBytes = Math.max(kernels.scratchBytes, kernel.scratchBytes);
  kernels.byKey.set(key, made);
  return made;
}

/** Bytes of a state's codes, or of its float32 or bfloat16 values. */
const storageBytes = (format: Format, size: number): number =>
  format.kind === "float"
    ? (format.bits / 8) * size
    : codeBytes(format.bits, size);

/** Sums that the reductions of a pass by row and by column need. */
function accumulatedLength(
  program: Program,
  pass: number,
  geometry: Geometry,
): number {
  return reductionsOf(program, pass).reduce((sum, node) => {
    const shape = program.shapes[node]!;
    return sum + (shape === "one" ? 0 : shapeLength(shape, geometry));
  }, 0);
}

const programNumbers = /* @__PURE__ */ new WeakMap<object, number>();
let programs = 0;
function programNumber(program: object): number {
  let number = programNumbers.get(program);
  if (number === undefined) programNumbers.set(program, (number = programs++));
  return number;
}

/** What the tables of a format depend on. */
const tablesKey = (format: QuantizedFormat): string =>
  JSON.stringify([
    format.codebook,
    format.codebook === "custom" ? [...format.values] : 0,
    format.bits,
    format.signed,
    format.rounding,
    format.keepSign,
  ]);

const formatKey = (format: Format): string =>
  format.kind === "float"
    ? `float ${format.bits} ${format.rounding}`
    : `${tablesKey(format)} ${format.scale} ${format.blockSize}`;

interface Parts {
  readonly placed: readonly Placed[];
  readonly options: EngineOptions;
  readonly memory: WebAssembly.Memory;
  readonly pool: Pool;
  readonly slots: readonly { parameter: number; gradient: number }[];
  readonly tasks: number;
  readonly stride: number;
  readonly uniforms: readonly number[];
  readonly tables: ReadonlyMap<string, Tables>;
  /** Where sums by row and column are gathered: their addresses, and the room. */
  readonly sums: { readonly table: number; readonly at: number };
  readonly workspace: number;
}

/** A run of elements of a tensor that takes part in a pass. */
interface Piece {
  readonly tensor: number;
  readonly first: number;
  readonly count: number;
}

type Results = (record: number, piece: Piece) => void;

interface PassOptions {
  /** Whether the kernel reads parameters. */
  readonly parameter: boolean;
  /** Whether it changes them. */
  readonly write: boolean;
  readonly measured: Measured;
  /** On this thread alone, in order. */
  readonly serial?: boolean;
  /** What results of reductions start from. */
  readonly starts?: readonly number[];
}

/** Positions among all states of those that are per element. */
const positions = /* @__PURE__ */ new WeakMap<Program, readonly number[]>();
function elementPositions(program: Program): readonly number[] {
  let known = positions.get(program);
  if (!known) {
    known = program.stateShapes.flatMap((shape, s) =>
      shape === "element" ? [s] : [],
    );
    positions.set(program, known);
  }
  return known;
}

class WasmSession implements Session {
  readonly description: string;
  readonly #parts: Parts;
  readonly #floats: Float32Array;
  readonly #words: Int32Array;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;
  readonly #parameters: readonly Float32Array[];
  readonly #pieces: readonly (readonly Piece[])[];
  #report: StepReport = { nonFinite: 0, gradNorm: undefined, skipped: false };
  #input: readonly (StepTensor | undefined)[] = [];
  #factor = 1;

  constructor(parts: Parts) {
    this.#parts = parts;
    const { buffer } = parts.memory;
    this.#floats = new Float32Array(buffer);
    this.#words = new Int32Array(buffer);
    this.#view = new DataView(buffer);
    this.#bytes = new Uint8Array(buffer);
    const { threads } = parts.pool;
    this.description = `wasm, ${threads} ${threads === 1 ? "thread" : "threads"}`;
    this.#parameters = parts.placed.map(({ plan, parameterAt }) => {
      if (!parameterAt) return plan.parameter as Float32Array;
      const own = new Float32Array(buffer, parameterAt, plan.size);
      if (plan.parameter) own.set(plan.parameter as Float32Array);
      return own;
    });
    for (const { plan, states, kernels, ...place } of parts.placed) {
      kernels.small.forEach((node, i) => {
        this.#words[place.smallAt / 4 + i] = place.smallValues.get(node)!;
      });
      place.rank1.forEach(({ oldRow, oldLast, newRow, newLast }, i) =>
        this.#words.set(
          [oldRow, oldLast, newRow, newLast],
          place.smallAt / 4 + kernels.small.length + 4 * i,
        ),
      );
      for (const { format, codes } of states)
        if (format.kind === "quantized")
          this.#bytes.fill(
            this.#tablesOf(format).zeroByte,
            codes,
            codes + codeBytes(format.bits, plan.size),
          );
    }
    this.#pieces = parts.placed.map(({ plan, tasks }, tensor) =>
      Array.from({ length: tasks }, (_, i) => ({
        tensor,
        first: i * chunk,
        count: Math.min(chunk, plan.size - i * chunk),
      })),
    );
  }

  async step({ tensors, maxGradNorm }: StepInput): Promise<void> {
    const { placed, options } = this.#parts;
    this.#input = tensors;
    this.#factor = 1;
    const work = this.#pieces.filter((_, tensor) => tensors[tensor]);
    this.#takeGradients();
    try {
      let gradNorm: number | undefined;
      if (options.clip || options.skip === "step") {
        const { sum, bad } = this.#statistics(work);
        gradNorm = options.clip ? Math.sqrt(sum) : undefined;
        if (options.skip === "step" && bad > 0) {
          this.#report = { nonFinite: bad, gradNorm, skipped: true };
          return;
        }
        if (options.clip) this.#factor = clipFactor(gradNorm!, maxGradNorm!);
      }
      tensors.forEach((given, i) => {
        if (given)
          this.#floats.set(given.uniforms, this.#parts.uniforms[i]! / 4);
      });
      this.#spreadScales(work);
      const small = this.#reduce(work);
      const measured = this.#measure(work);
      let nonFinite = 0;
      for (const [kernel, pieces] of byKernel(
        work,
        (i) => placed[i]!.kernels.update,
      ))
        this.#pass(
          kernel,
          pieces,
          { parameter: true, write: true, measured },
          (record) => {
            nonFinite += this.#words[(record + task.nonFinite) / 4]!;
          },
        );
      for (const [[tensor, s], scale] of measured.entries())
        this.#floats[placed[tensor]!.states[s]!.scales / 4] = scale;
      for (const [[tensor, s], scales] of measured.rank1())
        this.#floats.set(scales, placed[tensor]!.states[s]!.scales / 4);
      for (const [tensor, values] of small) {
        const { plan, smallStates } = placed[tensor]!;
        const { states, stateShapes } = plan.program;
        // All are computed from the old ones before any is replaced.
        const fresh = [...smallStates.keys()].map((name) =>
          values.output(name, stateShapes[states.indexOf(name)]!),
        );
        [...smallStates.values()].forEach((state, i) => state.set(fresh[i]!));
      }
      this.#report = { nonFinite, gradNorm, skipped: false };
    } finally {
      this.#input = [];
    }
  }

  #statistics(work: readonly (readonly Piece[])[]): {
    sum: number;
    bad: number;
  } {
    let sum = 0;
    let bad = 0;
    this.#pass(
      0,
      work.flat(),
      { parameter: false, write: false, measured: new Measured() },
      (record) => {
        sum += this.#view.getFloat64(record + task.sum, true);
        bad += this.#words[(record + task.nonFinite) / 4]!;
      },
    );
    return { sum, bad };
  }

  /**
   * The passes of reductions, and between them, on this thread, the values that
   * follow from them. Tensors in which rows or columns are summed take a turn
   * each, on one thread: their sums share a place, and their order is fixed.
   */
  #reduce(work: readonly (readonly Piece[])[]): Map<number, SmallValues> {
    const { placed } = this.#parts;
    const small = new Map<number, SmallValues>();
    for (const pieces of work) {
      if (pieces.length === 0) continue;
      const { tensor } = pieces[0]!;
      const { plan, geometry, smallStates, kernels } = placed[tensor]!;
      const { program } = plan;
      if (program.passes === 0 && kernels.small.length + smallStates.size === 0)
        continue;
      const values = new SmallValues(
        program,
        geometry,
        this.#input[tensor]!.uniforms,
        smallStates,
      );
      small.set(tensor, values);
      for (let pass = 0; pass < program.passes; pass++) {
        this.#writeSmall(tensor, values, pass);
        this.#reducePass(tensor, pieces, pass, values);
      }
      this.#writeSmall(tensor, values, program.passes);
    }
    return small;
  }

  /** Puts what is known after `level` passes where the kernels read it. */
  #writeSmall(tensor: number, values: SmallValues, level: number): void {
    const { plan, kernels, smallValues } = this.#parts.placed[tensor]!;
    for (const node of kernels.small)
      if (plan.program.levels[node]! <= level)
        this.#floats.set(values.get(node), smallValues.get(node)! / 4);
  }

  #reducePass(
    tensor: number,
    pieces: readonly Piece[],
    pass: number,
    values: SmallValues,
  ): void {
    const { placed, sums } = this.#parts;
    const { plan, geometry, kernels } = placed[tensor]!;
    const { program } = plan;
    const doubles = new Float64Array(this.#parts.memory.buffer);
    const reductions = reductionsOf(program, pass).map((node) => {
      const { how } = program.nodes[node] as { how: "sum" | "mean" | "max" };
      return { node, how, shape: program.shapes[node]! };
    });
    const neutral = (how: string) => (how === "max" ? -Infinity : 0);
    let at = sums.at;
    const places = reductions.map(({ how, shape }, i) => {
      if (shape === "one") return undefined;
      const length = shapeLength(shape, geometry);
      const view = doubles.subarray(at / 8, at / 8 + length).fill(neutral(how));
      this.#words[sums.table / 4 + i] = at;
      at += 8 * length;
      return view;
    });
    const byTask = reductions.map((): number[] => []);
    this.#pass(
      kernels.passes[pass]!,
      pieces,
      {
        parameter: true,
        write: false,
        measured: new Measured(),
        serial: places.some(Boolean),
        starts: reductions.map(({ how }) => neutral(how)),
      },
      (record) =>
        byTask.forEach((results, i) =>
          results.push(
            this.#view.getFloat64(record + task.results + 8 * i, true),
          ),
        ),
    );
    reductions.forEach(({ node, how, shape }, i) => {
      const raw =
        places[i] ??
        Float64Array.of(
          how === "max"
            ? Math.max(...byTask[i]!)
            : byTask[i]!.reduce((sum, value) => sum + value, 0),
        );
      const taken = plan.size / shapeLength(shape, geometry);
      values.set(
        node,
        Float32Array.from(raw, (value) =>
          how === "mean" ? value / taken : value === -Infinity ? 0 : value,
        ),
      );
    });
  }

  /** Rank-1 scales as the kernels read them: by row, and by index of the last axis. */
  #spreadScales(work: readonly (readonly Piece[])[]): void {
    for (const pieces of work) {
      if (pieces.length === 0) continue;
      const { plan, states, rank1 } = this.#parts.placed[pieces[0]!.tensor]!;
      for (const { s, oldRow, oldLast } of rank1) {
        const at = states[s]!.scales / 4;
        const scales = this.#floats.slice(at, at + rank1Count(plan.shape));
        this.#writeRank1(plan.shape, scales, oldRow, oldLast);
      }
    }
  }

  #writeRank1(
    shape: readonly number[],
    scales: Float32Array,
    rowAt: number,
    lastAt: number,
    as: (scale: number) => number = (scale) => scale,
  ): void {
    const leading = scales.length - shape.at(-1)!;
    const rows = leadingSpread(scales.subarray(0, leading), shape);
    this.#floats.set(rows.map(as), rowAt / 4);
    this.#floats.set(scales.subarray(leading).map(as), lastAt / 4);
  }

  /** Measures a tensor's rank-1 scales, alone and on one thread. */
  #measureRank1(pieces: readonly Piece[], measured: Measured): void {
    const { placed, sums } = this.#parts;
    const { tensor } = pieces[0]!;
    const { plan, geometry, kernels, rank1 } = placed[tensor]!;
    const doubles = new Float64Array(this.#parts.memory.buffer);
    let at = sums.at;
    const take = (place: number, length: number) => {
      this.#words[sums.table / 4 + place] = at;
      const view = doubles.subarray(at / 8, at / 8 + length).fill(0);
      at += 8 * length;
      return view;
    };
    const views = rank1.map((_, i) => ({
      rows: take(2 * i, geometry.matrices * geometry.rows),
      last: take(2 * i + 1, geometry.columns),
    }));
    this.#pass(
      kernels.measure!,
      pieces,
      { parameter: true, write: false, measured, serial: true },
      (record) => this.#takeLargest(record, tensor, measured),
    );
    rank1.forEach(({ s, newRow, newLast }, i) => {
      const { rows, last } = views[i]!;
      const scales = Float32Array.of(
        ...leadingScales(Float32Array.from(rows), plan.shape),
        ...last,
      ).map(storedScale);
      measured.setRank1(tensor, s, scales);
      this.#writeRank1(plan.shape, scales, newRow, newLast, inverseScale);
    });
  }

  /** Largest magnitudes of the states with one scale a tensor, from a record. */
  #takeLargest(record: number, tensor: number, measured: Measured): void {
    this.#parts.placed[tensor]!.states.forEach(({ format }, s) => {
      if (format.kind === "float" || format.scale !== "tensor") return;
      const largest = this.#view.getUint32(
        record + task.states + s * taskStateBytes + taskState.largest,
        true,
      );
      measured.raise(tensor, s, largest);
    });
  }

  /** New scales of the states that have one a tensor. */
  #measure(work: readonly (readonly Piece[])[]): Measured {
    const { placed } = this.#parts;
    const measured = new Measured();
    const needed = work.filter(
      (pieces) =>
        pieces.length > 0 &&
        placed[pieces[0]!.tensor]!.kernels.measure !== undefined,
    );
    const together = needed.filter((pieces) => {
      if (placed[pieces[0]!.tensor]!.rank1.length === 0) return true;
      this.#measureRank1(pieces, measured);
      return false;
    });
    for (const [kernel, pieces] of byKernel(
      together,
      (i) => placed[i]!.kernels.measure!,
    ))
      this.#pass(
        kernel,
        pieces,
        { parameter: true, write: false, measured },
        (record, { tensor }) => this.#takeLargest(record, tensor, measured),
      );
    return measured;
  }

  /** Runs one kernel over pieces: all at once, or in batches of the staging slots. */
  #pass(
    kernel: number,
    pieces: readonly Piece[],
    how: PassOptions,
    results: Results,
  ): void {
    const { slots, tasks, stride, pool } = this.#parts;
    let batch: { piece: Piece; slot: number | undefined }[] = [];
    let used = 0;
    const flush = () => {
      if (batch.length === 0) return;
      pool.run(kernel, tasks, batch.length, stride, how.serial);
      batch.forEach(({ piece, slot }, i) => {
        if (how.write && slot !== undefined) this.#takeBack(piece, slot);
        results(tasks + i * stride, piece);
      });
      batch = [];
      used = 0;
    };
    for (const piece of pieces) {
      const slot = this.#needsSlot(piece, how.parameter) ? used++ : undefined;
      this.#fill(tasks + batch.length * stride, piece, slot, how);
      batch.push({ piece, slot });
      if (used === slots.length && used > 0) flush();
    }
    flush();
  }

  #needsSlot({ tensor }: Piece, parameter: boolean): boolean {
    return (
      (parameter && !this.#parts.placed[tensor]!.parameterAt) ||
      !this.#gradientAt(tensor)
    );
  }

  /** Resident gradients given from elsewhere are copied to their place. */
  #takeGradients(): void {
    this.#parts.placed.forEach(({ gradientAt }, i) => {
      const gradient = this.#input[i]?.gradient as Float32Array | undefined;
      if (gradientAt && gradient && !this.#isInside(gradient))
        this.#floats.set(gradient, gradientAt / 4);
    });
  }

  #isInside(array: Float32Array): boolean {
    return array.buffer === this.#parts.memory.buffer;
  }

  /** Address of a gradient that lies in this memory, else 0. */
  #gradientAt(tensor: number): number {
    const gradient = this.#input[tensor]!.gradient as Float32Array;
    return this.#isInside(gradient)
      ? gradient.byteOffset
      : this.#parts.placed[tensor]!.gradientAt;
  }

  /** Writes a task's record, and stages what lies elsewhere. */
  #fill(
    record: number,
    { tensor, first, count }: Piece,
    slot: number | undefined,
    { parameter, measured, starts = [] }: PassOptions,
  ): void {
    const { placed, slots, uniforms, sums } = this.#parts;
    const { parameterAt, states, geometry, smallAt } = placed[tensor]!;
    const { gradient, keys } = this.#input[tensor]!;
    const staged = slot === undefined ? undefined : slots[slot]!;
    let at = parameterAt + 4 * first;
    if (!parameterAt) {
      at = staged?.parameter ?? 0;
      if (parameter)
        this.#floats.set(
          this.#parameters[tensor]!.subarray(first, first + count),
          at / 4,
        );
    }
    let gradientAt = this.#gradientAt(tensor) + 4 * first;
    if (!this.#gradientAt(tensor)) {
      gradientAt = staged!.gradient;
      this.#floats.set(
        (gradient as Float32Array).subarray(first, first + count),
        gradientAt / 4,
      );
    }
    const words = this.#words;
    const floats = this.#floats;
    const base = record / 4;
    words[base + task.parameter / 4] = at;
    words[base + task.gradient / 4] = gradientAt;
    words[base + task.count / 4] = count;
    words[base + task.uniforms / 4] = uniforms[tensor]!;
    words[base + task.first / 4] = first;
    floats[base + task.factor / 4] = this.#factor;
    words[base + task.nonFinite / 4] = 0;
    words[base + task.small / 4] = smallAt;
    words[base + task.columns / 4] = Math.max(1, geometry.columns);
    words[base + task.rows / 4] = Math.max(1, geometry.rows);
    words[base + task.accumulators / 4] = sums.table;
    starts.forEach((start, i) =>
      this.#view.setFloat64(record + task.results + 8 * i, start, true),
    );
    const keyOf = elementPositions(placed[tensor]!.plan.program);
    states.forEach(({ format, codes, scales }, s) => {
      const own = base + (task.states + s * taskStateBytes) / 4;
      const block = format.kind === "quantized" && format.scale === "block";
      words[own + taskState.codes / 4] = codes + storedBytes(format, first);
      words[own + taskState.scales / 4] = block
        ? scales + (4 * first) / format.blockSize
        : scales;
      words[own + taskState.key / 4] = keys[keyOf[s]!]!;
      floats[own + taskState.inverse / 4] = inverseScale(
        measured.scale(tensor, s),
      );
      words[own + taskState.largest / 4] = 0;
    });
  }

  /** Copies new parameters from their slot to where they live. */
  #takeBack({ tensor, first, count }: Piece, slot: number): void {
    const { placed, slots } = this.#parts;
    if (placed[tensor]!.parameterAt) return;
    const from = slots[slot]!.parameter / 4;
    this.#parameters[tensor]!.set(
      this.#floats.subarray(from, from + count),
      first,
    );
  }

  report(): StepReport {
    return this.#report;
  }

  async readState(tensor: number, state: number): Promise<StoredState> {
    const { plan } = this.#parts.placed[tensor]!;
    const small = this.#smallState(tensor, state);
    if (small) return { kind: "float", values: small.slice() };
    const { format, codes, scales } = this.#elementState(tensor, state);
    if (format.kind === "float")
      return {
        kind: "float",
        values:
          format.bits === 32
            ? this.#floats.slice(codes / 4, codes / 4 + plan.size)
            : Float32Array.from(this.#halves(codes, plan.size), fromBfloat16),
      };
    const bytes = this.#bytes.slice(
      codes,
      codes + codeBytes(format.bits, plan.size),
    );
    // The kernels leave codes of zeros in the unused bits of the last byte.
    const clean =
      storedBits(format.bits) === 8
        ? bytes
        : packCodes(unpackCodes(bytes, format.bits, plan.size), format.bits);
    return {
      kind: "quantized",
      codes: clean,
      scales: this.#floats.slice(
        scales / 4,
        scales / 4 + scaleCount(format, plan.size, plan.shape),
      ),
    };
  }

  async writeState(
    tensor: number,
    state: number,
    stored: StoredState,
  ): Promise<void> {
    const small = this.#smallState(tensor, state);
    if (small && stored.kind === "float") return void small.set(stored.values);
    const { format, codes, scales } = this.#elementState(tensor, state);
    if (stored.kind === "float") {
      if (format.bits === 32) this.#floats.set(stored.values, codes / 4);
      else
        this.#halves(codes, stored.values.length).set(
          stored.values.map(toBfloat16),
        );
      return;
    }
    this.#bytes.set(stored.codes, codes);
    this.#floats.set(stored.scales, scales / 4);
  }

  parameter(tensor: number): Float32Array {
    return this.#parameters[tensor]!;
  }

  gradient(tensor: number): Float32Array | undefined {
    const { plan, gradientAt } = this.#parts.placed[tensor]!;
    if (!this.#parts.options.resident) return undefined;
    return new Float32Array(this.#parts.memory.buffer, gradientAt, plan.size);
  }

  stateBytes(tensor: number, state: number): number {
    const { plan } = this.#parts.placed[tensor]!;
    const small = this.#smallState(tensor, state);
    if (small) return small.byteLength;
    const { format } = this.#elementState(tensor, state);
    return (
      storageBytes(format, plan.size) +
      4 * scaleCount(format, plan.size, plan.shape)
    );
  }

  workspaceBytes(): number {
    return this.#parts.workspace;
  }

  dispose(): void {
    this.#parts.pool.dispose();
  }

  #smallState(
    tensor: number,
    state: number,
  ): Float32Array<ArrayBuffer> | undefined {
    const { plan, smallStates } = this.#parts.placed[tensor]!;
    return smallStates.get(plan.program.states[state]!);
  }

  #elementState(tensor: number, state: number): PlacedState {
    const { plan, states } = this.#parts.placed[tensor]!;
    return states[elementPositions(plan.program).indexOf(state)]!;
  }

  #halves(address: number, length: number): Uint16Array {
    return new Uint16Array(this.#parts.memory.buffer, address, length);
  }

  #tablesOf(format: QuantizedFormat): Tables {
    return this.#parts.tables.get(tablesKey(format))!;
  }
}

/** Scales of tensor-wide states, by tensor and state, from bits of magnitudes. */
class Measured {
  readonly #rank1 = new Map<string, [[number, number], Float32Array]>();
  readonly #bits = new Map<number, Map<number, number>>();

  raise(tensor: number, state: number, bits: number): void {
    let mine = this.#bits.get(tensor);
    if (!mine) this.#bits.set(tensor, (mine = new Map()));
    mine.set(state, Math.max(mine.get(state) ?? 0, bits));
  }

  setRank1(tensor: number, state: number, scales: Float32Array): void {
    this.#rank1.set(`${tensor} ${state}`, [[tensor, state], scales]);
  }

  rank1(): Iterable<[[number, number], Float32Array]> {
    return this.#rank1.values();
  }

  /** The scale to store: 0 when below the smallest that counts. */
  scale(tensor: number, state: number): number {
    const twice = this.#bits.get(tensor)?.get(state) ?? 0;
    const value = new Float32Array(Uint32Array.of(twice >>> 1).buffer)[0]!;
    return value < smallestScale ? 0 : value;
  }

  *entries(): Generator<[[number, number], number]> {
    for (const [tensor, states] of this.#bits)
      for (const state of states.keys())
        yield [[tensor, state], this.scale(tensor, state)];
  }
}

/** Pieces by the kernel of their tensor. */
function byKernel(
  work: readonly (readonly Piece[])[],
  kernelOf: (tensor: number) => number,
): Map<number, Piece[]> {
  const groups = new Map<number, Piece[]>();
  for (const pieces of work) {
    if (pieces.length === 0) continue;
    const kernel = kernelOf(pieces[0]!.tensor);
    const group = groups.get(kernel);
    if (group) for (const piece of pieces) group.push(piece);
    else groups.set(kernel, [...pieces]);
  }
  return groups;
}
