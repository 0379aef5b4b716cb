/** The kernels of a session: one set for each pair of program and formats. */
import type { Format, QuantizedFormat } from "../../formats/format.ts";
import type { ModuleBuilder } from "../../formula/assembler.ts";
import type { EngineOptions, TensorPlan } from "../engine.ts";
import { planTables, type Tables } from "./tables.ts";
import { elementStates } from "./kernel-plan.ts";
import { buildKernel } from "./kernel.ts";
import type { Arena } from "./layout.ts";

/** Numbers of the kernels of a program and its formats, as the pool knows them. */
export interface Kernels {
  readonly update: number;
  readonly measure: number | undefined;
  readonly passes: readonly number[];
  /** Nodes whose values the kernels read from memory. */
  readonly small: readonly number[];
  /** States with rank-1 scales. */
  readonly rank1: readonly number[];
}

/** Kernels by what they are generated for, numbered as the pool knows them. */
export interface KernelSet {
  readonly modules: { readonly module: ModuleBuilder; readonly name: string }[];
  readonly byKey: Map<string, Kernels>;
  scratchBytes: number;
}

/** Builds the kernel for a tensor's program and formats, or finds it. */
export function kernelFor(
  plan: TensorPlan,
  { skip, clip }: EngineOptions,
  arena: Arena,
  tables: Map<string, Tables>,
  kernels: KernelSet,
): Kernels {
  const { program } = plan;
  const formats = elementStates(program).map(
    (name) => plan.formats[program.states.indexOf(name)]!,
  );
  const formatKeys = formats.map(formatKey);
  const key = JSON.stringify([programNumber(plan.program), formatKeys]);
  const known = kernels.byKey.get(key);
  if (known) return known;
  const mine = formats.map((format) => {
    if (format.kind === "float") return undefined;
    const tableKey = tablesKey(format);
    let made = tables.get(tableKey);
    if (!made) tables.set(tableKey, (made = planTables(format, arena)));
    return { ...made, format };
  });
  const kernel = buildKernel({
    program,
    formats,
    tables: mine,
    check: skip !== "off",
    clip,
  });
  const add = (name: string) =>
    kernels.modules.push({ module: kernel.module, name }) - 1;
  const made = {
    update: add("update"),
    measure: kernel.measures ? add("measure") : undefined,
    passes: Array.from({ length: program.passes }, (_, pass) =>
      add(`pass${pass}`),
    ),
    small: kernel.small,
    rank1: kernel.rank1,
  };
  kernels.scratchBytes = Math.max(kernels.scratchBytes, kernel.scratchBytes);
  kernels.byKey.set(key, made);
  return made;
}

const programNumbers = /* @__PURE__ */ new WeakMap<object, number>();
let programs = 0;
function programNumber(program: object): number {
  let number = programNumbers.get(program);
  if (number === undefined) programNumbers.set(program, (number = programs++));
  return number;
}

/** What the tables of a format depend on. */
export const tablesKey = (format: QuantizedFormat): string =>
  JSON.stringify([
    format.codebook,
    format.codebook === "custom" ? [...format.values] : 0,
    format.bits,
    format.signed,
    format.rounding,
    format.keepSign,
    format.correctScale ? format.blockSize : 0,
  ]);

const formatKey = (format: Format): string =>
  format.kind === "float"
    ? `float ${format.bits} ${format.rounding}`
    : `${tablesKey(format)} ${format.scale} ${format.blockSize}`;
