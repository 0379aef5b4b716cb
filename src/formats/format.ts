import { codebook, codebookNames, type CodebookName } from "./codebook.ts";
import { codeBytes, storedBits } from "./pack.ts";
import { rank1Count } from "./rank1.ts";

/** What a state's value may be: `signed` like a first moment, `unsigned` like a second. */
export type Sign = "signed" | "unsigned";

/**
 * How one state is stored, as a user writes it. Everything is optional; what is
 * left out comes from the recipe or from {@link resolveFormat}.
 */
export interface FormatOptions {
  /** 2..8 bits a code, 16 for bfloat16, or 32 for float32. Default 8. */
  readonly bits?: number;
  /** Name of a codebook, or its values (sorted, in [-1, 1]). Default: dynamic, and at 4 bits and below linear-nozero for an unsigned state. */
  readonly codebook?: CodebookName | (string & {}) | ArrayLike<number>;
  /**
   * One absmax per `block` of consecutive elements, one for the `tensor`, or
   * `rank1`: one for each index of each axis, the least of an element's axes
   * being its scale; tensors with fewer than two axes then have blocks of 128.
   * Default block.
   */
  readonly scale?: ScaleKind;
  /** Elements that share an absmax: a power of two, 32..4096. Default 256 at more than 4 bits, else 128. */
  readonly blockSize?: number;
  /** How a value between two entries is coded. Default nearest. */
  readonly rounding?: "nearest" | "stochastic";
  /** bitsandbytes' rule that a negative value is not coded as 0. Default false. */
  readonly keepSign?: boolean;
  /** Whether the codebook has both signs. Default: what the state is. */
  readonly signed?: boolean;
}

export type ScaleKind = "block" | "tensor" | "rank1";

/** Plain storage: float32, or bfloat16. */
export interface FloatFormat {
  readonly kind: "float";
  readonly bits: 16 | 32;
  /** How a bfloat16 is rounded. */
  readonly rounding: "nearest" | "stochastic";
}

/** Codes and scales. */
export interface QuantizedFormat {
  readonly kind: "quantized";
  /** Bits of a code, 2..8. */
  readonly bits: number;
  /** Name of the codebook, or `custom`. */
  readonly codebook: CodebookName | "custom";
  readonly values: Float32Array<ArrayBuffer>;
  readonly signed: boolean;
  readonly scale: ScaleKind;
  readonly blockSize: number;
  readonly rounding: "nearest" | "stochastic";
  readonly keepSign: boolean;
}

/** How one state is stored, checked and complete. */
export type Format = FloatFormat | QuantizedFormat;

export const float32: FloatFormat = {
  kind: "float",
  bits: 32,
  rounding: "nearest",
};

const knownOptions = [
  "bits",
  "codebook",
  "scale",
  "blockSize",
  "rounding",
  "keepSign",
  "signed",
] as const;

/**
 * Checks a format and fills in what is missing.
 *
 * @throws TypeError or RangeError that says which option is wrong, what was
 * given and what is allowed.
 */
export function resolveFormat(
  options: FormatOptions,
  sign: Sign = "signed",
): Format {
  for (const key of Object.keys(options))
    if (!(knownOptions as readonly string[]).includes(key))
      throw new TypeError(
        `format: unknown option '${key}'; there are ${knownOptions.join(", ")}`,
      );
  const { bits = 8, signed = sign === "signed" } = options;
  if (bits === 32) return float32;
  if (bits !== 16 && (!Number.isInteger(bits) || bits < 2 || bits > 8))
    throw new RangeError(
      `format: bits must be 2 to 8, 16 or 32, given ${String(bits)}`,
    );
  const {
    scale = "block",
    blockSize = bits > 4 ? 256 : 128,
    rounding = "nearest",
    keepSign = false,
    codebook: chosen = !signed && bits <= 4 ? "linear-nozero" : "dynamic",
  } = options;
  if (!["block", "tensor", "rank1"].includes(scale))
    throw new TypeError(
      `format: scale must be 'block', 'tensor' or 'rank1', given '${String(scale)}'`,
    );
  if (rounding !== "nearest" && rounding !== "stochastic")
    throw new TypeError(
      `format: rounding must be 'nearest' or 'stochastic', given '${String(rounding)}'`,
    );
  if (
    !Number.isInteger(blockSize) ||
    blockSize < 32 ||
    blockSize > 4096 ||
    (blockSize & (blockSize - 1)) !== 0
  )
    throw new RangeError(
      `format: blockSize must be a power of two from 32 to 4096, given ${String(blockSize)}`,
    );
  if (keepSign && rounding === "stochastic")
    throw new TypeError(
      "format: keepSign is a rule of nearest rounding; leave it out with stochastic",
    );
  if (signed !== (sign === "signed") && !signed)
    throw new TypeError(
      "format: an unsigned codebook cannot hold a state with a sign; leave `signed` out",
    );
  if (bits === 16) {
    for (const key of ["codebook", "scale", "keepSign"] as const)
      if (options[key] !== undefined)
        throw new TypeError(
          `format: 16 bits are bfloat16, which has no ${key}; leave it out`,
        );
    return { kind: "float", bits, rounding };
  }
  const named = typeof chosen === "string";
  const values = named
    ? codebook(chosen, { bits, signed })
    : checkCodebook(chosen, bits, signed);
  return {
    kind: "quantized",
    bits,
    codebook: named ? (chosen as CodebookName) : "custom",
    values,
    signed,
    scale,
    blockSize,
    rounding,
    keepSign,
  };
}

function checkCodebook(
  given: ArrayLike<number>,
  bits: number,
  signed: boolean,
): Float32Array<ArrayBuffer> {
  const values = Float32Array.from(given);
  if (values.length < 2 || values.length > 2 ** bits)
    throw new RangeError(
      `format: a codebook of ${bits} bits has 2 to ${2 ** bits} values, given ${values.length}; names are ${codebookNames.join(", ")}`,
    );
  const low = signed ? -1 : 0;
  values.forEach((value, i) => {
    if (!(value >= low && value <= 1))
      throw new RangeError(
        `format: codebook values lie in [${low}, 1], given ${value} at ${i}`,
      );
    if (i > 0 && value < values[i - 1]!)
      throw new RangeError(
        `format: codebook values must ascend, given ${value} after ${values[i - 1]} at ${i}`,
      );
  });
  return values;
}

/**
 * The format that holds for a tensor of this shape: rank-1 scales say nothing of
 * one axis, where blocks of 128 stand for them (paper 2, section 4.2).
 */
export function formatFor(format: Format, shape: readonly number[]): Format {
  return format.kind === "quantized" &&
    format.scale === "rank1" &&
    shape.length < 2
    ? { ...format, scale: "block", blockSize: 128 }
    : format;
}

/**
 * Scales that a state of `length` elements has.
 *
 * @param shape of the tensor; rank-1 scales depend on it.
 */
export function scaleCount(
  format: Format,
  length: number,
  shape: readonly number[] = [length],
): number {
  if (format.kind === "float" || length === 0) return 0;
  if (format.scale === "rank1") return rank1Count(shape);
  return format.scale === "tensor" ? 1 : Math.ceil(length / format.blockSize);
}

/** Bytes that a state of `length` elements takes: codes and scales, or float32. */
export function stateBytes(
  format: Format,
  length: number,
  shape?: readonly number[],
): number {
  if (format.kind === "float") return (format.bits / 8) * length;
  return codeBytes(format.bits, length) + 4 * scaleCount(format, length, shape);
}

/** The code that stands for a group whose values are all 0: the code of 0, else the lowest. */
export function zeroCode(format: QuantizedFormat): number {
  return Math.max(0, format.values.indexOf(0));
}

/** One line for a person: `8-bit dynamic, block 256`. */
export function describeFormat(format: Format): string {
  if (format.kind === "float")
    return format.bits === 32
      ? "float32"
      : format.rounding === "stochastic"
        ? "bfloat16, stochastic rounding"
        : "bfloat16";
  const { bits, codebook: name, signed, scale, blockSize, rounding } = format;
  const parts = [
    `${bits}-bit ${signed ? "signed" : "unsigned"} ${name}`,
    scale === "block"
      ? `block ${blockSize}`
      : scale === "rank1"
        ? "rank-1 scales"
        : "one scale a tensor",
  ];
  if (storedBits(bits) !== bits)
    parts.push(`stored in ${storedBits(bits)} bits`);
  if (rounding === "stochastic") parts.push("stochastic rounding");
  if (format.keepSign) parts.push("keeps signs");
  return parts.join(", ");
}
