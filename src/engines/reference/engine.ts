/**
 * The slow, plain engine that the others answer to: typed arrays and obvious
 * loops over one tensor after another.
 */
import type { Format } from "../../formats/format.ts";
import {
  fromBfloat16,
  toBfloat16,
  toBfloat16Stochastic,
} from "../../formats/bfloat16.ts";
import { scaleCount } from "../../formats/format.ts";
import { packCodes, unpackCodes } from "../../formats/pack.ts";
import {
  decodeTensor,
  encodeState,
  makeCoder,
  type Coder,
} from "../../formats/quantize.ts";
import { compileClosure, type Closure } from "../../formula/closure.ts";
import {
  reducedNode,
  reductionsOf,
  smallNodesOf,
  watchedNodes,
  type Program,
} from "../../formula/program.ts";
import { elementTo, geometryOf, shapeLength } from "../../formula/small.ts";
import { reduceValues, SmallValues } from "../../formula/small-values.ts";
import type {
  Engine,
  EngineOptions,
  Session,
  StepInput,
  StepReport,
  StepTensor,
  StoredState,
  TensorPlan,
} from "../engine.ts";
import { clipFactor, stateLength } from "../engine.ts";

/** One state of one tensor: float32 values, or packed codes and scales. */
type Storage =
  | { kind: "float"; values: Float32Array<ArrayBuffer> }
  | {
      kind: "bfloat16";
      stochastic: boolean;
      values: Uint16Array<ArrayBuffer>;
    }
  | {
      kind: "quantized";
      coder: Coder;
      codes: Uint8Array<ArrayBuffer>;
      scales: Float32Array<ArrayBuffer>;
    };

/** A program's nodes as closures. */
interface Compiled {
  /** By pass: the reductions and the closure of what they are taken of. */
  readonly passes: readonly {
    readonly reductions: readonly number[];
    readonly closure: Closure;
    readonly small: readonly number[];
  }[];
  /** The new parameter, the new states per element, then what is watched. */
  readonly update: Closure;
  readonly small: readonly number[];
}

function compileProgram(program: Program): Compiled {
  const outputs = [
    program.outputs.get("p")!,
    ...program.states
      .filter((_, s) => program.stateShapes[s] === "element")
      .map((name) => program.outputs.get(name)!),
    ...watchedNodes(program),
  ];
  return {
    passes: Array.from({ length: program.passes }, (_, pass) => {
      const reductions = reductionsOf(program, pass);
      const wanted = reductions.map((index) => reducedNode(program, index));
      return {
        reductions,
        closure: compileClosure(program, wanted),
        small: smallNodesOf(program, wanted),
      };
    }),
    update: compileClosure(program, outputs),
    small: smallNodesOf(program, outputs),
  };
}

interface Tensor {
  readonly plan: TensorPlan;
  readonly compiled: Compiled;
  readonly parameter: Float32Array;
  readonly gradient: Float32Array | undefined;
  readonly states: Storage[];
}

function makeStorage(
  format: Format,
  size: number,
  shape: readonly number[],
): Storage {
  if (format.kind === "float")
    return format.bits === 32
      ? { kind: "float", values: new Float32Array(size) }
      : {
          kind: "bfloat16",
          stochastic: format.rounding === "stochastic",
          values: new Uint16Array(size),
        };
  const coder = makeCoder(format);
  return {
    kind: "quantized",
    coder,
    codes: packCodes(new Uint8Array(size).fill(coder.zero), format.bits),
    scales: new Float32Array(scaleCount(format, size, shape)),
  };
}

function load(
  state: Storage,
  size: number,
  shape: readonly number[],
): Float32Array {
  if (state.kind === "float") return state.values;
  if (state.kind === "bfloat16")
    return Float32Array.from(state.values, fromBfloat16);
  const { format } = state.coder;
  const codes = unpackCodes(state.codes, format.bits, size);
  return decodeTensor(format, codes, state.scales, shape);
}

function store(
  state: Storage,
  values: Float32Array,
  shape: readonly number[],
  key: number,
  floor: number,
): void {
  if (state.kind === "float") {
    state.values.set(values);
    return;
  }
  if (state.kind === "bfloat16") {
    values.forEach((value, i) => {
      state.values[i] = state.stochastic
        ? toBfloat16Stochastic(value, key, i)
        : toBfloat16(value);
    });
    return;
  }
  const { coder } = state;
  const { codes, scales } = encodeState(coder, values, shape, key, floor);
  state.scales.set(scales);
  state.codes = packCodes(codes, coder.format.bits);
}

class ReferenceSession implements Session {
  readonly description = "reference";
  readonly #tensors: Tensor[];
  readonly #options: EngineOptions;
  #report: StepReport = { nonFinite: 0, gradNorm: undefined, skipped: false };

  constructor(plans: readonly TensorPlan[], options: EngineOptions) {
    this.#options = options;
    const programs = new Map<unknown, Compiled>();
    this.#tensors = plans.map((plan) => {
      let compiled = programs.get(plan.program);
      if (!compiled)
        programs.set(plan.program, (compiled = compileProgram(plan.program)));
      const own =
        options.resident ||
        (!options.hostParameters && plan.parameter === undefined);
      const parameter = own
        ? new Float32Array(plan.size)
        : (plan.parameter as Float32Array);
      if (own && plan.parameter !== undefined)
        parameter.set(plan.parameter as Float32Array);
      return {
        plan,
        compiled,
        parameter,
        gradient: options.resident ? new Float32Array(plan.size) : undefined,
        states: plan.formats.map((format, s) =>
          makeStorage(format, stateLength(plan, s), plan.shape),
        ),
      };
    });
  }

  async step(input: StepInput): Promise<void> {
    this.stepSync(input);
  }

  stepSync({ tensors, maxGradNorm }: StepInput): void {
    const { skip, clip } = this.#options;
    const work = tensors.flatMap((given, i) => {
      if (!given) return [];
      const tensor = this.#tensors[i]!;
      const gradient = (given.gradient ?? tensor.gradient) as Float32Array;
      return [{ tensor, given, gradient }];
    });
    let sum = 0;
    let bad = 0;
    if (clip || skip === "step")
      for (const { gradient } of work)
        for (const value of gradient) {
          if (Number.isFinite(value)) sum += value * value;
          else bad++;
        }
    const gradNorm = clip ? Math.sqrt(sum) : undefined;
    if (skip === "step" && bad > 0) {
      this.#report = { nonFinite: bad, gradNorm, skipped: true };
      return;
    }
    const factor = clip ? clipFactor(gradNorm!, maxGradNorm!) : undefined;
    let nonFinite = 0;
    for (const { tensor, given, gradient } of work)
      nonFinite += this.#update(tensor, given, gradient, factor);
    this.#report = { nonFinite, gradNorm, skipped: false };
  }

  /** Updates one tensor; returns how many elements were left out. */
  #update(
    { plan, compiled, parameter: usual, states }: Tensor,
    { uniforms, keys, floors, parameter: moved }: StepTensor,
    given: Float32Array,
    factor: number | undefined,
  ): number {
    const { size, program, shape } = plan;
    // As everywhere: an empty tensor takes no step, a state of one number included.
    if (size === 0) return 0;
    const parameter = (moved as Float32Array | undefined) ?? usual;
    const geometry = geometryOf(shape);
    const gradient =
      factor === undefined ? given : given.map((value) => value * factor);
    const perElement = program.stateShapes.map((one) => one === "element");
    const old = states.map((state, s) =>
      load(state, stateLength(plan, s), plan.shape),
    );
    const named = (wanted: boolean) =>
      program.states.flatMap((name, s) =>
        perElement[s] === wanted ? [[name, old[s]!] as const] : [],
      );
    const inputs = new Map<string, Float32Array>([
      ["p", parameter],
      ["g", gradient],
      ...named(true),
    ]);
    const small = new SmallValues(
      program,
      geometry,
      uniforms,
      new Map(named(false)),
    );
    const run = (closure: Closure, reads: readonly number[]) =>
      closure(inputs, uniforms, size, spreadSmall(small, reads, plan));
    const skips = this.#options.skip !== "off";
    for (const { reductions, closure, small: reads } of compiled.passes) {
      const rows = run(closure, reads);
      reductions.forEach((node, r) => {
        const { how } = program.nodes[node] as { how: "sum" | "mean" | "max" };
        const values = rows[r]!.subarray(0, size).map((value, i) =>
          skips && !(Number.isFinite(gradient[i]) && Number.isFinite(value))
            ? leftOut(how)
            : value,
        );
        small.set(node, reduceElements(program, node, values, plan));
      });
    }
    const [updated, ...watched] = run(compiled.update, compiled.small);
    const isFinite = (i: number) =>
      Number.isFinite(gradient[i]) &&
      watched.every((values) => Number.isFinite(values[i]));
    const fresh = states.map((_, s): Float32Array => {
      if (!perElement[s])
        return small.output(program.states[s]!, program.stateShapes[s]!);
      const place = perElement.slice(0, s).filter(Boolean).length;
      return watched[place]!.slice(0, size);
    });
    let nonFinite = 0;
    for (let i = 0; i < size; i++) {
      if (!skips || isFinite(i)) {
        parameter[i] = updated![i]!;
        continue;
      }
      nonFinite++;
      fresh.forEach((values, s) => {
        if (perElement[s]) values[i] = old[s]![i]!;
      });
    }
    states.forEach((state, s) =>
      store(state, fresh[s]!, shape, keys[s]!, floors?.[s] ?? 0),
    );
    return nonFinite;
  }

  report(): StepReport {
    return this.#report;
  }

  async readState(tensor: number, state: number): Promise<StoredState> {
    const storage = this.#tensors[tensor]!.states[state]!;
    return storage.kind !== "quantized"
      ? {
          kind: "float",
          values: load(storage, storage.values.length, []).slice(),
        }
      : {
          kind: "quantized",
          codes: storage.codes.slice(),
          scales: storage.scales.slice(),
        };
  }

  writeState(tensor: number, state: number, stored: StoredState): void {
    const storage = this.#tensors[tensor]!.states[state]!;
    if (storage.kind === "float" && stored.kind === "float")
      storage.values.set(stored.values);
    if (storage.kind === "bfloat16" && stored.kind === "float")
      storage.values.set(stored.values.map(toBfloat16));
    if (storage.kind === "quantized" && stored.kind === "quantized") {
      storage.codes.set(stored.codes);
      storage.scales.set(stored.scales);
    }
  }

  parameter(tensor: number): Float32Array {
    return this.#tensors[tensor]!.parameter;
  }

  async readParameter(tensor: number): Promise<Float32Array<ArrayBuffer>> {
    return Float32Array.from(this.parameter(tensor));
  }

  writeParameter(tensor: number, values: Float32Array): void {
    this.parameter(tensor).set(values);
  }

  gradient(tensor: number): Float32Array | undefined {
    return this.#tensors[tensor]!.gradient;
  }

  stateBytes(tensor: number, state: number): number {
    const storage = this.#tensors[tensor]!.states[state]!;
    return storage.kind !== "quantized"
      ? storage.values.byteLength
      : storage.codes.byteLength + storage.scales.byteLength;
  }

  workspaceBytes(): number {
    return 0;
  }

  dispose(): void {
    this.#tensors.length = 0;
  }
}

export const referenceEngine: Engine = {
  name: "reference",
  createSession: async (plans, options) => new ReferenceSession(plans, options),
  createSessionSync(plans, options) {
    if (options.hostStates)
      throw new TypeError("reference: states are kept here, by no host");
    return new ReferenceSession(plans, options);
  },
};

/** Small values, one for each element. */
function spreadSmall(
  small: SmallValues,
  nodes: readonly number[],
  { program, shape, size }: TensorPlan,
): Map<number, Float32Array> {
  const geometry = geometryOf(shape);
  return new Map(
    nodes.map((node) => {
      const values = small.get(node);
      const at = elementTo(program.shapes[node]!, geometry);
      return [
        node,
        Float32Array.from({ length: size }, (_, i) => values[at(i)]!),
      ];
    }),
  );
}

/** What an element that is left out adds to a reduction. */
const leftOut = (how: "sum" | "mean" | "max") =>
  how === "max" ? -Infinity : 0;

/** The result of a reduction, by row, by column, or one number. */
function reduceElements(
  program: Program,
  index: number,
  values: Float32Array,
  { shape }: TensorPlan,
): Float32Array {
  const node = program.nodes[index]!;
  if (node.op !== "reduce") throw new Error("reference: not a reduction");
  const geometry = geometryOf(shape);
  if (node.over === "all")
    return Float32Array.of(reduceValues(node.how, values));
  const at = elementTo(node.over, geometry);
  const groups = Array.from(
    { length: shapeLength(node.over, geometry) },
    (): number[] => [],
  );
  values.forEach((value, i) => groups[at(i)]!.push(value));
  return Float32Array.from(groups, (group) =>
    reduceValues(node.how, Float32Array.from(group)),
  );
}
