/**
 * A step as operations of jax-js alone: for tracers (inside `jit`), and for
 * backends that our engines cannot reach. It works on the same words as they do.
 */
import {
  stateLength,
  type EngineOptions,
  type HostStates,
  type TensorPlan,
} from "../../engines/engine.ts";
import type { Format } from "../../formats/format.ts";
import {
  watchedNodes,
  type Program,
  type Shape,
} from "../../formula/program.ts";
import { geometryOf, type Geometry } from "../../formula/small.ts";
import type { Jax, Tensor } from "./contract.ts";
import { arrayShape, evaluator, longSum } from "./evaluate.ts";
import type { StepArrays, StepResult } from "./reach.ts";
import { openScope, type Scope } from "./scope.ts";
import { readPiece, writePiece, type Written } from "./stored.ts";

export interface Operations {
  readonly tensors: readonly TensorPlan[];
  readonly options: EngineOptions;
  readonly layout: HostStates;
  readonly reads: readonly boolean[];
  readonly maxGradNorm: number | undefined;
  readonly form: "step" | "update";
  /**
   * Whether it is cheaper to compute a value anew in each kernel that needs it
   * than to keep it in memory: on GPUs, where kernels are what costs.
   */
  readonly recompute: boolean;
}

/** What depends on the step. */
export interface StepValues {
  /** Uniforms of each tensor, float32. */
  readonly uniforms: readonly Tensor[];
  /** The key of stochastic rounding of a tensor's state, a uint32 scalar. */
  key(scope: Scope, tensor: number, state: number): Tensor;
}

/** Consumes its arrays, as every function of jax-js. */
export function stepByOperations(
  jax: Jax,
  { gradients, parameters, regions }: StepArrays,
  values: StepValues,
  plan: Operations,
): StepResult {
  const scope = openScope(jax);
  const given = [...gradients, ...(parameters ?? []), ...regions].filter(
    (array) => array !== undefined,
  );
  for (const array of [...given, ...values.uniforms]) scope.own(array);
  const { tensors, options, layout, maxGradNorm, form } = plan;
  const work = tensors.flatMap((_, i) =>
    gradients[i] && gradients[i].size > 0 ? [i] : [],
  );
  const statistics =
    options.clip || options.skip === "step"
      ? statisticsOf(
          scope,
          work.map((i) => gradients[i]!),
        )
      : undefined;
  const factor =
    statistics && options.clip
      ? clipFactor(scope, statistics.squares, maxGradNorm!)
      : undefined;
  const all =
    statistics && options.skip === "step" ? statistics.finite : undefined;

  const written: Written[][] = regions.map(() => []);
  const results = tensors.map((tensor, i): Tensor | undefined => {
    if (!work.includes(i))
      return form === "step" ? parameters![i] : gradients[i];
    const { result, states } = stepTensor(scope, tensor, {
      index: i,
      gradient: gradients[i]!,
      factor,
      parameter: parameters?.[i],
      reads: plan.reads[i]! || form === "step",
      form,
      regions,
      layout,
      checked: options.skip !== "off",
      recompute: plan.recompute,
      uniforms: values.uniforms[i]!,
      key: (state) => values.key(scope, i, state),
    });
    states.forEach((pieces, r) => written[r]!.push(...pieces));
    const before = form === "step" ? parameters![i]! : undefined;
    if (!all) return result;
    return scope.where(all, result, before ?? scope.float(0));
  });
  const next = regions.map((region, r) => {
    const fresh = assemble(scope, region, written[r]!);
    return all ? scope.where(all, fresh, region) : fresh;
  });
  scope.close([...results.filter((array) => array !== undefined), ...next]);
  return { results, regions: next };
}

interface TensorStep {
  readonly index: number;
  readonly gradient: Tensor;
  readonly factor: Tensor | undefined;
  readonly parameter: Tensor | undefined;
  readonly reads: boolean;
  readonly form: "step" | "update";
  readonly regions: readonly Tensor[];
  readonly layout: HostStates;
  readonly checked: boolean;
  readonly recompute: boolean;
  readonly uniforms: Tensor;
  key(state: number): Tensor;
}

function stepTensor(
  scope: Scope,
  plan: TensorPlan,
  step: TensorStep,
): { result: Tensor; states: Written[][] } {
  const { program, formats, shape, size } = plan;
  const { layout, regions, reads } = step;
  const geometry = geometryOf(shape);
  // With what is per element alone, everything has the tensor's own shape.
  const plain = isPlain(program);
  const ofShape = (kind: Shape) => (plain ? shape : arrayShape(kind, geometry));
  const element = ofShape("element");
  const pieces = program.states.map((name, s) => {
    checkFormat(program.owner, name, formats[s]!);
    const found = layout.pieces(step.index, s);
    if (!found)
      throw new TypeError(
        `${program.owner}: the state '${name}' cannot be reached with operations of jax-js; step outside of jit`,
      );
    return found;
  });
  const coding = { shape, arithmetic: step.recompute };
  const readState = (s: number) => {
    const parts = pieces[s]!.map((piece) =>
      readPiece(scope, regions[piece.region]!, formats[s]!, piece, coding),
    );
    const flat = parts.length === 1 ? parts[0]! : scope.concatenate(parts);
    return scope.reshape(flat, ofShape(program.stateShapes[s]!));
  };
  // Decoded anew in each kernel, or kept.
  const anew = plain && step.recompute;
  const old = program.states.map((_, s) =>
    anew ? () => readState(s) : once(() => readState(s)),
  );
  const p = () => scope.reshape(step.parameter!, element);
  const g = () => {
    const own = scope.reshape(step.gradient, element);
    return step.factor ? scope.mul(own, scope.reshape(step.factor, [])) : own;
  };
  const inputs = { p: reads ? p : undefined, g, old };
  const start = () => startTensor(scope, plan, { ...step, geometry, inputs });
  const values = anew ? start : once(start);

  const states: Written[][] = regions.map(() => []);
  program.states.forEach((_, s) => {
    const kind = program.stateShapes[s]!;
    const fresh = spreadTo(scope, values().state(s), ofShape(kind));
    const flat = scope.reshape(fresh, [stateLength(plan, s)]);
    for (const piece of pieces[s]!) {
      const { start, length, region } = piece;
      const part =
        length === flat.size ? flat : scope.slice(flat, start, start + length);
      states[region]!.push(
        ...writePiece(scope, part, formats[s]!, piece, {
          ...coding,
          key: () => step.key(s),
        }),
      );
    }
  });
  const result = spreadTo(scope, values().result(), element);
  return {
    result: scope.reshape(result, shape),
    states: size > 0 ? states : regions.map(() => []),
  };
}

/** Whether a formula speaks of elements alone. */
const isPlain = ({ nodes, stateShapes }: Program): boolean =>
  nodes.every(({ op }) => op !== "reduce") &&
  stateShapes.every((kind) => kind === "element");

interface Start extends TensorStep {
  readonly geometry: Geometry;
  readonly inputs: {
    /** Absent where it does not matter. */
    readonly p: (() => Tensor) | undefined;
    readonly g: () => Tensor;
    readonly old: readonly (() => Tensor)[];
  };
}

/** The formula's results, with what is left out as it was. */
function startTensor(
  scope: Scope,
  { program }: TensorPlan,
  { geometry, uniforms, checked, form, inputs: { p, g, old } }: Start,
) {
  const isElement = (state: number) => program.stateShapes[state] === "element";
  const isFinite = finiteIn(scope);
  const at = evaluator(scope, {
    program,
    geometry,
    inputs: new Map([
      ...(p ? [["p", p] as const] : []),
      ["g", g],
      ...program.states.map((name, s) => [name, old[s]!] as const),
    ]),
    uniforms,
    finite: checked
      ? (value) => scope.both(isFinite(g()), isFinite(value))
      : undefined,
  });
  const fresh = (s: number) => at(program.outputs.get(program.states[s]!)!);
  const taken = once(() =>
    [
      ...program.states.flatMap((_, s) => (isElement(s) ? [fresh(s)] : [])),
      ...watchedNodes(program).map(at),
    ].reduce((ok, value) => scope.both(ok, isFinite(value)), isFinite(g())),
  );
  const keep = (value: Tensor, otherwise: () => Tensor) =>
    checked ? scope.where(taken(), value, otherwise()) : value;
  return {
    state: (s: number) => (isElement(s) ? keep(fresh(s), old[s]!) : fresh(s)),
    result() {
      const updated = at(program.outputs.get("p")!);
      if (form === "step") return keep(updated, p!);
      const change = p ? scope.sub(updated, p()) : updated;
      return keep(change, () => scope.float(0));
    },
  };
}

/** A value that is found when it is first asked for. */
function once<T>(find: () => T): () => T {
  let found: { readonly value: T } | undefined;
  return () => (found ??= { value: find() }).value;
}

/** @throws TypeError for formats that only the engines know. */
function checkFormat(owner: string, state: string, format: Format): void {
  if (format.kind === "float") return;
  const unknown =
    format.scale === "tile"
      ? "scale 'tile'"
      : format.rounding === "preconditioner"
        ? "rounding 'preconditioner'"
        : format.correctScale
          ? "correctScale"
          : undefined;
  if (unknown)
    throw new TypeError(
      `${owner}: the state '${state}' has ${unknown}, which steps by operations of jax-js do not know; step outside of jit, on wasm or webgpu, or choose another format`,
    );
}

/** A value of fewer axes, for a state or a parameter that has them all. */
const spreadTo = (scope: Scope, value: Tensor, shape: readonly number[]) =>
  value.ndim === shape.length && value.shape.every((n, i) => n === shape[i])
    ? value
    : scope.broadcast(value, shape);

/** By bits: to jax-js, what is not greater is less or equal, NaN too. */
const finiteIn = (scope: Scope) => (value: Tensor) =>
  scope.lt(
    scope.and(scope.asWord(value), scope.word(0x7fffffff)),
    scope.word(0x7f800000),
  );

/** The sum of the squares of all finite gradients, and whether all are finite. */
function statisticsOf(scope: Scope, gradients: readonly Tensor[]) {
  const isFinite = finiteIn(scope);
  let squares = scope.own(scope.float(0).ref.reshape([1, 1, 1]));
  let bad = squares;
  for (const gradient of gradients) {
    const flat = scope.reshape(gradient, [1, 1, gradient.size]);
    const zero = scope.float(0);
    const finite = isFinite(flat);
    const counted = scope.where(finite, flat, zero);
    squares = scope.add(
      squares,
      longSum(scope)(scope.mul(counted, counted), 2),
    );
    bad = scope.add(
      bad,
      longSum(scope)(scope.where(finite, zero, scope.float(1)), 2),
    );
  }
  return {
    squares,
    finite: scope.own(scope.eq(bad, scope.float(0)).ref.reshape([])),
  };
}

/** As `clipFactor` of the engines. */
function clipFactor(scope: Scope, squares: Tensor, most: number): Tensor {
  const norm = scope.add(scope.sqrt(squares), scope.float(1e-6));
  return scope.min(scope.float(1), scope.div(scope.float(most), norm));
}

/** A region with what was written into it. */
function assemble(
  scope: Scope,
  region: Tensor,
  written: readonly Written[],
): Tensor {
  const size = region.shape[0]!;
  const parts: Tensor[] = [];
  let end = 0;
  for (const { at, words } of [...written].sort((a, b) => a.at - b.at)) {
    if (at > end) parts.push(scope.slice(region, end, at));
    parts.push(words);
    end = at + words.shape[0]!;
  }
  if (end < size) parts.push(scope.slice(region, end, size));
  return parts.length === 1 ? parts[0]! : scope.concatenate(parts);
}
