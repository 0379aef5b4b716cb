/**
 * What a shader is generated from, and the numbers that follow from it: how
 * many elements an invocation takes, which words it owns, what a segment of
 * the job list holds.
 */
import type { Format, QuantizedFormat } from "../../formats/format.ts";
import { storedBits } from "../../formats/pack.ts";
import { makeCoder, roundingOf } from "../../formats/quantize.ts";
import { encodeWith, thresholds } from "../../formats/encode.ts";
import type { Program } from "../../formula/program.ts";
import { inputsOf } from "../../formula/program.ts";
import { shaderTable, tableWords, type ShaderTable } from "./encode.ts";
import { isRank1, takesOf, tileFields, usesSmall, type Take } from "./small.ts";

/** How a parameter or gradient is stored; arithmetic is always float32. */
export type ElementType = "float32" | "float16" | "bfloat16";

/**
 * `update` is the step. `measure` only finds the scales of a whole tensor that
 * the update then stores by.
 */
export type Mode = "update" | "measure";

export interface KernelSpec {
  readonly program: Program;
  readonly formats: readonly Format[];
  readonly parameterType: ElementType;
  readonly gradientType: ElementType;
  /** How a 16-bit parameter is rounded. */
  readonly parameterRounding: "nearest" | "stochastic";
  /** Parameters and gradients can be read four elements at a time. */
  readonly aligned: boolean;
  /** Parameter bindings, and as many gradient bindings. */
  readonly slots: number;
  /** Segments that a job list has room for. */
  readonly segments: number;
  readonly skip: boolean;
  /** Whether a norm is measured first: clipping, or leaving out whole steps. */
  readonly guarded: boolean;
  readonly clip: boolean;
  /** One invocation takes a whole block, so that no barrier is needed. */
  readonly solo: boolean;
  readonly workgroup: number;
  /** Fewest quads of elements that an invocation takes. */
  readonly quads: number;
  /** Passes before the update take four elements at a time. */
  readonly wide: boolean;
  readonly mode: Mode;
}

/** A state of the program, and where it is found. */
export interface StateSpec {
  readonly name: string;
  readonly index: number;
  readonly format: Format;
}

/** A state stored in codes. */
export interface QuantizedState extends StateSpec {
  readonly format: QuantizedFormat;
  readonly width: number;
  readonly table: ShaderTable;
  /** First word of the encode table, and of the codebook, in the tables. */
  readonly tableAt: number;
  readonly valuesAt: number;
  /** For stochastic rounding, first words of what it measures between, and of 1 / gap. */
  readonly marksAt: number;
  readonly gapsAt: number | undefined;
  /** For rounding the preconditioner. */
  readonly nextMarksAt: number | undefined;
  readonly zeroCode: number;
  /** Whether 0 is coded as it is in a group of zeros, stochastic rounding included. */
  readonly zeroIsZero: boolean;
  /** Blocks in a tile before this state's. */
  readonly peaksAt: number;
  readonly blocksPerTile: number;
}

export interface KernelShape {
  readonly spec: KernelSpec;
  /** States of a value per element. */
  readonly states: readonly StateSpec[];
  readonly quantized: readonly QuantizedState[];
  readonly floats: readonly StateSpec[];
  /** 16-bit states; they lie with the codes. */
  readonly halves: readonly StateSpec[];
  /** What each pass before the update takes. */
  readonly passes: readonly (readonly Take[])[];
  /** Whether anything is read that is not per element. */
  readonly small: boolean;
  /** vec4f an invocation; it owns the words of codes of 4 * quads elements. */
  readonly quads: number;
  /** Words of 4 * quads elements that one invocation takes in turn; 1 unless solo. */
  readonly run: number;
  /** Blocks of a tile (a workgroup's elements), over all states. */
  readonly peaks: number;
  /** Encode tables, codebooks and gaps of all states. */
  readonly tables: Int32Array<ArrayBuffer>;
  /** Names of a segment's 4-byte fields, in order; a multiple of 4. */
  readonly fields: readonly string[];
  readonly readsParameter: boolean;
}

/** Bytes before the list of segments. */
export const jobHeader = 16;

export function kernelShape(spec: KernelSpec): KernelShape {
  const { program, formats, workgroup } = spec;
  const states = program.states
    .map((name, index): StateSpec => ({ name, index, format: formats[index]! }))
    .filter(({ index }) => program.stateShapes[index] === "element");
  const isBlock = ({ format }: StateSpec) =>
    format.kind === "quantized" && format.scale === "block";
  const blocks = states
    .filter(isBlock)
    .map(({ format }) => (format as QuantizedFormat).blockSize);
  // Whole words: a word of narrow codes holds more than four elements. And a
  // block lies within a workgroup.
  const widths = states.map(({ format }) =>
    format.kind === "float" ? format.bits : storedBits(format.bits),
  );
  const quads = Math.max(
    spec.quads,
    ...widths.map((width) => 8 / width),
    ...(spec.solo ? [] : blocks.map((size) => size / (4 * workgroup))),
  );
  const run = spec.solo ? Math.max(16, ...blocks) / (4 * quads) : 1;

  const words: number[] = [];
  let peaks = 0;
  let quantized = states.flatMap((state): QuantizedState[] => {
    const { format } = state;
    if (format.kind === "float") return [];
    const coder = makeCoder(format);
    const table = shaderTable(
      thresholds(format.values, roundingOf(format)),
      format.signed,
    );
    const tableAt = words.length;
    words.push(...tableWords(table));
    const stochastic = format.rounding !== "nearest";
    const blocksPerTile =
      format.scale === "block"
        ? (workgroup * 4 * quads * run) / format.blockSize
        : 0;
    const peaksAt = peaks;
    peaks += blocksPerTile;
    return [
      {
        ...state,
        format,
        width: storedBits(format.bits),
        table,
        tableAt,
        // Set below, behind all encode tables.
        valuesAt: 0,
        marksAt: 0,
        gapsAt: stochastic ? 0 : undefined,
        nextMarksAt: format.rounding === "preconditioner" ? 0 : undefined,
        zeroCode: coder.zero,
        zeroIsZero: encodeWith(coder.limits, 0) === coder.zero,
        peaksAt,
        blocksPerTile,
      },
    ];
  });
  quantized = quantized.map((state) => {
    const { format, width, gapsAt, nextMarksAt } = state;
    // Every code that a word may hold decodes to something.
    const append = (values: Float32Array) => {
      const floats = Float32Array.from(
        { length: 2 ** width },
        (_, i) => values[i] ?? 0,
      );
      return words.push(...new Int32Array(floats.buffer)) - 2 ** width;
    };
    const { marks, inverseGaps, nextMarks } = makeCoder(format);
    const valuesAt = append(format.values);
    return {
      ...state,
      valuesAt,
      gapsAt: gapsAt === undefined ? undefined : append(inverseGaps),
      marksAt: marks === format.values ? valuesAt : append(marks),
      nextMarksAt: nextMarksAt === undefined ? undefined : append(nextMarks),
    };
  });
  return {
    spec,
    states,
    quantized,
    floats: states.filter(({ format }) => format.bits === 32),
    halves: states.filter(({ format }) => format.bits === 16),
    passes: takesOf(program, formats),
    small: usesSmall(program, formats),
    quads,
    run,
    peaks,
    tables: Int32Array.from(words),
    fields: segmentFields(spec, quantized, states),
    readsParameter: inputsOf(program, [...program.outputs.values()]).has("p"),
  };
}

function segmentFields(
  spec: KernelSpec,
  quantized: readonly QuantizedState[],
  states: readonly StateSpec[],
): string[] {
  const fields = ["first_span", "spans", "length", "index"];
  fields.push("p_slot", "g_slot", "p_at", "g_at");
  for (const { name } of states) fields.push(`${name}_at`);
  for (const { name, format, gapsAt, nextMarksAt } of quantized) {
    if (format.scale === "block") fields.push(`${name}_scales`);
    else if (isRank1(format)) fields.push(...rank1Fields(name));
    else fields.push(`${name}_peak`, `${name}_next`, `${name}_spare`);
    if (gapsAt !== undefined) fields.push(`${name}_key`);
    if (nextMarksAt !== undefined) fields.push(floorField(name));
  }
  for (const { name, format } of states)
    if (isStochasticHalf(format)) fields.push(`${name}_key`);
  if (spec.parameterRounding === "stochastic") fields.push("p_key");
  if (usesSmall(spec.program, spec.formats)) {
    fields.push(...tileFields);
    spec.program.small.forEach((small, index) => {
      if (small) fields.push(`n${index}`);
    });
    const passes = takesOf(spec.program, spec.formats);
    passes.forEach((takes, pass) =>
      takes.forEach((_, i) => fields.push(`t${pass}_${i}`)),
    );
  }
  for (let i = 0; i < spec.program.uniformCount; i++) fields.push(`u${i}`);
  // A list in uniform memory has strides of 16 bytes.
  for (let i = 0; fields.length % 4 !== 0; i++) fields.push(`pad${i}`);
  return fields;
}

/** Where the scales of leading axes and of the last one begin: old ones, new ones. */
export const rank1Fields = (name: string): string[] => [
  `${name}_lead`,
  `${name}_last`,
  `${name}_next_lead`,
  `${name}_next_last`,
];

/** Eps in the unit of a state's root; a float32. */
export const floorField = (name: string): string => `${name}_floor`;

export const isStochasticHalf = (format: Format): boolean =>
  format.bits === 16 && format.rounding === "stochastic";

/** Bytes of the job list that a kernel is bound to. */
export function jobBytes({ spec, fields }: KernelShape): number {
  return jobHeader + 4 * fields.length * spec.segments;
}

/** Elements that a workgroup takes in one turn. */
export function tileElements({ spec, quads, run }: KernelShape): number {
  return spec.workgroup * 4 * quads * run;
}

/**
 * Whether a node is not finite whenever the gradient is not: then looking at
 * it is enough, and the gradient itself need not be looked at.
 */
export function carriesGradient(program: Program, node: number): boolean {
  const one = program.nodes[node]!;
  switch (one.op) {
    case "input":
      return one.name === "g";
    case "add":
    case "sub":
    case "mul":
      return carriesGradient(program, one.a) || carriesGradient(program, one.b);
    case "neg":
    case "abs":
    case "div":
      return carriesGradient(program, one.a);
    default:
      return false;
  }
}
