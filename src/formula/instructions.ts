/**
 * WebAssembly's instructions, under the names that the specification gives
 * them: those that the kernels use and no more. Expressions are lists of bytes
 * that leave one value on the stack, statements leave none.
 */
export type Code = readonly number[];

/** Unsigned LEB128. */
export function leb(value: number): number[] {
  const bytes: number[] = [];
  do {
    const low = value % 128;
    value = Math.floor(value / 128);
    bytes.push(value > 0 ? low | 0x80 : low);
  } while (value > 0);
  return bytes;
}

/** Signed LEB128. */
function signedLeb(value: bigint): number[] {
  const bytes: number[] = [];
  for (;;) {
    const low = Number(value & 0x7fn);
    value >>= 7n;
    const done = (value === 0n && low < 64) || (value === -1n && low >= 64);
    bytes.push(done ? low : low | 0x80);
    if (done) return bytes;
  }
}

const simd = (opcode: number) => [0xfd, ...leb(opcode)];
const address = (align: number, offset: number) => [align, ...leb(offset)];

const unary = (opcode: number) => (a: Code) => [...a, ...simd(opcode)];
const binary = (opcode: number) => (a: Code, b: Code) => [
  ...a,
  ...b,
  ...simd(opcode),
];
/** Shift every lane by the same number of bits. */
const shift = (opcode: number) => (a: Code, bits: number) => [
  ...a,
  ...i32.const(bits),
  ...simd(opcode),
];
const load =
  (prefix: Code, align: number) =>
  (at: Code, offset = 0) => [...at, ...prefix, ...address(align, offset)];
const store =
  (prefix: Code, align: number) =>
  (at: Code, value: Code, offset = 0) => [
    ...at,
    ...value,
    ...prefix,
    ...address(align, offset),
  ];
const plain = (opcode: number) => (a: Code, b: Code) => [...a, ...b, opcode];

export const i32 = {
  const: (value: number): Code => [0x41, ...signedLeb(BigInt(value | 0))],
  load: load([0x28], 2),
  load8_u: load([0x2d], 0),
  store: store([0x36], 2),
  add: plain(0x6a),
  sub: plain(0x6b),
  mul: plain(0x6c),
  div_u: plain(0x6e),
  and: plain(0x71),
  or: plain(0x72),
  xor: plain(0x73),
  shl: plain(0x74),
  shr_u: plain(0x76),
  lt_u: plain(0x49),
  ge_u: plain(0x4f),
  gt_u: plain(0x4b),
  gt_s: plain(0x4a),
  ge_s: plain(0x4e),
  /** The first value where the condition is not 0, else the second. */
  select: (a: Code, b: Code, condition: Code): Code => [
    ...a,
    ...b,
    ...condition,
    0x1b,
  ],
  eqz: (a: Code): Code => [...a, 0x45],
  popcnt: (a: Code): Code => [...a, 0x69],
  wrap_i64: (a: Code): Code => [...a, 0xa7],
};

export const i64 = {
  const: (value: bigint): Code => [0x42, ...signedLeb(value)],
  load: load([0x29], 3),
  shr_u: plain(0x88),
  reinterpret_f64: (a: Code): Code => [...a, 0xbd],
};

export const f32 = {
  load: load([0x2a], 2),
  store: store([0x38], 2),
};

export const f64 = {
  load: load([0x2b], 3),
  store: store([0x39], 3),
  add: plain(0xa0),
  max: plain(0xa5),
  promote_f32: (a: Code): Code => [...a, 0xbb],
};

const lanes = (bytes: Uint8Array): Code => [...simd(0x0c), ...bytes];

export const v128 = {
  load: load(simd(0x00), 4),
  load32_splat: load(simd(0x09), 2),
  /** Four 16-bit numbers, each widened with zeros to 32 bits. */
  load16x4_u: load(simd(0x04), 3),
  load32_zero: load(simd(0x5c), 2),
  load64_zero: load(simd(0x5d), 3),
  store: store(simd(0x0b), 4),
  /** Loads one lane of a vector, keeps the others. */
  load32_lane: (at: Code, vector: Code, lane: number, offset = 0): Code => [
    ...at,
    ...vector,
    ...simd(0x56),
    ...address(2, offset),
    lane,
  ],
  load64_lane: (at: Code, vector: Code, lane: number, offset = 0): Code => [
    ...at,
    ...vector,
    ...simd(0x57),
    ...address(3, offset),
    lane,
  ],
  store32_lane: (at: Code, vector: Code, lane: number, offset = 0): Code => [
    ...at,
    ...vector,
    ...simd(0x5a),
    ...address(2, offset),
    lane,
  ],
  store64_lane: (at: Code, vector: Code, lane: number, offset = 0): Code => [
    ...at,
    ...vector,
    ...simd(0x5b),
    ...address(3, offset),
    lane,
  ],
  and: binary(0x4e),
  or: binary(0x50),
  xor: binary(0x51),
  not: unary(0x4d),
  /** Bits of `a` where `mask` is 1, of `b` elsewhere. */
  bitselect: (a: Code, b: Code, mask: Code): Code => [
    ...a,
    ...b,
    ...mask,
    ...simd(0x52),
  ],
  any_true: unary(0x53),
};

export const i8x16 = {
  shuffle: (a: Code, b: Code, indices: readonly number[]): Code => [
    ...a,
    ...b,
    ...simd(0x0d),
    ...indices,
  ],
  narrow_i16x8_u: binary(0x66),
};

/** The upper 64 bits below the lower ones. */
export const swapHalves = (a: Code): Code =>
  i8x16.shuffle(a, a, [8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7]);

export const i16x8 = {
  abs: unary(0x80),
  narrow_i32x4_u: binary(0x86),
  narrow_i32x4_s: binary(0x85),
  shl: shift(0x8b),
  shr_u: shift(0x8d),
};

export const i32x4 = {
  const: (a: number, b = a, c = a, d = a): Code =>
    lanes(new Uint8Array(Int32Array.of(a, b, c, d).buffer)),
  splat: unary(0x11),
  lt_s: binary(0x39),
  gt_s: binary(0x3b),
  ge_s: binary(0x3f),
  ge_u: binary(0x40),
  shl: shift(0xab),
  shr_s: shift(0xac),
  shr_u: shift(0xad),
  add: binary(0xae),
  sub: binary(0xb1),
  mul: binary(0xb5),
  max_u: binary(0xb9),
  abs: unary(0xa0),
  bitmask: unary(0xa4),
  trunc_sat_f32x4_s: unary(0xf8),
  trunc_sat_f64x2_s_zero: unary(0xfc),
  extract_lane: (a: Code, lane: number): Code => [...a, ...simd(0x1b), lane],
};

export const i64x2 = {
  const: (a: bigint, b = a): Code =>
    lanes(new Uint8Array(BigInt64Array.of(a, b).buffer)),
  extract_lane: (a: Code, lane: number): Code => [...a, ...simd(0x1d), lane],
  extend_low_i32x4_s: unary(0xc7),
  shl: shift(0xcb),
  shr_u: shift(0xcd),
  add: binary(0xce),
  sub: binary(0xd1),
};

export const f32x4 = {
  const: (value: number): Code =>
    lanes(new Uint8Array(Float32Array.of(value, value, value, value).buffer)),
  eq: binary(0x41),
  ne: binary(0x42),
  lt: binary(0x43),
  gt: binary(0x44),
  le: binary(0x45),
  ge: binary(0x46),
  abs: unary(0xe0),
  neg: unary(0xe1),
  sqrt: unary(0xe3),
  add: binary(0xe4),
  sub: binary(0xe5),
  mul: binary(0xe6),
  div: binary(0xe7),
  /** `b < a ? b : a`. */
  pmin: binary(0xea),
  /** `a < b ? b : a`. */
  pmax: binary(0xeb),
  convert_i32x4_s: unary(0xfa),
  convert_i32x4_u: unary(0xfb),
  demote_f64x2_zero: unary(0x5e),
};

export const f64x2 = {
  const: (value: number): Code =>
    lanes(new Uint8Array(Float64Array.of(value, value).buffer)),
  splat: unary(0x14),
  eq: binary(0x47),
  lt: binary(0x49),
  gt: binary(0x4a),
  ge: binary(0x4c),
  add: binary(0xf0),
  sub: binary(0xf1),
  mul: binary(0xf2),
  div: binary(0xf3),
  pmin: binary(0xf4),
  pmax: binary(0xf5),
  nearest: unary(0x94),
  convert_low_i32x4_s: unary(0xfe),
  promote_low_f32x4: unary(0x5f),
  extract_lane: (a: Code, lane: number): Code => [...a, ...simd(0x21), lane],
};

/** Copies bytes; the regions may overlap. */
export const memoryCopy = (to: Code, from: Code, bytes: Code): Code => [
  ...to,
  ...from,
  ...bytes,
  0xfc,
  0x0a,
  0x00,
  0x00,
];

/** Sets bytes. */
export const memoryFill = (at: Code, value: Code, bytes: Code): Code => [
  ...at,
  ...value,
  ...bytes,
  0xfc,
  0x0b,
  0x00,
];

/** `if (condition) then`, both without a value. */
export const when = (condition: Code, then: Code): Code => [
  ...condition,
  0x04,
  0x40,
  ...then,
  0x0b,
];

/** `if (condition) then else otherwise`, without a value. */
export const choose = (condition: Code, then: Code, otherwise: Code): Code => [
  ...condition,
  0x04,
  0x40,
  ...then,
  0x05,
  ...otherwise,
  0x0b,
];

/** Repeats the body while the condition at its head holds. */
export const whileDo = (condition: Code, body: Code): Code => [
  ...[0x02, 0x40, 0x03, 0x40],
  ...condition,
  ...[0x45, 0x0d, 0x01],
  ...body,
  ...[0x0c, 0x00, 0x0b, 0x0b],
];

/** Repeats the body while the condition that ends it holds; runs at least once. */
export const doWhile = (body: Code, condition: Code): Code => [
  0x03,
  0x40,
  ...body,
  ...condition,
  0x0d,
  0x00,
  0x0b,
];
