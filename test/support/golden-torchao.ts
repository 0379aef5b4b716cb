/** Recordings of torchao. */
import { adamw, unpackCodes, type FormatOptions } from "lowbit";
import type { Recording } from "./recordings.ts";
import {
  adamOptions,
  blockOf,
  reader,
  run,
  skip,
  type ExpectedState,
  type Known,
  type Meta,
} from "./golden-run.ts";

export function torchao(recording: Recording, meta: Meta): Known {
  const { bytes, floats } = reader(recording);
  if (meta.optimizer !== "adamw")
    return skip(`there is no replay of torchao's '${meta.optimizer}'`);
  const base = run(recording, meta);
  const length = base.start.length;
  const blockSize = blockOf(length, floats("exp_avg.scale.1").length);
  const fp8 = !recording.tensors.has("exp_avg.qmap");
  const bits = fp8 || bytes("exp_avg.codes.1").length === length ? 8 : 4;
  const codes = (key: string): Uint8Array => {
    const packed = bytes(key);
    if (fp8) return packed.map((byte) => e4m3Codes[byte]!);
    if (bits === 8) return packed;
    // The first element lies in the high nibble there.
    return unpackCodes(
      packed.map((byte) => (byte >> 4) | (byte << 4)),
      4,
      length,
    );
  };
  const state = (t: number, key: string): ExpectedState => ({
    kind: "quantized",
    codes: codes(`${key}.codes.${t}`),
    // An FP8 scale takes the block to 448, the largest e4m3 value.
    scales: floats(`${key}.scale.${t}`).map((scale) =>
      fp8 ? scale * 448 : scale,
    ),
  });
  const format: FormatOptions = { bits, blockSize };
  return {
    ...base,
    recipe: adamw({
      ...adamOptions(meta),
      state: fp8
        ? {
            m: { ...format, codebook: e4m3 },
            v: { ...format, codebook: e4m3, signed: true },
          }
        : {
            m: { ...format, codebook: "dynamic" },
            v: {
              ...format,
              codebook: bits === 4 ? "linear-nozero" : "dynamic",
            },
          },
    }),
    bits,
    codebooks: fp8
      ? {}
      : { m: floats("exp_avg.qmap"), v: floats("exp_avg_sq.qmap") },
    clippedScale: 1e-12 * (fp8 ? 448 : 1) * 1.0001,
    state: (t) => ({ m: state(t, "exp_avg"), v: state(t, "exp_avg_sq") }),
  };
}

/** PyTorch's float8_e4m3fn by byte: no infinities, NaN at 0x7f and 0xff. */
const e4m3fn = Array.from({ length: 256 }, (_, byte) => {
  const exponent = (byte >> 3) & 15;
  const fraction = byte & 7;
  if (exponent === 15 && fraction === 7) return NaN;
  const magnitude =
    exponent === 0
      ? (fraction / 8) * 2 ** -6
      : (1 + fraction / 8) * 2 ** (exponent - 7);
  return byte & 0x80 ? -magnitude : magnitude;
});
const e4m3Values = [
  ...new Set(
    e4m3fn.filter((value) => !Number.isNaN(value)).map((value) => value + 0),
  ),
].sort((a, b) => a - b);
/** As a codebook in [-1, 1], and from their bytes to its codes. */
const e4m3 = Float32Array.from(e4m3Values, (value) => value / 448);
const e4m3Codes = e4m3fn.map((value) => e4m3Values.indexOf(value + 0));
