/** Opens the state of an optimizer, whoever wrote the file. */
import { nearestName } from "../formula/error.ts";
import { formOf, type Optimizer } from "../optimizers/compile.ts";
import { hyperValues } from "../optimizers/hyper.ts";
import { optimizerByName } from "../optimizers/registry.ts";
import { openCheckpoint } from "../io/checkpoint-read.ts";
import {
  plainText,
  type Checkpoint,
  type CheckpointTensor,
} from "../io/checkpoint.ts";
import { FileError, owned } from "../io/fault.ts";
import { toSource, type FileData } from "../io/source.ts";
import { bitsandbytes } from "./bitsandbytes.ts";
import {
  openTensors,
  parametersOf,
  readSteps,
  type Parameter,
  type TensorSource,
} from "./fields.ts";
import { plain } from "./float32.ts";
import {
  layoutNames,
  sizeOf,
  type Layout,
  type LayoutName,
  type ReadParameter,
} from "./layout.ts";
import { lpmm } from "./lpmm.ts";
import { readMetadata, type PythonMetadata } from "./metadata.ts";
import {
  hyperOfGroup,
  optimizerNames,
  optimizerOfClass,
  stateKind,
} from "./names.ts";
import { torchao } from "./torchao.ts";

/** The layouts of others, by name. */
export const layouts: Readonly<Record<Exclude<LayoutName, "lowbit">, Layout>> =
  { bitsandbytes, torchao, lpmm, float32: plain };

/** What the file itself may not say. */
export interface ReadStateOptions {
  /** Whose file it is. Default: recognised by its tensors. */
  readonly from?: LayoutName;
  /** Name of an optimizer or recipe, as in `optimizerByName`. Default: what the metadata or the states say. */
  readonly optimizer?: string;
  /** Steps taken, where the file has no count. Default 1, with a note. */
  readonly step?: number;
  /** Shapes of all parameters by name, where the file has flat codes. Default: what the file says. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
}

/** A file's state, ready to be read, converted or loaded. */
export interface OpenState {
  /** Whose layout the file has. */
  readonly layout: LayoutName;
  /** The optimizer; its states are read when they are asked for. */
  readonly checkpoint: Checkpoint;
  /** What was assumed and what was left out, in sentences. */
  readonly notes: readonly string[];
}

/** Whose state a file holds; undefined when it holds none. */
export function recogniseLayout(source: TensorSource): LayoutName | undefined {
  if (source.metadata.format === "lowbit") return "lowbit";
  const { parameters } = parametersOf(source);
  const some = (test: (field: string, dtype: string) => boolean): boolean =>
    parameters.some(({ fields }) =>
      [...fields].some(([field, name]) =>
        test(field, source.tensors.get(name)!.dtype),
      ),
    );
  if (some((field) => field === "state1")) return "bitsandbytes";
  if (some((field) => field.endsWith(".codes"))) return "torchao";
  if (
    some(
      (field, dtype) =>
        field.includes("_qstate.") ||
        field.includes(".max") ||
        (["I8", "U8"].includes(dtype) && field !== "step"),
    )
  )
    return "lpmm";
  return some((field) => field !== "step" && field !== "mu_product")
    ? "float32"
    : undefined;
}

/**
 * Opens a file with the state of an optimizer: lowbit's own, or a state dict of
 * bitsandbytes, torchao, lpmm or plain PyTorch saved as safetensors (see
 * docs/interchange.md for the keys). Only the header and a few small tensors
 * are read; the states are when they are asked for.
 *
 * @throws FileError that says what is wrong with the file, or what it does not say.
 */
export function readState(
  file: FileData,
  options: ReadStateOptions = {},
): Promise<OpenState> {
  return owned("readState", async () => {
    const bytes = toSource(file);
    const source = await openTensors(bytes);
    const layout = options.from ?? recogniseLayout(source);
    if (layout === undefined) throw new FileError(nothingFound(source));
    if (layout === "lowbit")
      return { layout, checkpoint: await openCheckpoint(bytes), notes: [] };
    if (!Object.hasOwn(layouts, layout))
      throw new TypeError(
        `readState: from must be one of ${layoutNames.join(", ")}, given '${String(layout)}'`,
      );
    return readForeign(source, layouts[layout], options);
  });
}

function nothingFound({ tensors }: TensorSource): string {
  const names = [...tensors.keys()].slice(0, 3).map((name) => `'${name}'`);
  return tensors.size === 0
    ? "there are no tensors in it"
    : `none of its ${tensors.size} tensors is the state of an optimizer; the first are ${names.join(", ")}`;
}

async function readForeign(
  source: TensorSource,
  layout: Layout,
  options: ReadStateOptions,
): Promise<OpenState> {
  const metadata = readMetadata(source);
  const { parameters, rest } = parametersOf(source);
  if (parameters.length === 0) throw new FileError(nothingFound(source));
  const notes = new Set<string>();
  if (rest.length > 0)
    notes.add(
      `left out: ${rest.length} ${rest.length === 1 ? "tensor that is" : "tensors that are"} no optimizer state, as '${rest[0]}'`,
    );
  const optimizer = findOptimizer(parameters, metadata, options, notes);
  const step = await findStep(source, parameters, metadata, options, notes);
  const read: [string, ReadParameter][] = [];
  const taken = new Set<string>();
  for (const [name, parameter] of named(parameters, metadata, notes)) {
    if (taken.has(name))
      throw new FileError(`the parameter '${name}' is in it twice`);
    taken.add(name);
    const found = await layout.read(parameter, {
      source,
      optimizer,
      shape:
        shapeOf(options.shapes, name) ?? // the caller's word counts
        metadata.shapes.get(name) ??
        metadata.shapes.get(parameter.key),
    });
    for (const note of found.notes ?? []) notes.add(note);
    read.push([name, found]);
  }
  if (parameters.some(({ fields }) => fields.has("gnorm_vec")))
    notes.add("left out: the history of percentile clipping (gnorm_vec)");
  if (metadata.groups > 1)
    notes.add(
      `there are ${metadata.groups} groups of parameters: the hyperparameters are those of the first`,
    );
  const checkpoint = makeCheckpoint(optimizer, step, read, metadata, notes);
  return { layout: layout.name, checkpoint, notes: [...notes] };
}

/** Whoever gives shapes gives all of them. @throws FileError */
function shapeOf(
  shapes: ReadStateOptions["shapes"],
  name: string,
): readonly number[] | undefined {
  if (!shapes) return undefined;
  if (Object.hasOwn(shapes, name)) return shapes[name];
  const guess = nearestName(name, Object.keys(shapes));
  throw new FileError(
    `the shape of its parameter '${name}' is not among those given${guess ? `, only that of '${guess}'` : ""}`,
  );
}

/** Parameters by name, indices in their order. */
function named(
  parameters: readonly Parameter[],
  { names }: PythonMetadata,
  notes: Set<string>,
): [string, Parameter][] {
  const indexed = parameters.every(({ key }) => /^\d{1,7}$/.test(key));
  if (!indexed)
    return parameters.map((one) => [one.key === "" ? "0" : one.key, one]);
  const sorted = parameters.toSorted((a, b) => Number(a.key) - Number(b.key));
  if (!names)
    notes.add(
      "parameters have numbers and no names: without 'names' in the metadata they keep their numbers",
    );
  return sorted.map((one) => {
    const name = names ? names[Number(one.key)] : one.key;
    if (name === undefined)
      throw new FileError(
        `there is a parameter ${one.key}, and its metadata have ${names!.length} names`,
      );
    return [name, one];
  });
}

function findOptimizer(
  parameters: readonly Parameter[],
  metadata: PythonMetadata,
  { optimizer: given }: ReadStateOptions,
  notes: Set<string>,
): string {
  if (given !== undefined) {
    const name = optimizerByName(given)().optimizer.name;
    if (!Object.hasOwn(optimizerNames, name))
      throw new FileError(
        `other libraries keep no state of ${name} that would mean the same; there are ${Object.keys(optimizerNames).join(", ")}`,
      );
    return name;
  }
  const said = metadata.optimizer && optimizerOfClass(metadata.optimizer);
  if (said) return said;
  if (metadata.optimizer)
    notes.add(`the optimizer '${metadata.optimizer}' is not known here`);
  const fields = new Set(parameters.flatMap((one) => [...one.fields.keys()]));
  const has = (field: string) =>
    [...fields].some((one) => one === field || one.startsWith(`${field}.`));
  const guess =
    has("state2") || has("exp_avg_sq")
      ? has("exp_avg_slow")
        ? "ademamix"
        : has("exp_avg_sq_row")
          ? "factor"
          : "adamw"
      : has("exp_avg_sq_row")
        ? "factor"
        : has("square_avg")
          ? "rmsprop"
          : has("sum")
            ? "adagrad"
            : has("momentum_buffer")
              ? "sgd"
              : has("exp_avg")
                ? "lion"
                : undefined;
  if (guess === undefined)
    throw new FileError(
      "one state a parameter may be sgd's, lion's, lars', rmsprop's or adagrad's: say which optimizer it is, or write its class into the metadata",
    );
  notes.add(`taken as ${guess}, as its states are; the metadata do not say`);
  return guess;
}

async function findStep(
  source: TensorSource,
  parameters: readonly Parameter[],
  metadata: PythonMetadata,
  { step: given }: ReadStateOptions,
  notes: Set<string>,
): Promise<number> {
  const { step, differ } = await readSteps(source, parameters);
  if (differ)
    notes.add(
      `the parameters have taken different numbers of steps: the largest, ${step}, is taken for all`,
    );
  const known = given ?? step ?? metadata.step;
  if (known === undefined)
    notes.add("the file has no count of steps: 1 is taken");
  return known ?? 1;
}

/** What of the hyperparameters must hold for an optimizer to have these states. */
function hyperOfStates(
  optimizer: string,
  states: ReadonlySet<string>,
  hyper: Record<string, number>,
): void {
  if (states.has("vmax")) hyper.amsgrad = 1;
  const momentum = states.has("m");
  if (optimizer === "rmsprop") {
    if (!momentum) hyper.momentum = 0;
    else if (!hyper.momentum) hyper.momentum = 0.9;
  }
  if (optimizer === "adafactor") {
    if (!momentum) hyper.beta1 = 0;
    else if (!hyper.beta1) hyper.beta1 = 0.9;
  }
}

function makeCheckpoint(
  name: string,
  step: number,
  parameters: readonly (readonly [string, ReadParameter])[],
  { group }: PythonMetadata,
  notes: Set<string>,
): Checkpoint {
  const { optimizer } = optimizerByName(name)();
  const found = hyperOfGroup(name, group);
  hyperOfStates(
    name,
    new Set(parameters.flatMap(([, { states }]) => Object.keys(states))),
    found,
  );
  const { lr = Number(optimizer.hyper.lr), ...rest } = found;
  if (Object.keys(group).length === 0)
    notes.add(
      "the file has no hyperparameters: lowbit's defaults stand beside its states",
    );
  const hyper = checkedHyper(optimizer, rest);
  const tensors = parameters.map(([parameter, { shape, states }]) =>
    makeTensor(optimizer, hyper, parameter, shape, states),
  );
  return {
    optimizer: name,
    recipe: recipeName(name, tensors),
    hyper,
    // A rate that nobody told must not replace the one of whoever loads this.
    lr: { value: lr, scheduled: found.lr === undefined },
    step,
    lastRate: found.lr,
    seed: 0,
    norms: [],
    accumulation: { every: 1, taken: 0 },
    tensors,
  };
}

function checkedHyper(
  optimizer: Optimizer,
  given: Readonly<Record<string, number>>,
): Record<string, number> {
  const typed = Object.fromEntries(
    Object.entries(given).map(([key, value]) => [
      key,
      typeof optimizer.hyper[key] === "boolean" ? value > 0 : value,
    ]),
  );
  try {
    return hyperValues(optimizer, typed);
  } catch (error) {
    throw new FileError(
      `its hyperparameters cannot be: ${(error as Error).message}`,
      { cause: error },
    );
  }
}

function makeTensor(
  optimizer: Optimizer,
  hyper: Readonly<Record<string, number>>,
  name: string,
  shape: readonly number[],
  states: ReadParameter["states"],
): CheckpointTensor {
  const form = formOf(optimizer, hyper, shape.length);
  const wanted = form?.program.states ?? [];
  const missing = wanted.filter((state) => !Object.hasOwn(states, state));
  const extra = Object.keys(states).filter((state) => !wanted.includes(state));
  if (!form || missing.length > 0 || extra.length > 0)
    throw new FileError(
      `'${name}' of shape [${shape.join(", ")}] has the states ${Object.keys(states).join(", ")}, and ${optimizer.name} keeps ${wanted.join(", ")} there`,
    );
  return {
    name,
    shape,
    hyper: {},
    lr: undefined,
    update: plainText(form.update),
    states: wanted.map((state) => ({
      name: state,
      kind: stateKind(optimizer.name, state),
      format: states[state]!.format,
      read: () => states[state]!.read(),
    })),
    sum: undefined,
  };
}

/** `adamw8bit` where most elements have 8 bits and there is such a recipe. */
export function recipeName(
  optimizer: string,
  tensors: readonly CheckpointTensor[],
): string {
  const elements = new Map<number, number>();
  for (const { shape, states } of tensors)
    for (const { kind, format } of states)
      if (kind === "signed" || kind === "unsigned")
        elements.set(
          format.bits,
          (elements.get(format.bits) ?? 0) + sizeOf(shape),
        );
  const [bits] = [...elements].sort((a, b) => b[1] - a[1])[0] ?? [32];
  try {
    return optimizerByName(`${optimizer}${bits}bit`).optimizerName;
  } catch {
    return optimizer;
  }
}
