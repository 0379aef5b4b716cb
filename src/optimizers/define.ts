import {
  float32,
  resolveFormat,
  type Format,
  type FormatOptions,
} from "../formats/format.ts";
import { checkNames } from "../formula/error.ts";
import { compileFormula } from "../formula/compile.ts";
import {
  stateShape,
  type Program,
  type StateKind,
} from "../formula/program.ts";

/** A hyperparameter: a number, or true and false, which a formula reads as 1 and 0. */
export type HyperValue = number | boolean;
export type Hyper = Readonly<Record<string, HyperValue>>;

/** A learning rate: a number, or a function of the step (the first is 1). */
export type LearningRate = number | ((step: number) => number);

/** Of a step's scalars by name. */
export type Floor = (scalars: Readonly<Record<string, number>>) => number;

/** States and the update they go with. */
export interface Form {
  /**
   * Every state: values per element, `signed` or `unsigned`, or one a `row`, one
   * a `column` (of the last two axes), or `one` number; those are float32. All
   * start at 0.
   */
  readonly state: Readonly<Record<string, StateKind>>;
  /**
   * The update of one element, in the notation of the papers. A list is joined;
   * forms may share its parts. (Concatenating them where the optimizer is
   * defined would keep bundlers from leaving it out.)
   */
  readonly update: string | readonly string[];
  /**
   * State and update for tensors with fewer than two axes, for an optimizer
   * that speaks of rows and columns.
   */
  readonly vector?: Pick<Form, "state" | "update">;
}

/** An optimizer as data; see docs/architecture.md for the language of `update`. */
export interface OptimizerDefinition<H extends Hyper = Hyper> extends Form {
  /** Lower case letters and digits, beginning with a letter. */
  readonly name: string;
  /** Every hyperparameter with its default. `lr` must be one of them. */
  readonly hyper: H;
  /**
   * What depends on the step but not on the element: evaluated in float64 on
   * the host, once a step. `t` is the step, from 1.
   */
  readonly scalars?: (
    hyper: { readonly [K in keyof H]: number },
    t: number,
  ) => Readonly<Record<string, number>>;
  /**
   * Of states by whose root the update divides: what is added to that root, in
   * its unit, from hyperparameters and step scalars. What `rounding:
   * "preconditioner"` of such a state needs.
   */
  readonly floors?: Readonly<Record<string, Floor>>;
  /** Extra checks of hyperparameters; throw a RangeError. */
  readonly check?: (hyper: { readonly [K in keyof H]: number }) => void;
  /**
   * Other forms for some values of the hyperparameters: what an option needs in
   * states nobody pays for who does not set it. The first whose `when` holds.
   */
  readonly variants?: readonly (Form & {
    readonly when: (hyper: { readonly [K in keyof H]: number }) => boolean;
  })[];
}

/** An optimizer's definition, checked and compiled. */
export interface Optimizer {
  readonly name: string;
  readonly hyper: Hyper;
  readonly state: Readonly<Record<string, StateKind>>;
  readonly program: Program;
  /** The text that the program was made from. */
  readonly update: string;
  /** The same optimizer for tensors with fewer than two axes; itself when that makes no difference. */
  readonly vector: Optimizer | undefined;
  /** Other forms, by hyperparameters; see {@link formOf}. */
  readonly variants: readonly {
    readonly when: (hyper: Readonly<Record<string, number>>) => boolean;
    readonly optimizer: Optimizer;
  }[];
  /** The same form with gradients limited to the scalar `maxGradValue`. */
  limited(): Optimizer;
  /** Hyperparameters and step scalars by name, as the formula reads them. */
  scalarsAt(
    hyper: Readonly<Record<string, number>>,
    t: number,
  ): Record<string, number>;
  check(hyper: Readonly<Record<string, number>>): void;
  /** By state, see {@link OptimizerDefinition.floors}. */
  readonly floors: Readonly<Record<string, Floor>>;
}

/** What a user may set beside the hyperparameters. */
export interface StorageOptions {
  /** Bits of every state: 2..8, 16 (bfloat16), or 32. Default 32. */
  readonly bits?: number;
  /** Elements that share an absmax. */
  readonly blockSize?: number;
  /** Formats by state; they win over `bits` and `blockSize`. */
  readonly state?: Readonly<Record<string, FormatOptions>>;
}

export type RecipeOptions<H extends Hyper = Hyper> = {
  readonly [K in keyof H]?: K extends "lr"
    ? LearningRate
    : HyperValue extends H[K]
      ? HyperValue
      : H[K] extends boolean
        ? boolean
        : number;
} & StorageOptions;

/** An optimizer, its hyperparameters and how its states are stored. */
export interface Recipe {
  /** For people: `adamw8bit`, or `adamw` when nothing names it better. */
  readonly name: string;
  readonly optimizer: Optimizer;
  readonly lr: LearningRate;
  /** Every hyperparameter but lr, booleans as 1 and 0. */
  readonly hyper: Readonly<Record<string, number>>;
  readonly storage: StorageOptions;
}

/** Makes a {@link Recipe} from options; also carries the definition. */
export interface OptimizerFactory<H extends Hyper = Hyper> {
  (options?: RecipeOptions<H>): Recipe;
  readonly optimizerName: string;
  readonly definition: OptimizerDefinition<H>;
}

const storageKeys = ["bits", "blockSize", "state"] as const;

/**
 * Defines an optimizer. Its formula is checked when a recipe is first made, so
 * that a definition nobody uses costs nothing.
 *
 * @throws TypeError or FormulaError, from the first call, when the definition
 * is wrong.
 */
export function defineOptimizer<H extends Hyper>(
  definition: OptimizerDefinition<H>,
): OptimizerFactory<H> {
  let compiled: Optimizer | undefined;
  const optimizer = () => (compiled ??= compile(definition as never));
  const factory = (options: RecipeOptions<H> = {}) =>
    makeRecipe(definition.name, optimizer(), options as RecipeOptions);
  return Object.assign(factory, {
    optimizerName: definition.name,
    definition,
  });
}

function compile(definition: OptimizerDefinition): Optimizer {
  const {
    name,
    hyper,
    scalars,
    check,
    variants = [],
    floors = {},
  } = definition;
  checkDefinition(definition);
  if (!Object.hasOwn(hyper, "lr"))
    throw new TypeError(`${name}: hyper must have 'lr', the learning rate`);
  for (const key of storageKeys)
    if (Object.hasOwn(hyper, key))
      throw new TypeError(
        `${name}: '${key}' is an option of every optimizer and cannot name a hyperparameter`,
      );
  const scalarsAt = (values: Readonly<Record<string, number>>, t: number) => {
    const all: Record<string, number> = {
      ...values,
      ...scalars?.(values as never, t),
    };
    for (const key of stepScalars)
      if (!Number.isFinite(all[key]))
        throw new RangeError(
          `${name}: the scalar '${key}' of step ${t} must be a finite number, given ${String(all[key])}`,
        );
    return all;
  };
  const defaults = numbers(hyper);
  const stepScalars = Object.keys(scalars?.(defaults, 1) ?? {});
  for (const key of stepScalars)
    if (Object.hasOwn(hyper, key))
      throw new TypeError(
        `${name}: '${key}' is both a hyperparameter and a step scalar`,
      );
  const make = (
    { state, update }: Form,
    rest: (self: Optimizer) => Pick<Optimizer, "vector" | "variants">,
    limit?: string,
  ): Optimizer => {
    checkKinds(name, state);
    const program = compileFormula({
      name,
      update: updateText(update),
      states: state,
      scalars: [...Object.keys(hyper), ...stepScalars],
      ...(limit === undefined ? {} : { limit }),
    });
    let limited: Optimizer | undefined;
    const made = {
      name,
      hyper,
      state,
      program,
      update: updateText(update),
      scalarsAt,
      floors,
      check: (values: Readonly<Record<string, number>>) =>
        check?.(values as never),
      limited: () =>
        (limited ??= make(
          { state, update },
          (self) => ({ vector: self, variants: [] }),
          "maxGradValue",
        )),
    };
    return Object.assign(made, rest(made as Optimizer));
  };
  const makeForm = (form: Form, others: Optimizer["variants"]): Optimizer =>
    make(form, (self) => ({
      vector: form.vector
        ? make(form.vector, (own) => ({ vector: own, variants: [] }))
        : self.program.needsMatrix
          ? undefined
          : self,
      variants: others,
    }));
  return makeForm(
    definition,
    variants.map(({ when, ...form }) => ({
      when: when as (hyper: Readonly<Record<string, number>>) => boolean,
      optimizer: makeForm(form, []),
    })),
  );
}

/** The whole text of an update. */
export const updateText = (update: Form["update"]): string =>
  typeof update === "string" ? update : update.join("\n");

const definitionKeys = [
  "name",
  "hyper",
  "state",
  "update",
  "vector",
  "scalars",
  "floors",
  "check",
  "variants",
];

/** What types do not hold in JavaScript. @throws TypeError that says what is missing or unknown. */
function checkDefinition(definition: OptimizerDefinition): void {
  const { name, hyper, variants = [] } = definition;
  if (!/^[a-z][a-z0-9]*$/i.test(name))
    throw new TypeError(
      `defineOptimizer: a name is letters and digits, given '${name}'`,
    );
  checkNames(`${name}: unknown key`, Object.keys(definition), definitionKeys);
  const mustBe = (
    right: boolean,
    key: string,
    wanted: string,
    given: unknown,
  ) => {
    if (!right)
      throw new TypeError(
        `${name}: ${key} must be ${wanted}, given ${String(given)}`,
      );
  };
  const isObject = (given: unknown) => typeof given === "object" && !!given;
  mustBe(isObject(hyper), "hyper", "an object such as { lr: 1e-3 }", hyper);
  for (const form of [definition, ...variants])
    for (const { state, update } of form.vector
      ? [form, form.vector]
      : [form]) {
      mustBe(
        isObject(state),
        "state",
        "an object such as { m: 'signed' }",
        state,
      );
      const isText = typeof update === "string" || Array.isArray(update);
      mustBe(isText, "update", "text such as 'p = p - lr * g'", update);
    }
  for (const [key, value] of Object.entries(hyper))
    mustBe(
      typeof value === "boolean" || Number.isFinite(value),
      `the default of '${key}'`,
      "a finite number, true or false",
      value,
    );
}

function checkKinds(name: string, state: Form["state"]): void {
  const kinds = ["signed", "unsigned", "row", "column", "one"];
  for (const [key, kind] of Object.entries(state))
    if (!kinds.includes(kind))
      throw new TypeError(
        `${name}: state '${key}' must be one of ${kinds.join(", ")}, given '${String(kind)}'`,
      );
}

/**
 * The form of an optimizer that holds for these hyperparameters and a tensor of
 * this many axes; undefined when it has none for vectors.
 */
export function formOf(
  optimizer: Optimizer,
  hyper: Readonly<Record<string, number>>,
  axes: number,
): Optimizer | undefined {
  const form =
    optimizer.variants.find(({ when }) => when(hyper))?.optimizer ?? optimizer;
  return axes < 2 ? form.vector : form;
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

const numbers = (hyper: Hyper): Record<string, number> =>
  Object.fromEntries(
    Object.entries(hyper).map(([key, value]) => [key, Number(value)]),
  );

function makeRecipe(
  name: string,
  optimizer: Optimizer,
  options: RecipeOptions,
): Recipe {
  checkOptionNames(optimizer, Object.keys(options), name);
  const { bits, blockSize, state, lr, ...rest } = options as StorageOptions & {
    lr?: LearningRate;
  } & Record<string, HyperValue>;
  const recipe: Recipe = {
    name,
    optimizer,
    lr: checkLearningRate(name, lr ?? Number(optimizer.hyper.lr)),
    hyper: hyperValues(optimizer, rest),
    storage: definedOnly({ bits, blockSize, state }),
  };
  // Formats are checked here, so that a recipe that exists is a recipe that works.
  stateFormats(recipe);
  return recipe;
}

const definedOnly = (options: {
  [K in keyof StorageOptions]: StorageOptions[K] | undefined;
}): StorageOptions =>
  Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  );

/**
 * Gives a recipe a name and its formats.
 *
 * @param fixed storage of the recipe; `adamw8bit({ bits: 4 })` is an error,
 * while a block size or a state's format may still be set.
 */
export function defineRecipe<H extends Hyper>(
  name: string,
  factory: OptimizerFactory<H>,
  fixed: StorageOptions,
): OptimizerFactory<H> {
  const named = (options: RecipeOptions<H> = {}): Recipe => {
    const given = options as StorageOptions;
    if (given.bits !== undefined && given.bits !== fixed.bits)
      throw new TypeError(
        `${name}: bits are ${fixed.bits} by its name, given ${given.bits}; use ${factory.optimizerName}({ bits: ${given.bits} })`,
      );
    const state = mergeStates(fixed, given.state);
    try {
      return {
        ...factory({
          ...options,
          ...fixed,
          ...definedOnly({
            bits: fixed.bits,
            blockSize: given.blockSize,
            state,
          }),
        } as RecipeOptions<H>),
        name,
      };
    } catch (error) {
      throw renamed(error, factory.optimizerName, name);
    }
  };
  return Object.assign(named, {
    optimizerName: name,
    definition: factory.definition,
  });
}

/** Errors name what the user called. */
function renamed(error: unknown, from: string, to: string): unknown {
  if (error instanceof Error && error.message.startsWith(`${from}:`))
    error.message = `${to}${error.message.slice(from.length)}`;
  return error;
}

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

/** @throws TypeError for an option that the optimizer does not have. */
export function checkOptionNames(
  optimizer: Optimizer,
  keys: readonly string[],
  owner: string,
  extra: readonly string[] = [],
): void {
  const known = [...Object.keys(optimizer.hyper), ...storageKeys, ...extra];
  checkNames(`${owner}: unknown option`, keys, known);
}

/** @throws RangeError when a number is not finite or is below 0. */
export function checkLearningRate(
  owner: string,
  lr: LearningRate,
): LearningRate {
  if (typeof lr === "function") return lr;
  if (typeof lr !== "number" || !Number.isFinite(lr) || lr < 0)
    throw new RangeError(
      `${owner}: lr must be a finite number, 0 or more, or a function of the step, given ${String(lr)}`,
    );
  return lr;
}

/** Checks hyperparameters (without lr) and fills in the defaults, booleans as numbers. */
export function hyperValues(
  optimizer: Optimizer,
  given: Readonly<Record<string, HyperValue>>,
  base: Readonly<Record<string, number>> = numbers(optimizer.hyper),
): Record<string, number> {
  const values: Record<string, number> = { ...base };
  delete values.lr;
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined) continue;
    const type = typeof optimizer.hyper[key];
    if (typeof value !== type)
      throw new TypeError(
        `${optimizer.name}: ${key} must be a ${type}, given ${String(value)}`,
      );
    if (!Number.isFinite(Number(value)))
      throw new RangeError(
        `${optimizer.name}: ${key} must be finite, given ${String(value)}`,
      );
    checkRange(optimizer.name, key, Number(value));
    values[key] = Number(value);
  }
  optimizer.check(values);
  return values;
}

/** The ranges that hold for these names in every optimizer. */
function checkRange(owner: string, key: string, value: number): void {
  if (/^beta\d?$/.test(key)) {
    if (!(value >= 0 && value < 1))
      throw new RangeError(
        `${owner}: ${key} must be in [0, 1), given ${value}`,
      );
    return;
  }
  if (value < 0)
    throw new RangeError(`${owner}: ${key} must be 0 or more, given ${value}`);
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
