/**
 * Packing of codes: 8 bits a code (also for 5 to 7), two codes a byte (3 and 4
 * bits), four a byte (2 bits); the first element lies in the lowest bits.
 */

/** Bits that a code of this width takes in memory: 2, 4 or 8. */
export function storedBits(bits: number): 2 | 4 | 8 {
  return bits <= 2 ? 2 : bits <= 4 ? 4 : 8;
}

/** Bytes for the codes of `length` elements. */
export function codeBytes(bits: number, length: number): number {
  return Math.ceil((length * storedBits(bits)) / 8);
}

/**
 * Packs one code a byte into the stored width: 8, 4 or 2 bits (5 to 7 take 8, and
 * 3 takes 4), the first code in the lowest bits; unused bits of the last byte are 0.
 *
 * @param bits of a code, 2..8; codes must be below 2^bits.
 */
export function packCodes(
  codes: Uint8Array,
  bits: number,
): Uint8Array<ArrayBuffer> {
  const width = storedBits(bits);
  const perByte = 8 / width;
  const packed = new Uint8Array(codeBytes(bits, codes.length));
  for (let i = 0; i < codes.length; i++)
    packed[Math.floor(i / perByte)]! |= codes[i]! << ((i % perByte) * width);
  return packed;
}

/**
 * The inverse of {@link packCodes}: one code a byte.
 *
 * @param length number of codes.
 */
export function unpackCodes(
  packed: Uint8Array,
  bits: number,
  length: number,
): Uint8Array<ArrayBuffer> {
  const width = storedBits(bits);
  const perByte = 8 / width;
  const mask = 2 ** width - 1;
  const codes = new Uint8Array(length);
  for (let i = 0; i < length; i++)
    codes[i] =
      (packed[Math.floor(i / perByte)]! >> ((i % perByte) * width)) & mask;
  return codes;
}

/** Bits of the last byte that belong to a code; the others are 0 in {@link packCodes}. */
export function lastByteMask(bits: number, length: number): number {
  const width = storedBits(bits);
  const over = (length * width) % 8;
  return over === 0 ? 0xff : 2 ** over - 1;
}
