import type { StateChange } from "lowbit/io";
import { harmless, wrap, type Terminal } from "../terminal.ts";
import { bytes, count, digits, plural } from "../units.ts";
import type { Conversion } from "./command.ts";

/** One object for programs. */
export function jsonOfConversion(done: Conversion): Record<string, unknown> {
  const { input, output, to, open, file } = done;
  const { layout, notes, checkpoint } = open;
  return {
    input,
    from: layout,
    optimizer: checkpoint.optimizer,
    step: checkpoint.step,
    parameters: checkpoint.tensors.length,
    elements: elementsOf(done),
    notes,
    output,
    to,
    bytes: file.size,
    changes: file.changes(),
  };
}

const elementsOf = ({ open }: Conversion) =>
  open.checkpoint.tensors.reduce(
    (sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1),
    0,
  );

/** What was recognised, what became of it, and what that cost. */
export function describeConversion(
  done: Conversion,
  { bold, width }: Terminal,
): string {
  const { input, inputBytes, output, to, open, file } = done;
  const { layout, notes, checkpoint } = open;
  const { optimizer, step, tensors } = checkpoint;
  const columns = Math.min(Math.max(width(), 40), 100);
  return [
    `${bold(harmless(input))}: ${layout}, ${optimizer} after ${plural(step, "step")}, ${plural(tensors.length, "parameter")}, ${count(elementsOf(done))} elements, ${bytes(inputBytes)}`,
    ...groups(file.changes()).map(describeGroup),
    ...notes.flatMap((note) => indent(`note: ${harmless(note)}`, columns)),
    `${bold(harmless(output))}: ${to}, ${bytes(file.size)}`,
  ].join("\n");
}

function indent(text: string, columns: number): string[] {
  return wrap(text, columns - 4).map(
    (line, i) => (i === 0 ? "  " : "    ") + line,
  );
}

interface Group {
  readonly change: StateChange["change"];
  readonly from: string;
  readonly to: string;
  readonly states: readonly StateChange[];
}

/** States that fared alike. */
function groups(changes: readonly StateChange[]): Group[] {
  const found = new Map<string, StateChange[]>();
  for (const change of changes) {
    const key = `${change.change}|${change.from}|${change.to}`;
    const group = found.get(key);
    if (group) group.push(change);
    else found.set(key, [change]);
  }
  return [...found.values()].map((states) => ({ ...states[0]!, states }));
}

function describeGroup({ change, from, to, states }: Group): string {
  const what = plural(states.length, "state");
  if (change === "kept") return `  ${what} kept as stored: ${from}`;
  if (change === "decoded")
    return `  ${what} decoded without loss: ${from} to ${to}`;
  const errors = states.flatMap(({ error }) => (error ? [error] : []));
  const worst = states.reduce((a, b) =>
    (b.error?.relative ?? 0) > (a.error?.relative ?? 0) ? b : a,
  );
  const mean =
    errors.reduce((sum, { relative }) => sum + relative, 0) /
    Math.max(1, errors.length);
  return `  ${what} requantized: ${from} to ${to}\n    root mean square error ${percent(mean)} of the values' own, at most ${percent(worst.error?.relative ?? 0)} (${harmless(worst.parameter)}/${worst.state})`;
}

const percent = (part: number) => `${digits(100 * part)} %`;
