/** Recordings of Python's states by name, and states as whole files. */
import { writeState, type OpenState, type WriteStateOptions } from "lowbit/io";
import { expect } from "vitest";
import { useTables } from "./python-state.ts";
import { recordings } from "./recordings.ts";

export const all = await recordings();
export const byName = (name: string) =>
  all.find((one) => one.name === `${name}.safetensors`)!;
useTables(byName("bnb_quantize"));

/** A state as a file of some layout. */
export async function write(open: OpenState, options: WriteStateOptions) {
  const file = writeState(open.checkpoint, options);
  const chunks: Uint8Array[] = [];
  for await (const chunk of file.chunks()) chunks.push(chunk);
  const bytes = new Uint8Array(Buffer.concat(chunks));
  expect(bytes.length).toBe(file.size);
  return { bytes, changes: file.changes() };
}
