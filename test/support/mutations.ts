/**
 * Files that somebody damaged, or made to mislead: bytes changed at random, and
 * changes of what the file says with all checksums made right again.
 */
import { crc32 } from "node:zlib";

export type Random = () => number;

const pick = <T>(random: Random, from: readonly T[]): T =>
  from[Math.floor(random() * from.length)]!;
const below = (random: Random, limit: number) => Math.floor(random() * limit);

interface Entry {
  dtype: unknown;
  shape: unknown;
  data_offsets: unknown;
}

/** A file taken apart. */
interface Parts {
  metadata: Record<string, unknown>;
  entries: [string, Entry][];
  data: Uint8Array;
  checksums: boolean;
}

export function takeApart(file: Uint8Array): Parts {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const length = Number(view.getBigUint64(0, true));
  const text = new TextDecoder().decode(file.subarray(8, 8 + length));
  const { __metadata__: metadata, ...entries } = JSON.parse(text) as {
    __metadata__: Record<string, string>;
  };
  return {
    metadata: Object.fromEntries(
      Object.entries(metadata).map(([key, value]) => [
        key,
        ["format", "version", "optimizer", "recipe"].includes(key)
          ? value
          : JSON.parse(value),
      ]),
    ),
    entries: Object.entries(entries as object) as [string, Entry][],
    data: file.slice(8 + length),
    checksums: true,
  };
}

/** The inverse, with every checksum as it must be, where there is room for it. */
export function putTogether(
  { metadata, entries, data, checksums }: Parts,
  raw: (json: string) => string = (json) => json,
): Uint8Array {
  const texts =
    typeof metadata === "object" && metadata !== null
      ? Object.fromEntries(
          Object.entries(metadata).map(([key, value]) => [
            key,
            typeof value === "string" ? value : JSON.stringify(value),
          ]),
        )
      : metadata;
  const json = raw(
    JSON.stringify(Object.fromEntries([["__metadata__", texts], ...entries])),
  );
  const text = new TextEncoder().encode(json);
  const start = 8 + text.length;
  const file = new Uint8Array(start + data.length);
  const view = new DataView(file.buffer);
  view.setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  file.set(data, start);
  const sums = entries.find(([name]) => name === "checksums/0")?.[1];
  const at = Array.isArray(sums?.data_offsets) ? sums.data_offsets[0] : NaN;
  const put = (i: number, value: number) => {
    const place = start + Number(at) + 4 * i;
    if (place >= start && place + 4 <= file.length)
      view.setUint32(place, value, true);
  };
  if (!checksums) return file;
  put(0, crc32(file.subarray(0, start)));
  entries.forEach(([name, entry], i) => {
    const offsets = (entry as Entry | null)?.data_offsets;
    if (name === "checksums/0" || !Array.isArray(offsets)) return;
    const [from, to] = offsets as [number, number];
    put(i + 1, crc32(file.subarray(start + from, start + to)));
  });
  return file;
}

/** Numbers, names and kinds of values that programs stumble over. */
const strange: readonly unknown[] = [
  0,
  1,
  -1,
  2,
  3,
  255,
  256,
  4096,
  0.5,
  1e300,
  -1e300,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  2 ** 53 + 2,
  null,
  true,
  "",
  "0",
  "length",
  "__proto__",
  "constructor",
  "m",
  "w",
  [],
  [0],
  [[]],
  [-1],
  {},
  { length: 3 },
  "float",
  "quantized",
  "F64",
  "U8",
  "row",
  "one",
  "stochastic",
  "rank1",
  "tensor",
  "block",
];

/** Changes one place of a JSON value, however deep. */
function changeValue(random: Random, value: unknown): unknown {
  if (typeof value !== "object" || value === null || random() < 0.1)
    return random() < 0.5 && typeof value === "number"
      ? value + pick(random, [1, -1, 0.5, 256, -value, value])
      : pick(random, strange);
  if (Array.isArray(value)) {
    const list = [...(value as unknown[])];
    const at = below(random, list.length + 1);
    const how = random();
    if (how < 0.1) list.splice(at, 1);
    else if (how < 0.2) list.splice(at, 0, pick(random, strange));
    else if (how < 0.25) list.splice(at, 0, list[at - 1]);
    else if (list.length > 0) {
      const place = below(random, list.length);
      list[place] = changeValue(random, list[place]);
    }
    return list;
  }
  const entries = Object.entries(value);
  const at = below(random, entries.length);
  const how = random();
  const name = pick(random, ["__proto__", "toString", "x", "", "shape", "lr"]);
  if (how < 0.12) entries.splice(at, 1);
  else if (how < 0.2) entries.push([name, pick(random, strange)]);
  else if (how < 0.28 && entries.length > 0)
    entries[at] = [name, entries[at]![1]];
  else if (entries.length > 0)
    entries[at] = [entries[at]![0], changeValue(random, entries[at]![1])];
  return Object.fromEntries(entries);
}

/** Each takes a file and gives another, with the same choice for the same random numbers. */
export const mutations: Readonly<
  Record<string, (file: Uint8Array, random: Random) => Uint8Array>
> = {
  "a bit turned"(file, random) {
    const out = file.slice();
    out[below(random, out.length)]! ^= 1 << below(random, 8);
    return out;
  },
  "some bytes anew"(file, random) {
    const out = file.slice();
    const at = below(random, out.length);
    for (let i = 0; i < 1 + below(random, 16); i++)
      out[at + i] = below(random, 256);
    return out;
  },
  "cut off": (file, random) => file.slice(0, below(random, file.length)),
  "bytes in between"(file, random) {
    const at = below(random, file.length + 1);
    const more = new Uint8Array(1 + below(random, 64)).fill(below(random, 256));
    const out = new Uint8Array(file.length + more.length);
    out.set(file.subarray(0, at));
    out.set(more, at);
    out.set(file.subarray(at), at + more.length);
    return out;
  },
  "a part twice or moved"(file, random) {
    const out = file.slice();
    const length = below(random, 200);
    const from = below(random, out.length - length);
    out.copyWithin(below(random, out.length), from, from + length);
    return out;
  },
  "another length of the header"(file, random) {
    const out = file.slice();
    const view = new DataView(out.buffer);
    const length = view.getBigUint64(0, true);
    const other = pick(random, [
      0n,
      1n,
      8n,
      length - 1n,
      length + 1n,
      length + 8n,
      2n ** 32n,
      2n ** 40n,
      2n ** 53n,
      2n ** 63n,
      2n ** 64n - 1n,
      99_999_999n,
      BigInt(out.length),
    ]);
    view.setBigUint64(0, other, true);
    return out;
  },
  "other metadata"(file, random) {
    const parts = takeApart(file);
    parts.metadata = changeValue(random, parts.metadata) as Parts["metadata"];
    return putTogether(parts);
  },
  "another field of the metadata"(file, random) {
    const parts = takeApart(file);
    const key = pick(random, Object.keys(parts.metadata));
    parts.metadata[key] = changeValue(random, parts.metadata[key]);
    return putTogether(parts);
  },
  "another format"(file, random) {
    const parts = takeApart(file);
    const formats = parts.metadata.formats as unknown[];
    const at = below(random, formats.length);
    formats[at] = changeValue(random, formats[at]);
    return putTogether(parts);
  },
  "another entry of the header"(file, random) {
    const parts = takeApart(file);
    const at = below(random, parts.entries.length);
    const [name, entry] = parts.entries[at]!;
    parts.entries[at] = [name, changeValue(random, entry) as Entry];
    return putTogether(parts);
  },
  "entries renamed, doubled, left out or with each other's places"(
    file,
    random,
  ) {
    const parts = takeApart(file);
    const { entries } = parts;
    const [i, j] = [
      below(random, entries.length),
      below(random, entries.length),
    ];
    const how = random();
    if (how < 0.25) entries.splice(i, 1);
    else if (how < 0.5)
      entries[i] = [
        pick(random, ["x", "__proto__", "w/m", "a/b/c", "codebook/9"]),
        entries[i]![1],
      ];
    else if (how < 0.75) {
      const kept = entries[i]![1];
      entries[i] = [entries[i]![0], entries[j]![1]];
      entries[j] = [entries[j]![0], kept];
    } else entries.push([`${entries[i]![0]}x`, { ...entries[j]![1] }]);
    return putTogether(parts);
  },
  "a key twice"(file, random) {
    const parts = takeApart(file);
    const [name] = pick(random, parts.entries);
    const other = JSON.stringify(pick(random, parts.entries)[1]);
    return putTogether(
      parts,
      (json) => `${json.slice(0, -1)},${JSON.stringify(name)}:${other}}`,
    );
  },
  "a key twice within the metadata"(file, random) {
    const parts = takeApart(file);
    const key = pick(random, ["hyper", "tensors", "lr", "accumulation"]);
    const json = JSON.stringify(parts.metadata[key]);
    const first = Object.entries(parts.metadata[key] as object)[0]!;
    const twice = JSON.stringify(Object.fromEntries([first])).slice(1);
    parts.metadata[key] = `${json.slice(0, -1)},${twice}`;
    return putTogether(parts);
  },
  // May be a good file, whose numbers are others.
  "other data, with the right checksums"(file, random) {
    const parts = takeApart(file);
    const at = below(random, parts.data.length);
    for (let i = 0; i < 1 + below(random, 8); i++)
      parts.data[at + i] = below(random, 256);
    return putTogether(parts);
  },
};
