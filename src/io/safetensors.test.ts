import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  readSafetensors,
  writeSafetensors,
  type SafeTensor,
} from "./safetensors.ts";

const tensors: Record<string, SafeTensor> = {
  w: { dtype: "F32", shape: [2, 3], data: Float32Array.of(1, 2, 3, 4, 5, 6) },
  codes: { dtype: "U8", shape: [3], data: Uint8Array.of(7, 8, 9) },
  scalar: { dtype: "I64", shape: [], data: BigInt64Array.of(-5n) },
  empty: { dtype: "F32", shape: [0, 4], data: new Float32Array(0) },
};

test("reads back what it wrote", () => {
  const metadata = { step: "3", note: "ä" };
  const file = writeSafetensors(tensors, metadata);
  expect(readSafetensors(file)).toEqual({ tensors, metadata });
  // At an odd place of a larger buffer, too.
  const moved = new Uint8Array(file.length + 1);
  moved.set(file, 1);
  expect(readSafetensors(moved.subarray(1)).tensors).toEqual(tensors);
});

test("the same tensors give the same bytes, in whatever order", () => {
  const turned = Object.fromEntries(Object.entries(tensors).reverse());
  expect(writeSafetensors(turned)).toEqual(writeSafetensors(tensors));
});

test("reads files that Python wrote", () => {
  const folder = new URL("../../test/golden/", import.meta.url);
  const names = readdirSync(folder).filter((n) => n.endsWith(".safetensors"));
  expect(names.length).toBeGreaterThan(0);
  for (const name of names) {
    const read = readSafetensors(readFileSync(new URL(name, folder)));
    expect(Object.keys(read.tensors).length, name).toBeGreaterThan(0);
  }
});

test("refuses a shape that its data do not have", () => {
  const wrong = { ...tensors.w!, shape: [7] };
  expect(() => writeSafetensors({ w: wrong })).toThrow(
    "'w' is F32 of shape [7], its data is Float32Array of 6",
  );
});

describe("refuses a file", () => {
  const file = writeSafetensors(tensors);
  const entry = { dtype: "U8", shape: [2], data_offsets: [0, 2] };
  const withHeader = (header: unknown, bytes = 2) => {
    const text = new TextEncoder().encode(JSON.stringify(header));
    const made = new Uint8Array(8 + text.length + bytes);
    new DataView(made.buffer).setBigUint64(0, BigInt(text.length), true);
    made.set(text, 8);
    return made;
  };

  test.each([
    ["that is cut off", file.subarray(0, file.length - 1), /the file has/],
    ["without a header", file.subarray(0, 5), /only 5 bytes/],
    ["whose header is cut off", file.subarray(0, 20), /a header of/],
    ["that is something else", new Uint8Array(16), /not JSON/],
    ["with bytes left over", withHeader({ a: entry }, 3), /the file has 3/],
    [
      "with overlapping tensors",
      withHeader({ a: entry, b: { ...entry, data_offsets: [1, 3] } }, 3),
      /'b' begins at 1, and 2 comes next/,
    ],
    [
      "with an unknown dtype",
      withHeader({ a: { ...entry, dtype: "toString" } }),
      /unknown dtype "toString"/,
    ],
    [
      "with a shape of other size",
      withHeader({ a: { ...entry, shape: [3] } }),
      /3 bytes, and has 2/,
    ],
    [
      "with a negative shape",
      withHeader({ a: { ...entry, shape: [-1, -2] } }),
      /no proper shape/,
    ],
  ])("%s", (_, bytes, message) => {
    expect(() => readSafetensors(bytes)).toThrow(message);
  });
});
