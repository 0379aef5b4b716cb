/**
 * Plain PyTorch state: `exp_avg` and `exp_avg_sq` in float32 (bfloat16 is read,
 * too), `momentum_buffer` of SGD, and what the other optimizers call theirs.
 */
import { float32 as format } from "../formats/format.ts";
import { FileError } from "../io/fault.ts";
import {
  chooseShape,
  floatsOf,
  floatValue,
  plannedFloats,
  sizeOf,
  smallShape,
  type Layout,
  type StateValue,
} from "./layout.ts";
import { optimizerNames, stateKind } from "./names.ts";

function keysOf(optimizer: string): Readonly<Record<string, string>> {
  const keys = optimizerNames[optimizer]?.torch;
  if (!keys)
    throw new FileError(
      `there is no layout of ${optimizer} in PyTorch's terms; there are ${Object.keys(optimizerNames).join(", ")}`,
    );
  return keys;
}

const isSmall = (state: string) => state === "row" || state === "col";

export const plain: Layout = {
  name: "float32",
  title: "float32 state in PyTorch's terms",
  bits: [32],
  step: "F32",
  async read({ key, fields }, { source, optimizer, shape: known }) {
    const found = Object.entries(keysOf(optimizer)).filter(([, theirs]) =>
      fields.has(theirs),
    );
    const states: Record<string, StateValue> = {};
    const shapeOf = (theirs: string) =>
      source.tensors.get(fields.get(theirs)!)!.shape;
    const whole = found.find(([state]) => !isSmall(state));
    const row = fields.has("exp_avg_sq_row") && shapeOf("exp_avg_sq_row");
    const guess = whole
      ? shapeOf(whole[1])
      : row && fields.has("exp_avg_sq_col")
        ? [...row, shapeOf("exp_avg_sq_col").at(-1) ?? 1]
        : undefined;
    if (!guess)
      throw new FileError(
        `'${key}' has none of ${Object.values(keysOf(optimizer)).join(", ")}`,
      );
    const shape = chooseShape(key, guess, known);
    for (const [state, theirs] of found) {
      const length = sizeOf(smallShape(state, shape));
      if (sizeOf(shapeOf(theirs)) !== length)
        throw new FileError(
          `'${fields.get(theirs)}' must have ${length} values, and has ${sizeOf(shapeOf(theirs))}`,
        );
      states[state] = floatValue(source, fields.get(theirs)!, length);
    }
    return { shape, states };
  },
  fit({ optimizer, state }) {
    if (!Object.hasOwn(keysOf(optimizer), state))
      throw new FileError(
        `${optimizer} has no key for the state '${state}' in PyTorch's terms`,
      );
    stateKind(optimizer, state);
    return format;
  },
  plan(prefix, optimizer, shape, formats) {
    const keys = keysOf(optimizer);
    return Object.keys(formats).map((state) =>
      plannedFloats(
        `${prefix}${keys[state]}`,
        smallShape(state, shape),
        (stored) => floatsOf(stored[state]!),
      ),
    );
  },
};
