/** The stored states of one tensor, by name. */
import type { Session, StoredState } from "../engines/engine.ts";
import type { Format } from "../formats/format.ts";
import { checkStored } from "./check.ts";
import { stateLength } from "./memory.ts";
import { stateNames, type Parts } from "./parts.ts";

/** A state's format beside its stored form. */
export type ReadState = StoredState & { readonly format: Format };

export function formatsOfTensor(
  parts: Parts,
  tensor: number,
): Readonly<Record<string, Format>> {
  const { formats } = parts.resolved[tensor]!;
  return Object.fromEntries(
    stateNames(parts, tensor).map((state, s) => [state, formats[s]!]),
  );
}

/** Copies of codes and scales, or float32 values. */
export async function readStates(
  parts: Parts,
  session: Session,
  tensor: number,
): Promise<Record<string, ReadState>> {
  const formats = formatsOfTensor(parts, tensor);
  const states = await Promise.all(
    Object.keys(formats).map((_, s) => session.readState(tensor, s)),
  );
  return Object.fromEntries(
    Object.entries(formats).map(([name, format], s) => [
      name,
      { ...states[s]!, format },
    ]),
  );
}

/** @throws TypeError or RangeError when a state is none of these or not of this form; nothing has changed then. */
export function writeStates(
  parts: Parts,
  session: Session,
  tensor: number,
  states: Readonly<Record<string, StoredState>>,
): void {
  const names = stateNames(parts, tensor);
  const info = parts.tensors[tensor]!;
  const { formats, optimizer } = parts.resolved[tensor]!;
  for (const [state, stored] of Object.entries(states)) {
    const s = names.indexOf(state);
    if (s < 0)
      throw new TypeError(
        `${parts.recipe.name}: unknown state '${state}'; there are ${names.join(", ")}`,
      );
    checkStored(
      `${info.name}/${state}`,
      formats[s]!,
      stateLength(optimizer, info, s),
      info.shape,
      stored,
    );
  }
  for (const [state, stored] of Object.entries(states))
    session.writeState(tensor, names.indexOf(state), stored);
}
