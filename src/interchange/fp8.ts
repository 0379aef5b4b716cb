/**
 * PyTorch's float8_e4m3fn as a codebook: no infinities, NaN at 0x7f and 0xff, and
 * 448 the largest value. Its 254 numbers in their order are our codes, with both
 * zeros, so that every byte that is a number comes back as it was.
 */
import { resolveFormat, type QuantizedFormat } from "../formats/format.ts";
import { FileError } from "../io/fault.ts";

const LARGEST = 448;

/** By code: the byte. Negative values from the largest down, then the positive ones up. */
const bytes = Uint8Array.from({ length: 254 }, (_, code) =>
  code < 127 ? 0xfe - code : code - 127,
);
const codes = new Uint8Array(256);
bytes.forEach((byte, code) => (codes[byte] = code));

const valueOf = (byte: number): number => {
  const exponent = (byte >> 3) & 15;
  const fraction = (byte & 7) / 8;
  const magnitude =
    exponent === 0 ? fraction * 2 ** -6 : (1 + fraction) * 2 ** (exponent - 7);
  return byte & 0x80 && magnitude > 0 ? -magnitude : magnitude;
};

let table: Float32Array | undefined;

/** Values in [-1, 1]: a scale of ours takes the largest to the absmax, theirs to 448. */
const values = () =>
  (table ??= Float32Array.from(bytes, (byte) => valueOf(byte) / LARGEST));

/** @throws FileError for a block size that we do not have. */
export function fp8Format(name: string, blockSize: number): QuantizedFormat {
  try {
    return resolveFormat({
      bits: 8,
      blockSize,
      codebook: values(),
    }) as QuantizedFormat;
  } catch (error) {
    throw new FileError(`'${name}': ${(error as Error).message}`, {
      cause: error,
    });
  }
}

export const isFp8 = (format: QuantizedFormat): boolean =>
  format.values.length === 254 &&
  format.values.every((value, i) => value === values()[i]);

/** @throws FileError for a NaN. */
export function codesOfFp8(
  name: string,
  given: Uint8Array,
): Uint8Array<ArrayBuffer> {
  const bad = given.findIndex((byte) => (byte & 0x7f) === 0x7f);
  if (bad >= 0) throw new FileError(`'${name}' has a NaN at element ${bad}`);
  return Uint8Array.from(given, (byte) => codes[byte]!);
}

export const fp8OfCodes = (given: Uint8Array): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(given, (code) => bytes[code]!);
