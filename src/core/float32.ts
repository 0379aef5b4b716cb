/** States as plain numbers, from an optimizer and into one. Loaded when first used. */
import { randomKey } from "../formats/random.ts";
import { valuesOf } from "../io/checkpoint.ts";
import { decodeStored, encodeStored } from "../io/requantize.ts";
import { describeRunning, settle, type Running } from "./checkpoint.ts";

/** The states of all tensors as plain numbers, by tensor and by state. */
export interface Float32State {
  /** Steps taken. */
  readonly step: number;
  /** By tensor and by state: a value an element, in row-major order; of states with one value a row, a column or a tensor, these. */
  readonly tensors: Readonly<
    Record<string, Readonly<Record<string, Float32Array<ArrayBuffer>>>>
  >;
}

/** All states as plain numbers. */
export async function readFloat32(running: Running): Promise<Float32State> {
  const { step, tensors } = describeRunning(running);
  const named: [string, Record<string, Float32Array<ArrayBuffer>>][] = [];
  for (const { name, shape, states } of tensors) {
    const values: [string, Float32Array<ArrayBuffer>][] = [];
    for (const { name: state, kind, format, read } of states)
      values.push([
        state,
        decodeStored(await read(), format, valuesOf(kind, shape), shape),
      ]);
    named.push([name, Object.fromEntries(values)]);
  }
  return { step, tensors: Object.fromEntries(named) };
}

/**
 * Takes over states given as plain numbers.
 *
 * @param begin called before the first write.
 * @throws TypeError or RangeError for a name, length or value that cannot be.
 */
export async function writeFloat32(
  running: Running,
  given: Float32State,
  begin: () => void,
): Promise<void> {
  const owner = `${running.recipe.name}: toLowBit`;
  const { tensors, resolved, session, settings, accumulator } = running;
  const { step } = given;
  if (!Number.isSafeInteger(step) || step < 0)
    throw new RangeError(
      `${owner}: step must be a count of steps, given ${String(step)}`,
    );
  checkFloat32(owner, running, given);
  begin();
  for (const [i, { name, shape, size }] of tensors.entries()) {
    const { optimizer, formats } = resolved[i]!;
    for (const [s, state] of optimizer.program.states.entries())
      session.writeState(
        i,
        s,
        encodeStored(
          given.tensors[name]![state]!,
          formats[s]!,
          shape,
          randomKey(settings.seed, step, i, s),
        ),
      );
    await settle(session, size);
  }
  accumulator?.restore(0);
}

function checkFloat32(
  owner: string,
  { tensors, resolved }: Running,
  given: Float32State,
): void {
  const known = tensors.map(({ name }) => name);
  const extra = Object.keys(given.tensors).find((n) => !known.includes(n));
  if (extra !== undefined)
    throw new TypeError(`${owner}: there is no tensor '${extra}'`);
  for (const [i, { name, shape }] of tensors.entries()) {
    const { optimizer } = resolved[i]!;
    const states = Object.hasOwn(given.tensors, name)
      ? given.tensors[name]!
      : {};
    const { states: names } = optimizer.program;
    const unknown = Object.keys(states).find((s) => !names.includes(s));
    if (unknown !== undefined)
      throw new TypeError(
        `${owner}: '${name}' has no state '${unknown}'; there are ${names.join(", ")}`,
      );
    for (const state of names) {
      const values: unknown = states[state];
      const length = valuesOf(optimizer.state[state]!, shape);
      if (!(values instanceof Float32Array) || values.length !== length)
        throw new TypeError(
          `${owner}: '${name}/${state}' must be a Float32Array of ${length}, given ${values instanceof Float32Array ? `one of ${values.length}` : String(values)}`,
        );
      const bad = values.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0)
        throw new RangeError(
          `${owner}: '${name}/${state}' is ${values[bad]} at ${bad}; states are finite`,
        );
    }
  }
}
