/**
 * What depends on the step, where the step is not a number but an array that is
 * traced: schedules and step scalars are functions of JavaScript, so their
 * values come from a table.
 */
import type { OptimizerHandle } from "../../core/optimizer.ts";
import type { Jax, Tensor } from "./contract.ts";
import type { StepValues } from "./operations.ts";
import { mix, randomKey } from "../../formats/random.ts";
import { openScope, type Scope } from "./scope.ts";
import { mixWords } from "./stored.ts";

/** Every step up to here has an entry of its own. */
const exactSteps = 2 ** 13;
/** Behind them, entries for each doubling, with straight lines between. */
const entriesBits = 10;
/** The last step that the table knows; later ones count as this one. */
const lastStep = 2 ** 24;

const fractionBits = 23 - entriesBits;
const bitsOf = (value: number) =>
  new Uint32Array(Float32Array.of(value).buffer)[0]!;
const firstBits = bitsOf(exactSteps) >>> fractionBits;

/** The steps that have an entry: 0 (never asked for) to the last one, and one more. */
function tabulatedSteps(): number[] {
  const steps = Array.from({ length: exactSteps }, (_, t) => t);
  const last = bitsOf(lastStep) >>> fractionBits;
  for (let bits = firstBits; bits <= last + 1; bits++)
    steps.push(
      new Float32Array(Uint32Array.of(bits << fractionBits).buffer)[0]!,
    );
  return steps;
}

/** Tables of a transformation's uniforms; tensors with the same options share one. */
export class StepTable {
  readonly #tables: readonly {
    /** For each entry its uniforms, and what the next one's are more. */
    readonly values: Float32Array;
    readonly width: number;
  }[];
  readonly #ofTensor: readonly number[];

  constructor(optimizer: OptimizerHandle) {
    const steps = tabulatedSteps();
    const shared = new Map<Float32Array, number>();
    this.#ofTensor = optimizer.uniformsAt(1).map((uniforms) => {
      let index = shared.get(uniforms);
      if (index === undefined) shared.set(uniforms, (index = shared.size));
      return index;
    });
    const first = [...shared.values()].map((index) =>
      this.#ofTensor.indexOf(index),
    );
    const rows = steps.map((t) => {
      const all = optimizer.uniformsAt(Math.max(1, t));
      return first.map((tensor) => all[tensor]!);
    });
    this.#tables = [...shared.keys()].map(({ length: width }, i) => {
      const values = new Float32Array(2 * width * rows.length);
      rows.forEach((row, at) => {
        const next = rows[at + 1] ?? row;
        values.set(row[i]!, 2 * width * at);
        values.set(
          next[i]!.map((value, j) => value - row[i]![j]!),
          2 * width * at + width,
        );
      });
      return { values, width };
    });
  }

  /** The uniforms of step `t`, a traced uint32 scalar, by tensor; new arrays. */
  at(jax: Jax, t: Tensor): Tensor[] {
    const scope = openScope(jax);
    // As functions: each use is then a part of one kernel, and none of its own.
    const bounded = () => scope.min(t, scope.word(lastStep));
    const bits = () =>
      scope.asWord(scope.cast(scope.cast(bounded(), "int32"), "float32"));
    const late = () => scope.ge(bounded(), scope.word(exactSteps));
    const lateRow = scope.add(
      scope.sub(
        scope.shiftRight(bits(), scope.word(fractionBits)),
        scope.word(firstBits),
      ),
      scope.word(exactSteps),
    );
    const row = () =>
      scope.cast(scope.where(late(), lateRow, bounded()), "int32");
    const fraction = () =>
      scope.cast(scope.and(bits(), scope.word(2 ** fractionBits - 1)), "int32");
    const part = () =>
      scope.where(
        late(),
        scope.mul(
          scope.cast(fraction(), "float32"),
          scope.float(2 ** -fractionBits),
        ),
        scope.float(0),
      );
    const rows = this.#tables.map(({ values, width }) => {
      if (width === 0) return scope.array(new Float32Array(1));
      const table = scope.array(values, [values.length / width / 2, 2 * width]);
      const found = scope.take(table, row());
      const [low, more] = [
        scope.slice(found, 0, width),
        scope.slice(found, width, 2 * width),
      ];
      return scope.add(low, scope.mul(part(), more));
    });
    const results = this.#ofTensor.map((index) => rows[index]!);
    scope.close(results);
    return results;
  }
}

/** Values of a step that is traced: the keys are those of `randomKey`. */
export const tracedStep = (
  jax: Jax,
  table: StepTable,
  step: Tensor,
  seed: number,
): StepValues => ({
  uniforms: table.at(jax, step),
  key(scope: Scope, tensor, state) {
    const mixed = (key: Tensor, counter: Tensor) =>
      mixWords(scope, scope.xor(key, counter));
    // What is known is mixed here: jax-js folds constants in float64.
    const counted = mixWords(scope, scope.add(step, scope.word(spread)));
    return [
      counted,
      ...[tensor, state].map((n) => scope.word(mix(n + spread))),
    ].reduce(mixed, scope.word(randomKey(seed)));
  },
});

const spread = 0x9e3779b9;
