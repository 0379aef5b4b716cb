/** An optimizer's definition, checked, and the programs of its forms. */
import { compileFormula } from "../formula/compile.ts";
import { checkNames } from "../formula/error.ts";
import type { Program, StateKind } from "../formula/program.ts";
import type { Floor, Form, Hyper, OptimizerDefinition } from "./definition.ts";
import { numbers } from "./hyper.ts";
import { storageKeys } from "./storage.ts";

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

/** What the forms of a definition have in common. */
type Shared = Pick<
  Optimizer,
  "name" | "hyper" | "scalarsAt" | "floors" | "check"
> & {
  /** Names that a formula may read beside its states. */
  readonly scalars: readonly string[];
};

/** @throws TypeError or FormulaError for a definition that is wrong. */
export function compileOptimizer(definition: OptimizerDefinition): Optimizer {
  const shared = shareOf(definition);
  const { variants = [] } = definition;
  return makeWithVector(
    shared,
    definition,
    variants.map(({ when, ...form }) => ({
      when: when as Optimizer["variants"][number]["when"],
      optimizer: makeWithVector(shared, form, []),
    })),
  );
}

function shareOf(definition: OptimizerDefinition): Shared {
  const { name, hyper, scalars, check, floors = {} } = definition;
  checkDefinition(definition);
  if (!Object.hasOwn(hyper, "lr"))
    throw new TypeError(`${name}: hyper must have 'lr', the learning rate`);
  for (const key of storageKeys)
    if (Object.hasOwn(hyper, key))
      throw new TypeError(
        `${name}: '${key}' is an option of every optimizer and cannot name a hyperparameter`,
      );
  const stepScalars = Object.keys(scalars?.(numbers(hyper), 1) ?? {});
  for (const key of stepScalars)
    if (Object.hasOwn(hyper, key))
      throw new TypeError(
        `${name}: '${key}' is both a hyperparameter and a step scalar`,
      );
  return {
    name,
    hyper,
    floors,
    scalars: [...Object.keys(hyper), ...stepScalars],
    scalarsAt(values, t) {
      const all = { ...values, ...scalars?.(values, t) };
      for (const key of stepScalars)
        if (!Number.isFinite(all[key]))
          throw new RangeError(
            `${name}: the scalar '${key}' of step ${t} must be a finite number, given ${String(all[key])}`,
          );
      return all;
    },
    check: (values) => check?.(values),
  };
}

/** A form, with the one for tensors with fewer than two axes beside it. */
function makeWithVector(
  shared: Shared,
  form: Form,
  variants: Optimizer["variants"],
): Optimizer {
  return makeForm(shared, form, (self) => ({
    vector: form.vector
      ? makeForm(shared, form.vector, alone)
      : self.program.needsMatrix
        ? undefined
        : self,
    variants,
  }));
}

type Relations = Pick<Optimizer, "vector" | "variants">;

const alone = (self: Optimizer): Relations => ({ vector: self, variants: [] });

/** @param limit see `ProgramSource.limit`. */
function makeForm(
  { scalars, ...shared }: Shared,
  { state, update }: Form,
  relations: (self: Optimizer) => Relations,
  limit?: string,
): Optimizer {
  const { name } = shared;
  checkKinds(name, state);
  const text = updateText(update);
  let limited: Optimizer | undefined;
  const made = {
    ...shared,
    state,
    update: text,
    program: compileFormula({
      name,
      update: text,
      states: state,
      scalars,
      ...(limit === undefined ? {} : { limit }),
    }),
    limited: () =>
      (limited ??= makeForm(
        { scalars, ...shared },
        { state, update },
        alone,
        "maxGradValue",
      )),
  };
  return Object.assign(made, relations(made as Optimizer));
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
