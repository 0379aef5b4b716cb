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
import type { Written } from "../engine.ts";
import { inputsOf } from "../../formula/program.ts";
import { shaderTable, tableWords, type ShaderTable } from "./encode.ts";
import { lineTable, type LineTable } from "./lines.ts";
import { quadsOfRows } from "./rows.ts";
import { isSteps } from "./steps.ts";
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
  readonly written: Written;
  /** Parameters and gradients can be read four elements at a time. */
  readonly aligned: boolean;
  /** Both have 16 bits and can be read eight elements at a time. */
  readonly paired: boolean;
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
  /** Columns are a multiple of this power of two; 0 where nothing is known of rows. */
  readonly rowUnit: number;
  readonly mode: Mode;
  /** The device has subgroups. */
  readonly subgroups: boolean;
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
  readonly table: ShaderTable | LineTable;
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
  /** How far an invocation's quads lie apart, see rows.ts; 0 where they lie side by side. */
  readonly stride: number;
  /** What an invocation takes lies in one row of the tensor. */
  readonly oneRow: boolean;
  /** What an invocation takes lies inside its segment, all of it. */
  readonly whole: boolean;
  /** Words of 4 * quads elements that one invocation takes in turn; 1 unless solo. */
  readonly run: number;
  /** Blocks of a tile (a workgroup's elements), over all states. */
  readonly peaks: number;
  /** Encode tables, gaps, codebooks and lines of all states. */
  readonly tables: Int32Array<ArrayBuffer>;
  /** So many of the first words are copied to workgroup memory as they are. */
  readonly nearWords: number;
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
  const row = rowOf(spec, states);
  const quads = Math.max(
    spec.quads,
    row > 0 ? quadsOfRows : 1,
    spec.paired ? 2 : 1,
    ...widths.map((width) => 8 / width),
    ...(spec.solo ? [] : blocks.map((size) => size / (4 * workgroup))),
  );
  const stride = row / (4 * quads);
  const oneRow = !spec.solo && spec.rowUnit >= Math.max(row, 4 * quads);
  const whole =
    oneRow || (spec.paired ? quads === 2 : spec.aligned && quads === 1);
  const run = spec.solo ? Math.max(16, ...blocks) / (4 * quads) : 1;

  // Beside more states lines have no room in 16 KiB of workgroup memory.
  const inLines =
    !spec.solo &&
    states.filter(({ format }) => format.kind !== "float").length <= 2;
  const words: number[] = [];
  let peaks = 0;
  let quantized = states.flatMap((state): QuantizedState[] => {
    const { format } = state;
    if (format.kind === "float") return [];
    const coder = makeCoder(format);
    const stochastic = format.rounding !== "nearest";
    const table = tableFor(format, inLines);
    const tableAt = words.length;
    if (table.kind !== "lines") words.push(...tableWords(table));
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
  const append = (width: number, values: Float32Array) => {
    // Every code that a word may hold decodes to something.
    const floats = Float32Array.from(
      { length: 2 ** width },
      (_, i) => values[i] ?? 0,
    );
    return words.push(...new Int32Array(floats.buffer)) - 2 ** width;
  };
  quantized = quantized.map((state) => {
    const { format, width, gapsAt, nextMarksAt } = state;
    const { marks, inverseGaps, nextMarks } = makeCoder(format);
    if (gapsAt === undefined) return state;
    return {
      ...state,
      gapsAt: append(width, inverseGaps),
      marksAt: append(width, marks),
      nextMarksAt:
        nextMarksAt === undefined ? undefined : append(width, nextMarks),
    };
  });
  const nearWords = words.length;
  quantized = quantized.map((state) => {
    const { format, width, table } = state;
    const valuesAt = append(width, format.values);
    if (table.kind !== "lines") return { ...state, valuesAt };
    const tableAt = words.length;
    words.push(...new Int32Array(table.pairs.buffer));
    return { ...state, valuesAt, tableAt };
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
    stride,
    oneRow,
    whole,
    run,
    peaks,
    tables: Int32Array.from(words),
    nearWords,
    fields: segmentFields(spec, quantized, states),
    readsParameter: inputsOf(program, [...program.outputs.values()]).has("p"),
  };
}

/**
 * The block that rows.ts takes, or 0. All states with blocks have one size, and
 * two have 8 bits: one is too little work to gain by it. Or some have 4 bits:
 * then quads side by side would be read and written in strides. The tensor is
 * large enough for a dispatch of its own: several a dispatch lost by it.
 */
function rowOf(
  { solo, mode, segments, paired }: KernelSpec,
  states: readonly StateSpec[],
): number {
  if (solo || paired || mode !== "update" || segments > 1) return 0;
  const quantized = states.flatMap(({ format }) =>
    format.kind === "quantized" ? format : [],
  );
  const size = quantized.find(({ scale }) => scale === "block")?.blockSize ?? 0;
  const fits = (format: QuantizedFormat) =>
    !format.correctScale &&
    storedBits(format.bits) >= 4 &&
    (isRank1(format) ||
      (format.scale === "block" && format.blockSize === size));
  const narrow = quantized.some(({ bits }) => storedBits(bits) === 4);
  return (narrow || quantized.length === 2) &&
    size >= 8 * quadsOfRows &&
    size <= 1024 &&
    quantized.every(fits)
    ? size
    : 0;
}

/** Lines where there are some: see lines.ts. */
function tableFor(
  format: QuantizedFormat,
  inLines: boolean,
): ShaderTable | LineTable {
  const limits = thresholds(format.values, roundingOf(format));
  const lines =
    !inLines ||
    format.rounding !== "nearest" ||
    format.correctScale ||
    isSteps(format)
      ? undefined
      : lineTable(limits, format.signed);
  return lines ?? shaderTable(limits, format.signed);
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
