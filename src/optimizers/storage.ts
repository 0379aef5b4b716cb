/** How a recipe's states are stored: what may be said of it, and the formats it comes to. */
import {
  float32,
  resolveFormat,
  type Format,
  type FormatOptions,
} from "../formats/format.ts";
import { stateShape, type StateKind } from "../formula/program.ts";
import type { Optimizer } from "./compile.ts";

/** What a user may set beside the hyperparameters. */
export interface StorageOptions {
  /** Bits of every state: 2..8, 16 (bfloat16), or 32. Default 32. */
  readonly bits?: number;
  /** Elements that share an absmax. */
  readonly blockSize?: number;
  /** Formats by state; they win over `bits` and `blockSize`. */
  readonly state?: Readonly<Record<string, FormatOptions>>;
}

export const storageKeys = ["bits", "blockSize", "state"] as const;

/** Without the options that were not set. */
export const definedOnly = (options: {
  [K in keyof StorageOptions]: StorageOptions[K] | undefined;
}): StorageOptions =>
  Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  );

/**
 * States' formats over those of a recipe or an earlier rule: of each state, what
 * is left out stays as it was.
 */
export function mergeStates(
  { bits: base, state: kept }: StorageOptions,
  given: StorageOptions["state"],
): StorageOptions["state"] {
  if (!kept || !given) return given ?? kept;
  const merged: Record<string, FormatOptions> = { ...kept };
  for (const [key, format] of Object.entries(given)) {
    const own = merged[key] ?? {};
    const { bits = own.bits ?? base } = format;
    merged[key] = { ...inBits(own, own.bits ?? base, bits), ...format };
  }
  return merged;
}

/** What a format says that holds in other bits: a codebook may not come in them, and bfloat16 is only rounded. */
function inBits(
  format: FormatOptions,
  from: number | undefined,
  to: number | undefined,
): FormatOptions {
  if (from === to) return format;
  const { codebook: _, ...rest } = format;
  if (to !== 16) return rest;
  return format.rounding === "stochastic" ? { rounding: "stochastic" } : {};
}

/** The format of every state of a recipe, in the order of the states. */
export function stateFormats({
  optimizer,
  storage,
}: {
  readonly optimizer: Optimizer;
  readonly storage: StorageOptions;
}): Record<string, Format> {
  const { bits = 32, blockSize, state = {} } = storage;
  for (const [key, options] of Object.entries(state)) {
    const kind = kindOf(optimizer, key);
    if (kind === undefined)
      throw new TypeError(
        `${optimizer.name}: unknown state '${key}'; there ${Object.keys(optimizer.state).length === 1 ? "is" : "are"} ${Object.keys(optimizer.state).join(", ") || "none"}`,
      );
    if (stateShape(kind) !== "element" && options.bits !== 32)
      throw new TypeError(
        `${optimizer.name}: state '${key}' holds few values and is always float32; leave its format out`,
      );
  }
  return formatsOf(optimizer, {
    bits,
    ...(blockSize === undefined ? {} : { blockSize }),
    state,
  });
}

/** As {@link stateFormats}, for a form of the optimizer that may lack some of the states named. */
export function formatsOf(
  optimizer: Optimizer,
  { bits = 32, blockSize, state = {} }: StorageOptions,
): Record<string, Format> {
  return Object.fromEntries(
    Object.entries(optimizer.state).map(([key, kind]) => {
      if (kind !== "signed" && kind !== "unsigned") return [key, float32];
      const format = resolveFormat(
        {
          bits,
          ...(blockSize === undefined ? {} : { blockSize }),
          ...state[key],
        },
        kind,
      );
      if (
        format.kind === "quantized" &&
        format.rounding === "preconditioner" &&
        !Object.hasOwn(optimizer.floors, key)
      )
        throw new TypeError(
          `${optimizer.name}: state '${key}' cannot have rounding 'preconditioner', which is for states by whose root the update divides: ${Object.keys(optimizer.floors).join(", ") || "here none"}; use 'stochastic'`,
        );
      return [key, format];
    }),
  );
}

/** The kind of a state in whichever form of the optimizer has it. */
function kindOf(optimizer: Optimizer, state: string): StateKind | undefined {
  for (const form of [
    optimizer,
    ...optimizer.variants.map((variant) => variant.optimizer),
  ]) {
    const kind = form.state[state] ?? form.vector?.state[state];
    if (kind) return kind;
  }
  return undefined;
}
