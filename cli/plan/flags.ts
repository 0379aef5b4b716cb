import { InputError } from "lowbit/trainer";
import type { PlanOptions } from "lowbit/plan";
import { readFlags, splitList, type FlagKind } from "../flags.ts";

const kinds = {
  params: "text",
  layers: "text",
  width: "text",
  heads: "text",
  vocabulary: "text",
  memory: "text",
  reserve: "text",
  dtype: "text",
  batch: "text",
  context: "text",
  checkpointing: "switch",
  attention: "text",
  activations: "text",
  host: "text",
  lora: "text",
  optimizers: "text",
  preset: "text",
  json: "switch",
} as const satisfies Record<string, FlagKind>;

/** What the command line of `lowbit plan` says. */
export interface PlanFlags {
  /** A file, a folder, or a public model's name. */
  readonly model: string | undefined;
  /** A model by its sizes; undefined when none was given. */
  readonly sizes: Sizes | undefined;
  readonly preset: string | undefined;
  readonly json: boolean;
  readonly options: PlanOptions;
}

export interface Sizes {
  readonly parameters?: number | undefined;
  readonly layers?: number | undefined;
  readonly width?: number | undefined;
  readonly heads?: number | undefined;
  readonly vocabulary?: number | undefined;
}

/** @throws InputError for what is unknown, missing or no number. */
export function parsePlanFlags(args: readonly string[]): PlanFlags {
  const { texts, switches, positionals } = readFlags(args, kinds, {
    command: "plan",
  });
  if (positionals.length > 1)
    throw new InputError(
      `one model at a time, given ${positionals.map((name) => `'${name}'`).join(" and ")}`,
    );
  const whole = (name: keyof typeof texts) =>
    texts[name] === undefined ? undefined : parseCount(name, texts[name]);
  const size = (name: keyof typeof texts) =>
    texts[name] === undefined ? undefined : parseSize(name, texts[name]);
  const sizes = {
    parameters: whole("params"),
    layers: whole("layers"),
    width: whole("width"),
    heads: whole("heads"),
    vocabulary: whole("vocabulary"),
  };
  const sized = Object.values(sizes).some((value) => value !== undefined);
  if (texts.preset !== undefined)
    checkAlone([...positionals, ...Object.keys(texts), ...switches]);
  if (sized && positionals.length > 0)
    throw new InputError(
      "a model comes from a file or from --params and the like, not from both",
    );
  return {
    model: positionals[0],
    sizes: sized ? sizes : undefined,
    preset: texts.preset,
    json: switches.has("json"),
    options: given({
      recipes:
        texts.optimizers === undefined
          ? undefined
          : splitList(texts.optimizers),
      memory: size("memory"),
      reserve: size("reserve"),
      activations: size("activations"),
      dtype: texts.dtype as PlanOptions["dtype"],
      host: texts.host as PlanOptions["host"],
      attention: texts.attention as PlanOptions["attention"],
      batch: whole("batch"),
      context: whole("context"),
      lora: whole("lora"),
      checkpointing: switches.has("checkpointing") || undefined,
    }),
  };
}

/** A paper's table has its models and its assumptions. */
function checkAlone(given: readonly string[]): void {
  const more = given.find((name) => name !== "preset" && name !== "json");
  if (more !== undefined)
    throw new InputError(
      `--preset has its own models and assumptions, and only --json goes with it; leave ${more in kinds ? `--${more}` : `'${more}'`} out`,
    );
}

/** Without what was not given. */
const given = (options: {
  [K in keyof PlanOptions]: PlanOptions[K] | undefined;
}): PlanOptions =>
  Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  );

/** 7B, 1.3B, 125M, 834304. */
function parseCount(name: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmbt]?)$/i.exec(text.trim());
  const factors: Record<string, number> = { k: 1e3, m: 1e6, b: 1e9, t: 1e12 };
  const value = match
    ? Number(match[1]) * (factors[match[2]!.toLowerCase()] ?? 1)
    : 0;
  const whole = Math.round(value);
  // 1.3B is whole but for the rounding of a product; 1.5 is not.
  if (whole >= 1 && Math.abs(value - whole) < 1e-9 * whole) return whole;
  throw new InputError(
    `--${name} must be a whole number, 1 or more, as 1024 or 7B, given '${text}'`,
  );
}

/** 24GB (powers of 1000), 24GiB (powers of 1024), 512MB, or bytes. */
function parseSize(name: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b|b|bytes)?$/i.exec(
    text.trim(),
  );
  if (!match)
    throw new InputError(
      `--${name} must be a size, as 24GB, 24GiB or 512MB, given '${text}'`,
    );
  const power = "kmgt".indexOf((match[2] ?? "").toLowerCase()) + 1;
  const unit = (match[2] ? (match[3] ? 1024 : 1000) : 1) ** power;
  return Number(match[1]) * unit;
}
