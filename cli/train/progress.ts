import type { StepResult } from "lowbit/trainer";
import { count, duration, rate } from "../units.ts";

/** Steps that the shown loss and speed are means over. */
const WINDOW = 20;

/** Loss and speed of the last steps. */
export class Pace {
  readonly #recent: StepResult[] = [];

  add(result: StepResult): void {
    this.#recent.push(result);
    if (this.#recent.length > WINDOW) this.#recent.shift();
  }

  /** Mean over the last steps, nats a byte. */
  get loss(): number {
    return this.#mean((result) => result.loss);
  }

  get milliseconds(): number {
    // The first step compiles the model; it says nothing about the next.
    const later = this.#recent.filter(({ step }) => step > 1);
    const counted = later.length > 0 ? later : this.#recent;
    const sum = counted.reduce((total, one) => total + one.milliseconds, 0);
    return sum / counted.length;
  }

  get tokensPerSecond(): number {
    return (1000 * this.#mean((result) => result.tokens)) / this.milliseconds;
  }

  #mean(of: (result: StepResult) => number): number {
    const sum = this.#recent.reduce((total, one) => total + of(one), 0);
    return sum / this.#recent.length;
  }
}

/**
 * `step 120/300 [#####.....] loss 2.41 · 1.9k bytes/s · 1:32 left`, with a bar
 * when a width is given and there is room.
 */
export function progressLine(
  pace: Pace,
  step: number,
  steps: number,
  width = 0,
): string {
  const left = duration(((steps - step) * pace.milliseconds) / 1000);
  const head = `step ${count(step).padStart(count(steps).length)}/${count(steps)}`;
  const tail = `loss ${pace.loss.toFixed(3)} · ${rate(pace.tokensPerSecond)} bytes/s · ${left} left`;
  const room = Math.min(40, width - head.length - tail.length - 2);
  if (width > 0 && room < 8) return `${head} ${tail}`.slice(0, width);
  const bar = width > 0 ? ` ${progressBar(step / steps, room)}` : "";
  return `${head}${bar} ${tail}`;
}

const progressBar = (part: number, width: number) => {
  const full = Math.round(part * width);
  return "█".repeat(full) + "░".repeat(width - full);
};
