/** Numbers as people read them; the same words as on the command line. */
import type { Spread } from "../summary.ts";
import { nats } from "../../units.ts";
export { bytes, count, duration, plural } from "../../units.ts";

/** 1.953 ± 0.012 */
export function loss(value: Spread | undefined, signed = false): string {
  if (!value) return "–";
  const { mean, deviation } = value;
  const tail = deviation === undefined ? "" : ` ± ${nats(deviation)}`;
  return `${nats(mean, signed).replace("-", "−")}${tail}`;
}

export const milliseconds = (value: number) => `${value.toPrecision(3)} ms`;

export const percent = (share: number) => `${(100 * share).toPrecision(3)} %`;
