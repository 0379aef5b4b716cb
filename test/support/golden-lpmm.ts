/** Recordings of lpmm. */
import { adamw, factor, sgd, unpackCodes, type FormatOptions } from "lowbit";
import type { Recording } from "./recordings.ts";
import {
  adamOptions,
  asKernel,
  blockOf,
  given,
  reader,
  run,
  type ExpectedState,
  type Known,
  type Meta,
} from "./golden-run.ts";

export function lpmm(recording: Recording, recorded: Meta): Known {
  const { bytes, floats } = reader(recording);
  const keys = [...recording.tensors.keys()];
  const factored = keys.some((key) => key.startsWith("exp_avg_sq_row"));
  const axes = keys
    .filter((key) => /^exp_avg_sq\.max_dims\d+\.1$/.test(key))
    .map((_, axis) => axis);
  const rank1 = axes.length > 0;
  const base = run(recording, recorded);
  const length = base.start.length;
  const first = keys.includes("exp_avg.1") ? "exp_avg" : "momentum_buffer";
  // Small tensors keep float32 states there.
  const plain = recording.tensors.get(`${first}.1`)!.dtype === "F32";
  const blockSize = plain
    ? 128
    : blockOf(length, floats(`${first}.max1.1`).length);
  // Only the fused kernel does not pad.
  const fused = bytes(`${first}.1`).length === Math.ceil(length / 2);
  const meta = fused ? asKernel(recorded) : recorded;
  const state = (t: number, key: string): ExpectedState =>
    plain
      ? { kind: "float", values: floats(`${key}.${t}`) }
      : {
          kind: "quantized",
          // Padded to a multiple of 2048 elements and a byte, unless fused.
          codes: unpackCodes(bytes(`${key}.${t}`), 4, length),
          // Ours lie one axis after the other.
          scales:
            rank1 && key === "exp_avg_sq"
              ? Float32Array.from(
                  axes.flatMap((axis) => [
                    ...floats(`${key}.max_dims${axis}.${t}`),
                  ]),
                )
              : floats(`${key}.max1.${t}`),
        };
  const bits = plain ? 32 : 4;
  const m: FormatOptions = {
    bits,
    blockSize,
    codebook: "dynamic",
    rounding: "nearest",
  };
  const names: Record<string, string> = factored
    ? { m: first }
    : first === "exp_avg"
      ? { m: "exp_avg", v: "exp_avg_sq" }
      : { m: first };
  return {
    ...base,
    blockSize,
    reductions: factored || rank1,
    recipe: factored
      ? factor({ ...adamOptions(meta), state: { m } })
      : first === "exp_avg"
        ? adamw({
            ...adamOptions(meta),
            state: {
              m,
              v: {
                ...m,
                codebook: "linear-nozero",
                scale: rank1 ? "rank1" : "block",
              },
            },
          })
        : sgd({
            ...given({
              lr: meta.lr,
              momentum: meta.momentum,
              dampening: meta.dampening,
              weightDecay: meta.weight_decay,
            }),
            ...(meta.nesterov === undefined ? {} : { nesterov: meta.nesterov }),
            state: { m },
          }),
    bits,
    codebooks: Object.fromEntries(
      Object.entries(plain ? {} : names).map(([name, key]) => [
        name,
        floats(`${key}.qmap`),
      ]),
    ),
    state: (t) => ({
      ...Object.fromEntries(
        Object.entries(names).map(([name, key]) => [name, state(t, key)]),
      ),
      ...(factored && {
        row: { kind: "float", values: floats(`exp_avg_sq_row.${t}`) },
        col: { kind: "float", values: floats(`exp_avg_sq_col.${t}`) },
      }),
    }),
  };
}
