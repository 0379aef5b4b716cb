/** Numbers as people read them; the same words as on the command line. */
import { divergence, type RecipeSummary, type Spread } from "../summary.ts";
import { digits, nats } from "../../units.ts";
export { bytes, count, duration, plural } from "../../units.ts";

/** 1.953 ± 0.012 */
export function loss(value: Spread | undefined, signed = false): string {
  if (!value) return "–";
  const { mean, deviation } = value;
  const tail = deviation === undefined ? "" : ` ± ${nats(deviation)}`;
  return `${nats(mean, signed).replace("-", "−")}${tail}`;
}

/** A recipe's loss, and what it leaves out. */
export function lossOf(row: RecipeSummary): string {
  const words = divergence(row);
  if (!words) return loss(row.validationLoss);
  return row.validationLoss ? `${loss(row.validationLoss)}, ${words}` : words;
}

export const milliseconds = (value: number) => `${digits(value)} ms`;

export const percent = (share: number) =>
  Number.isFinite(share) ? `${digits(100 * share)} %` : "–";
