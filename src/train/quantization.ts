/** How well states are quantized, measured on the states of real runs. */
import { resolveTensors } from "../core/options.ts";
import type { OptimizerHandle } from "../core/optimizer.ts";
import { checkSettings, type OptimizerOptions } from "../core/settings.ts";
import { describeFormat, type QuantizedFormat } from "../formats/format.ts";
import { unpackCodes } from "../formats/pack.ts";
import {
  decodeTensor,
  elementScale,
  encodeTensor,
  makeCoder,
  tensorScales,
} from "../formats/quantize.ts";
import { randomKey } from "../formats/random.ts";
import type { Recipe } from "../optimizers/define.ts";

/** Which codes a state uses, over all its tensors of one format. */
export interface CodeUse {
  /** Name of the state: `m`. */
  readonly state: string;
  /** In words: `8-bit signed dynamic, block 256`. */
  readonly format: string;
  /** The value of each code, in parts of the scale. */
  readonly codebook: readonly number[];
  /** How many elements are stored as each code. */
  readonly counts: readonly number[];
}

/** What a format makes of a float32 state, over all its tensors. */
export interface QuantizationError {
  /** Name of the state: `m`. */
  readonly state: string;
  /** In words, as in {@link CodeUse}. */
  readonly format: string;
  /** Values that were looked at. */
  readonly elements: number;
  /** ||Q(x) - x|| / ||x|| over all elements x. */
  readonly relativeError: number;
  /** Part of the elements that are not 0 and become 0. */
  readonly toZero: number;
  /**
   * Mean of |Q(x) - x| / |x| by |x| in parts of its scale. Bins are a quarter of
   * a decade wide, and `magnitude` is the logarithm to base 10 of a bin's middle;
   * the last takes all below.
   */
  readonly byMagnitude: readonly {
    readonly magnitude: number;
    readonly elements: number;
    readonly error: number;
  }[];
  /** ||Q(x) - x|| / ||x|| of each tensor. */
  readonly tensors: readonly {
    readonly name: string;
    readonly elements: number;
    readonly relativeError: number;
  }[];
}

/** Shapes by name. */
type Shapes = Readonly<Record<string, readonly number[]>>;

const sizeOf = (shape: readonly number[]) =>
  shape.reduce((product, n) => product * n, 1);

/** The codes as they are stored now; nothing for states in float32. */
export async function codeUse(
  optimizer: OptimizerHandle,
  shapes: Shapes,
): Promise<CodeUse[]> {
  const uses = new Map<string, CodeUse & { counts: number[] }>();
  for (const [name, shape] of Object.entries(shapes))
    for (const [state, stored] of Object.entries(await optimizer.state(name))) {
      const { format } = stored;
      if (stored.kind === "float" || format.kind === "float") continue;
      const words = describeFormat(format);
      const use = uses.get(`${state} ${words}`) ?? {
        state,
        format: words,
        codebook: [...format.values],
        counts: Array.from(format.values, () => 0),
      };
      uses.set(`${state} ${words}`, use);
      for (const code of unpackCodes(stored.codes, format.bits, sizeOf(shape)))
        use.counts[code]!++;
    }
  return [...uses.values()];
}

/**
 * Quantizes the float32 states of a run as another recipe would, tensor by
 * tensor; states that the two do not share by name are left out.
 *
 * @param optimizer a run's, whose states are float32
 * @param recipe whose formats are tried
 * @param options that decide about formats: overrides, minQuantizedSize
 */
export async function quantizationError(
  optimizer: OptimizerHandle,
  shapes: Shapes,
  recipe: Recipe,
  options: OptimizerOptions,
): Promise<QuantizationError[]> {
  const tensors = Object.entries(shapes).map(([name, shape]) => ({
    name,
    shape: [...shape],
    size: sizeOf(shape),
  }));
  const resolved = resolveTensors(recipe, tensors, checkSettings(options));
  const tallies = new Map<string, Tally>();
  for (const [i, { name, shape, size }] of tensors.entries()) {
    const { formats, optimizer: form } = resolved[i]!;
    const states = await optimizer.state(name);
    for (const [s, state] of form.program.states.entries()) {
      const format = formats[s]!;
      const held = Object.hasOwn(states, state) ? states[state]! : undefined;
      if (format.kind !== "quantized" || held?.kind !== "float") continue;
      if (held.values.length !== size) continue; // rows or columns there
      const key = `${state} ${describeFormat(format)}`;
      const tally = tallies.get(key) ?? new Tally(state, format);
      tallies.set(key, tally);
      tally.add(name, held.values, shape);
    }
  }
  return [...tallies.values()].map((tally) => tally.result());
}

/** Bins in a decade, and decades below the scale. */
const [BINS, DECADES] = [4, 8];

/** Adds up the tensors of one state and format. */
class Tally {
  readonly #state: string;
  readonly #format: QuantizedFormat;
  readonly #bins = Array.from({ length: BINS * DECADES }, () => ({
    elements: 0,
    error: 0,
  }));
  readonly #tensors: QuantizationError["tensors"][number][] = [];
  readonly #total = { error: 0, size: 0, toZero: 0, elements: 0 };

  constructor(state: string, format: QuantizedFormat) {
    this.#state = state;
    this.#format = format;
  }

  add(name: string, values: Float32Array, shape: readonly number[]): void {
    const format = this.#format;
    const total = this.#total;
    const scales = tensorScales(values, format, shape);
    const coder = makeCoder(format);
    const codes = encodeTensor(coder, values, scales, shape, randomKey(0));
    const decoded = decodeTensor(format, codes, scales, shape);
    const scaleOf = elementScale(format, scales, values.length, shape);
    let [error, size] = [0, 0];
    values.forEach((x, i) => {
      const difference = Math.abs(decoded[i]! - x);
      error += difference ** 2;
      size += x ** 2;
      const scale = scaleOf(i);
      if (x === 0 || !(scale > 0)) return;
      if (decoded[i] === 0) total.toZero++;
      const down = Math.floor(-Math.log10(Math.abs(x) / scale) * BINS);
      const place = Math.max(0, Math.min(this.#bins.length - 1, down));
      this.#bins[place]!.elements++;
      this.#bins[place]!.error += difference / Math.abs(x);
    });
    total.error += error;
    total.size += size;
    total.elements += values.length;
    const relativeError = ratio(error, size);
    this.#tensors.push({ name, elements: values.length, relativeError });
  }

  result(): QuantizationError {
    const { error, size, toZero, elements } = this.#total;
    return {
      state: this.#state,
      format: describeFormat(this.#format),
      elements,
      relativeError: ratio(error, size),
      toZero: elements > 0 ? toZero / elements : 0,
      byMagnitude: this.#bins.flatMap((bin, i) =>
        bin.elements === 0
          ? []
          : {
              magnitude: -(i + 0.5) / BINS,
              elements: bin.elements,
              error: bin.error / bin.elements,
            },
      ),
      tensors: this.#tensors,
    };
  }
}

/** Of two sums of squares: the ratio of the norms. */
const ratio = (error: number, size: number) =>
  size > 0 ? Math.sqrt(error / size) : 0;
