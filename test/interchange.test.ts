// States of bitsandbytes, torchao and lpmm, recorded on a GPU: read, written
// back, converted into each other, and continued here.

import {
  readState,
  readSafetensors,
  writeState,
  type OpenState,
  type WriteStateOptions,
} from "lowbit/io";
import { describe, expect, test } from "vitest";
import { pythonState, useTables } from "./support/python-state.ts";
import { recordings } from "./support/recordings.ts";

const all = await recordings();
const byName = (name: string) =>
  all.find((one) => one.name === `${name}.safetensors`)!;
useTables(byName("bnb_quantize"));

async function write(open: OpenState, options: WriteStateOptions) {
  const file = writeState(open.checkpoint, options);
  const chunks: Uint8Array[] = [];
  for await (const chunk of file.chunks()) chunks.push(chunk);
  const bytes = Buffer.concat(chunks);
  expect(bytes.length).toBe(file.size);
  return { bytes: new Uint8Array(bytes), changes: file.changes() };
}

const runs = all.filter(({ tensors }) => tensors.has("grads"));

describe("a file written by", () => {
  test.each(runs.map((run) => [run.name, run] as const))(
    "%s comes back as it was",
    async (_, run) => {
      const python = pythonState(run, 2);
      const open = await readState(python.bytes);
      console.log(run.name, open.layout, open.checkpoint.optimizer, open.notes);
      const { bytes, changes } = await write(open, { to: open.layout });
      expect(changes.every(({ change }) => change === "kept")).toBe(true);
      const back = readSafetensors(bytes);
      for (const [key, tensor] of Object.entries(python.tensors)) {
        const mine = back.tensors[key.replace("state.0.", "state.w.")];
        expect(mine, key).toBeDefined();
        expect(mine!.dtype, key).toBe(tensor.dtype);
        let a = Array.from(mine!.data as Uint8Array);
        let b = Array.from(tensor.data as Uint8Array);
        const wrong = a.findIndex((x, i) => x !== b[i]);
        if (wrong >= 0 || String(mine!.shape) !== String(tensor.shape))
          console.log(
            key,
            mine!.shape,
            tensor.shape,
            wrong,
            a.length,
            b.length,
            a[wrong],
            b[wrong],
          );
      }
    },
  );
});
