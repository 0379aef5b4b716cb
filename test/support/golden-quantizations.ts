/** Recordings of quantization alone. */
import { codebook, unpackCodes } from "lowbit";
import type { Recording } from "./recordings.ts";
import { reader, type QuantizeCase, type Quantizations } from "./golden-run.ts";

const recordedCodebooks: Readonly<Record<string, () => Float32Array>> = {
  dynamic_signed: () => codebook("dynamic"),
  dynamic_unsigned: () => codebook("dynamic", { signed: false }),
  linear_signed: () => codebook("linear"),
  linear_unsigned: () => codebook("linear", { signed: false }),
  fp8_e4m3: () => codebook("fp8-e4m3"),
  fp8_e5m2: () => codebook("fp8-e5m2"),
  // Sixteen values; the rest of the recorded table is filled up with zeros.
  normal: () => codebook("nf4"),
};

export function quantizations(recording: Recording): Quantizations {
  const { bytes, floats } = reader(recording);
  const keys = [...recording.tensors.keys()];
  const codebooks = Object.fromEntries(
    Object.entries(recordedCodebooks)
      .filter(([key]) => keys.includes(key))
      .map(([key, ours]) => [
        key,
        {
          ours: ours(),
          theirs:
            key === "normal"
              ? Float32Array.from(new Set(floats(key))).sort()
              : floats(key),
        },
      ]),
  );
  const cases = keys.flatMap((key): QuantizeCase[] => {
    const [, map, block] = /^q\.(\w+)\.(\d+)$/.exec(key) ?? [];
    if (!map || !block) return [];
    const four = map === "nf4" || map === "fp4";
    const values = floats(`dq.${map}.${block}`);
    const input = floats(map === "unsigned" ? "xpos" : "x").slice(
      0,
      values.length,
    );
    const codes = bytes(key);
    return [
      {
        title: `${map}, blocks of ${block}`,
        input,
        format: {
          bits: four ? 4 : 8,
          blockSize: Number(block),
          codebook: four ? map : map === "linear" ? "linear" : "dynamic",
          signed: map !== "unsigned",
        },
        codebook: four
          ? undefined
          : floats(map === "linear" ? "linear_signed" : `dynamic_${map}`),
        // fp4 codes are numbered by their bits there, ours by value.
        codes:
          map === "fp4"
            ? undefined
            : four
              ? unpackCodes(
                  codes.map((byte) => (byte >> 4) | (byte << 4)),
                  4,
                  values.length,
                )
              : codes,
        scales: floats(`absmax.${map}.${block}`),
        values,
      },
    ];
  });
  return { kind: "quantize", codebooks, cases };
}
