/**
 * From a recording of another library to a replay: which optimizer, formats
 * and inputs it takes here, and what must come out after every step. Recordings
 * are recognised by their metadata and their keys, never by their file's name.
 */
import type { Recording } from "./recordings.ts";
import { bitsandbytes } from "./golden-bitsandbytes.ts";
import { lpmm } from "./golden-lpmm.ts";
import { quantizations } from "./golden-quantizations.ts";
import { skip, type Known, type Meta } from "./golden-run.ts";
import { torchao } from "./golden-torchao.ts";

/** Recognises a recording. */
export function recognise(recording: Recording): Known {
  const { tensors, metadata } = recording;
  const keys = [...tensors.keys()];
  const has = (pattern: RegExp) => keys.some((key) => pattern.test(key));
  if (has(/^q\.\w+\.\d+$/)) return quantizations(recording);
  if (!metadata.meta || !tensors.has("p0") || !tensors.has("grads"))
    return skip("it is neither a run of an optimizer nor of a quantizer");
  const meta = JSON.parse(metadata.meta) as Meta;
  if (has(/^state1\.\d+$/)) return bitsandbytes(recording, meta);
  if (has(/^exp_avg\.codes\.\d+$/)) return torchao(recording, meta);
  if (has(/^(exp_avg|momentum_buffer)\.\d+$/)) return lpmm(recording, meta);
  return skip(`no state that we know is among ${keys.slice(0, 8).join(", ")}`);
}
