import { codebook, codebookNames, type CodebookName } from "./codebook.ts";
import { codeBytes, storedBits } from "./pack.ts";
import { rank1Count, tileCount } from "./rank1.ts";

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
   * `tile` is rank1 inside tiles of blockSize x blockSize of the matrix that the
   * last axis and all others make; with fewer than two axes it is `block`.
   * Default block.
   */
  readonly scale?: ScaleKind;
  /** Elements that share an absmax, or the side of a tile: a power of two, 32..4096. Default 256 at more than 4 bits, else 128; 128 for tiles. */
  readonly blockSize?: number;
  /**
   * How a value between two entries is coded: as the `nearest`; `stochastic`,
   * unbiased in the value; or `preconditioner`, unbiased in 1 / (sqrt(v) + eps)
   * for a state v by whose root the update is divided (ZIP-SR). Default nearest.
   */
  readonly rounding?: Rounding;
  /** Multiply each block's scale by |x|^2 / <x, decoded x> after coding (ZE-EDEN). Default false. */
  readonly correctScale?: boolean;
  /** bitsandbytes' rule that a negative value is not coded as 0. Default false. */
  readonly keepSign?: boolean;
  /** Whether the codebook has both signs. Default: what the state is. */
  readonly signed?: boolean;
}

export type ScaleKind = "block" | "tensor" | "rank1" | "tile";
export type Rounding = "nearest" | "stochastic" | "preconditioner";

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
  readonly rounding: Rounding;
  readonly keepSign: boolean;
  readonly correctScale: boolean;
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
  "correctScale",
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
    blockSize = bits > 4 && scale !== "tile" ? 256 : 128,
    rounding = "nearest",
    keepSign = false,
    correctScale = false,
    codebook: chosen = !signed && bits <= 4 ? "linear-nozero" : "dynamic",
  } = options;
  if (!["block", "tensor", "rank1", "tile"].includes(scale))
    throw new TypeError(
      `format: scale must be 'block', 'tensor', 'rank1' or 'tile', given '${String(scale)}'`,
    );
  if (!["nearest", "stochastic", "preconditioner"].includes(rounding))
    throw new TypeError(
      `format: rounding must be 'nearest', 'stochastic' or 'preconditioner', given '${String(rounding)}'`,
    );
  checkTogether({ bits, signed, scale, rounding, keepSign, correctScale });
  if (
    !Number.isInteger(blockSize) ||
    blockSize < 32 ||
    blockSize > 4096 ||
    (blockSize & (blockSize - 1)) !== 0
  )
    throw new RangeError(
      `format: blockSize must be a power of two from 32 to 4096, given ${String(blockSize)}`,
    );
  if (signed !== (sign === "signed") && !signed)
    throw new TypeError(
      "format: an unsigned codebook cannot hold a state with a sign; leave `signed` out",
    );
  if (bits === 16) {
    for (const key of [
      "codebook",
      "scale",
      "keepSign",
      "correctScale",
    ] as const)
      if (options[key] !== undefined)
        throw new TypeError(
          `format: 16 bits are bfloat16, which has no ${key}; leave it out`,
        );
    return { kind: "float", bits, rounding: rounding as "stochastic" };
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
    correctScale,
  };
}

/** @throws TypeError for options that exclude one another. */
function checkTogether({
  bits,
  signed,
  scale,
  rounding,
  keepSign,
  correctScale,
}: Required<
  Pick<
    FormatOptions,
    "bits" | "signed" | "scale" | "rounding" | "keepSign" | "correctScale"
  >
>): void {
  if (keepSign && rounding !== "nearest")
    throw new TypeError(
      `format: keepSign is a rule of nearest rounding; leave it out with ${rounding}`,
    );
  if (rounding === "preconditioner" && (signed || bits === 16))
    throw new TypeError(
      "format: rounding 'preconditioner' is for a state without a sign, in 2 to 8 bits, by whose root the update is divided; use 'stochastic' for others",
    );
  if (correctScale && scale !== "block")
    throw new TypeError(
      `format: correctScale corrects the scales of blocks, given scale '${scale}'; leave one of them out`,
    );
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
 * one axis, where blocks of 128 stand for them (paper 2, section 4.2), and tiles
 * become blocks.
 */
export function formatFor(format: Format, shape: readonly number[]): Format {
  if (format.kind === "float" || shape.length >= 2) return format;
  if (format.scale === "rank1")
    return { ...format, scale: "block", blockSize: 128 };
  return format.scale === "tile" ? { ...format, scale: "block" } : format;
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
  if (format.scale === "tile") return tileCount(shape, format.blockSize);
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
        : scale === "tile"
          ? `rank-1 scales in tiles of ${blockSize}`
          : "one scale a tensor",
  ];
  if (storedBits(bits) !== bits)
    parts.push(`stored in ${storedBits(bits)} bits`);
  if (rounding === "stochastic") parts.push("stochastic rounding");
  if (rounding === "preconditioner")
    parts.push("stochastic rounding of the preconditioner");
  if (format.correctScale) parts.push("corrected scales");
  if (format.keepSign) parts.push("keeps signs");
  return parts.join(", ");
}
