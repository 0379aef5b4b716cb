/**
 * The passes of a formula's reductions, and between them, on this thread, the
 * values that follow from them. Tensors in which rows or columns are summed
 * take a turn each, on one thread: their sums share a place, and their order is
 * fixed.
 */
import { reductionsOf } from "../../formula/program.ts";
import { shapeLength } from "../../formula/small.ts";
import { SmallValues } from "../../formula/small-values.ts";
import { task } from "./layout.ts";
import { Measured } from "./measured.ts";
import type { Heap } from "./memory.ts";
import type { MemoryPlan } from "./plan.ts";
import type { Piece, Tasks } from "./tasks.ts";

export class Reductions {
  readonly #plan: MemoryPlan;
  readonly #heap: Heap;
  readonly #tasks: Tasks;

  constructor(plan: MemoryPlan, heap: Heap, tasks: Tasks) {
    this.#plan = plan;
    this.#heap = heap;
    this.#tasks = tasks;
    for (const { kernels, smallAt, smallValues } of plan.placed)
      kernels.small.forEach((node, i) => {
        heap.words[smallAt / 4 + i] = smallValues.get(node)!;
      });
  }

  /** The values of each tensor that has any, where the kernels read them. */
  run(work: readonly (readonly Piece[])[]): Map<number, SmallValues> {
    const small = new Map<number, SmallValues>();
    for (const pieces of work) {
      if (pieces.length === 0) continue;
      const { tensor } = pieces[0]!;
      const { plan, geometry, smallStates, kernels } =
        this.#plan.placed[tensor]!;
      const { program } = plan;
      if (program.passes === 0 && kernels.small.length + smallStates.size === 0)
        continue;
      const values = new SmallValues(
        program,
        geometry,
        this.#tasks.step.tensors[tensor]!.uniforms,
        smallStates,
      );
      small.set(tensor, values);
      for (let pass = 0; pass < program.passes; pass++) {
        this.#write(tensor, values, pass);
        this.#pass(tensor, pieces, pass, values);
      }
      this.#write(tensor, values, program.passes);
    }
    return small;
  }

  /** Puts the new values of the states that are not per element in their place. */
  store(small: ReadonlyMap<number, SmallValues>): void {
    for (const [tensor, values] of small) {
      const { plan, smallStates } = this.#plan.placed[tensor]!;
      const { states, stateShapes } = plan.program;
      // All are computed from the old ones before any is replaced.
      const fresh = [...smallStates.keys()].map((name) =>
        values.output(name, stateShapes[states.indexOf(name)]!),
      );
      [...smallStates.values()].forEach((state, i) => state.set(fresh[i]!));
    }
  }

  /** Puts what is known after `level` passes where the kernels read it. */
  #write(tensor: number, values: SmallValues, level: number): void {
    const { plan, kernels, smallValues } = this.#plan.placed[tensor]!;
    for (const node of kernels.small)
      if (plan.program.levels[node]! <= level)
        this.#heap.floats.set(values.get(node), smallValues.get(node)! / 4);
  }

  #pass(
    tensor: number,
    pieces: readonly Piece[],
    pass: number,
    values: SmallValues,
  ): void {
    const { placed, sums } = this.#plan;
    const { plan, geometry, kernels } = placed[tensor]!;
    const { program } = plan;
    const { doubles, words, view } = this.#heap;
    const reductions = reductionsOf(program, pass).map((node) => {
      const { how } = program.nodes[node] as { how: "sum" | "mean" | "max" };
      return { node, how, shape: program.shapes[node]! };
    });
    const neutral = (how: string) => (how === "max" ? -Infinity : 0);
    let at = sums.at;
    const places = reductions.map(({ how, shape }, i) => {
      if (shape === "one") return undefined;
      const length = shapeLength(shape, geometry);
      const place = doubles
        .subarray(at / 8, at / 8 + length)
        .fill(neutral(how));
      words[sums.table / 4 + i] = at;
      at += 8 * length;
      return place;
    });
    const byTask = reductions.map((): number[] => []);
    this.#tasks.run(
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
          results.push(view.getFloat64(record + task.results + 8 * i, true)),
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
}
