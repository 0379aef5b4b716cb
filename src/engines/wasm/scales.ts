/** New scales that must be known before the update: one a tensor, and rank-1. */
import { scaleCount, type QuantizedFormat } from "../../formats/format.ts";
import { inverseScale, storedScale } from "../../formats/quantize.ts";
import { leadingScales, leadingSpread, twoLists } from "../../formats/rank1.ts";
import { task, taskState, taskStateBytes } from "./layout.ts";
import { Measured } from "./measured.ts";
import type { Heap } from "./memory.ts";
import type { MemoryPlan } from "./plan.ts";
import { byKernel, type Piece, type Tasks } from "./tasks.ts";

export class Scales {
  readonly #plan: MemoryPlan;
  readonly #heap: Heap;
  readonly #tasks: Tasks;

  constructor(plan: MemoryPlan, heap: Heap, tasks: Tasks) {
    this.#plan = plan;
    this.#heap = heap;
    this.#tasks = tasks;
    for (const { kernels, smallAt, rank1 } of plan.placed)
      rank1.forEach(({ oldRow, oldLast, newRow, newLast }, i) =>
        heap.words.set(
          [oldRow, oldLast, newRow, newLast],
          smallAt / 4 + kernels.small.length + 4 * i,
        ),
      );
  }

  /** Rank-1 scales as the kernels read them: by row, and by index of the last axis. */
  spread(work: readonly (readonly Piece[])[]): void {
    const { floats } = this.#heap;
    const { statesAt } = this.#tasks.step;
    for (const pieces of work) {
      if (pieces.length === 0) continue;
      const { plan, states, rank1 } = this.#plan.placed[pieces[0]!.tensor]!;
      for (const { s, oldRow, oldLast } of rank1) {
        const format = states[s]!.format as QuantizedFormat;
        const at = (statesAt + states[s]!.scales) / 4;
        const count = scaleCount(format, plan.size, plan.shape);
        const scales = floats.slice(at, at + count);
        this.#writeRank1(format, plan.shape, scales, oldRow, oldLast);
      }
    }
  }

  measure(work: readonly (readonly Piece[])[]): Measured {
    const { placed } = this.#plan;
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
      this.#tasks.run(
        kernel,
        pieces,
        { parameter: true, write: false, measured },
        (record, { tensor }) => this.#takeLargest(record, tensor, measured),
      );
    return measured;
  }

  /** Puts the new scales in their place, after the update. */
  store(measured: Measured): void {
    const { placed } = this.#plan;
    const { floats } = this.#heap;
    const { statesAt } = this.#tasks.step;
    const place = (tensor: number, s: number) =>
      (statesAt + placed[tensor]!.states[s]!.scales) / 4;
    for (const [[tensor, s], scale] of measured.entries())
      floats[place(tensor, s)] = scale;
    for (const [[tensor, s], scales] of measured.rank1())
      floats.set(scales, place(tensor, s));
  }

  /** Measures a tensor's rank-1 scales, alone and on one thread. */
  #measureRank1(pieces: readonly Piece[], measured: Measured): void {
    const { placed, sums } = this.#plan;
    const { doubles, words } = this.#heap;
    const { tensor } = pieces[0]!;
    const { plan, kernels, rank1, states } = placed[tensor]!;
    let at = sums.at;
    const take = (place: number, length: number) => {
      words[sums.table / 4 + place] = at;
      const view = doubles.subarray(at / 8, at / 8 + length).fill(0);
      at += 8 * length;
      return view;
    };
    const formats = rank1.map(({ s }) => states[s]!.format as QuantizedFormat);
    const views = formats.map((format, i) => {
      const { rows, last } = twoLists(format, plan.shape);
      return { rows: take(2 * i, rows), last: take(2 * i + 1, last) };
    });
    this.#tasks.run(
      kernels.measure!,
      pieces,
      { parameter: true, write: false, measured, serial: true },
      (record) => this.#takeLargest(record, tensor, measured),
    );
    rank1.forEach(({ s, newRow, newLast }, i) => {
      const { rows, last } = views[i]!;
      const format = formats[i]!;
      const leading =
        format.scale === "tile"
          ? rows
          : leadingScales(Float32Array.from(rows), plan.shape);
      const scales = new Float32Array(leading.length + last.length);
      scales.set(leading);
      scales.set(last, leading.length);
      scales.set(scales.map(storedScale));
      measured.setRank1(tensor, s, scales);
      this.#writeRank1(
        format,
        plan.shape,
        scales,
        newRow,
        newLast,
        inverseScale,
      );
    });
  }

  #writeRank1(
    format: QuantizedFormat,
    shape: readonly number[],
    scales: Float32Array,
    rowAt: number,
    lastAt: number,
    as: (scale: number) => number = (scale) => scale,
  ): void {
    const leading = scales.length - twoLists(format, shape).last;
    const rows =
      format.scale === "tile"
        ? scales.slice(0, leading)
        : leadingSpread(scales.subarray(0, leading), shape);
    this.#heap.floats.set(rows.map(as), rowAt / 4);
    this.#heap.floats.set(scales.subarray(leading).map(as), lastAt / 4);
  }

  /** Largest magnitudes of the states with one scale a tensor, from a record. */
  #takeLargest(record: number, tensor: number, measured: Measured): void {
    this.#plan.placed[tensor]!.states.forEach(({ format }, s) => {
      if (format.kind === "float" || format.scale !== "tensor") return;
      const largest = this.#heap.view.getUint32(
        record + task.states + s * taskStateBytes + taskState.largest,
        true,
      );
      measured.raise(tensor, s, largest);
    });
  }
}
