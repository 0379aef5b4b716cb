// Files of other libraries that are broken, or made to mislead: one error each,
// that says what is wrong; never a crash, never a wrong state.

import {
  FileError,
  readState,
  writeSafetensors,
  writeState,
  type SafeTensor,
} from "lowbit/io";
import { describe, expect, test } from "vitest";
import { randomSource } from "./support/numbers.ts";
import { pythonState } from "./support/python-state.ts";
import { byName } from "./support/interchange.ts";

type Tensors = Record<string, SafeTensor>;

/** Reads everything there is in a file. */
async function readAll(bytes: Uint8Array): Promise<void> {
  const { checkpoint } = await readState(bytes);
  for (const { states } of checkpoint.tensors)
    for (const { read } of states) await read();
}

const floats = (shape: number[], data: number[]): SafeTensor => ({
  dtype: "F32",
  shape,
  data: Float32Array.from(data),
});
const bytesOf = (shape: number[]): SafeTensor => ({
  dtype: "U8",
  shape,
  data: new Uint8Array(shape.reduce((a, b) => a * b, 1)),
});

/** From a good file to a bad one, and what is said of it. */
const cases: [
  string,
  string,
  (tensors: Tensors, metadata: Record<string, string>) => void,
  RegExp,
][] = [
  [
    "codes without scales",
    "bnb_adamw8bit",
    (t) => delete t["state.0.absmax1"],
    /'state.0.state1' holds codes and has no absmax1/,
  ],
  [
    "too few scales",
    "bnb_adamw8bit",
    (t) => (t["state.0.absmax2"] = floats([3], [1, 1, 1])),
    /has 3 scales for 1093 elements, and blocks of 256 or 2048 elements would have 5 or 1/,
  ],
  [
    "a scale that is not a number",
    "bnb_adamw8bit",
    (t) => (t["state.0.absmax1"] = floats([5], [1, NaN, 1, 1, 1])),
    /'state.0.absmax1' must hold scales, finite and 0 or more; number 1 is NaN/,
  ],
  [
    "a negative scale",
    "ao_adamw8bit",
    (t) => ((t["state.0.exp_avg.scale"]!.data as Float32Array)[3] = -1),
    /number 3 is -1/,
  ],
  [
    "a table that does not ascend",
    "bnb_adamw8bit",
    (t) => (t["state.0.qmap1"]!.data as Float32Array).reverse(),
    /'state.0.qmap1': .*must ascend/,
  ],
  [
    "a table of another length",
    "bnb_adamw8bit",
    (t) => (t["state.0.qmap1"] = floats([2], [0, 1])),
    /'state.0.qmap1' must have 256 values, and has 2/,
  ],
  [
    "one state where there are two",
    "bnb_adamw8bit",
    (t) => delete t["state.0.state2"],
    /has no state2, and adamw has two states/,
  ],
  [
    "two states where there is one",
    "bnb_lion8bit",
    (t) => (t["state.0.state2"] = bytesOf([1093])),
    /has a state2, and lion has one state/,
  ],
  [
    "states of other sizes",
    "bnb_adamw8bit",
    (t) => (t["state.0.state2"] = bytesOf([1000])),
    /'state.0.state2' must have 1093 elements, and has 1000/,
  ],
  [
    "two averages that are not two",
    "bnb_ademamix8bit",
    (t) => (t["state.0.state1"] = bytesOf([1093])),
    /holds the two averages of ademamix and must be of shape \[2, ...\]/,
  ],
  [
    "codes of half precision",
    "bnb_adamw8bit",
    (t) =>
      (t["state.0.state1"] = {
        dtype: "F16",
        shape: [1093],
        data: new Uint16Array(1093),
      }),
    /'state.0.state1' must be F32, BF16 or F64, and is F16/,
  ],
  [
    "a step that is none",
    "ao_adamw8bit",
    (t) => (t["state.0.step"] = floats([], [1.5])),
    /'state.0.step' must be a count of steps, and is 1.5/,
  ],
  [
    "a shape that does not fit",
    "ao_adamw4bit",
    (_, m) => (m.shapes = '{"w":[64,81]}'),
    /'state.0.exp_avg.codes' is of shape \[5120\], and \[64, 81\] was said of it/,
  ],
  [
    "FP8 that is not a number",
    "ao_adamwfp8",
    (t) => ((t["state.0.exp_avg.codes"]!.data as Uint8Array)[7] = 0xff),
    /'state.0.exp_avg.codes' has a NaN at element 7/,
  ],
  [
    "no shape for padded codes",
    "lpmm_adamw4_block",
    (_, m) => delete m.shapes,
    /codes of '0' are padded, so that its shape must be known/,
  ],
  [
    "a shape that padded codes cannot have",
    "lpmm_adamw4_block",
    (_, m) => (m.shapes = '{"w":[40,230]}'),
    /must have 5121 bytes of codes \(4600 from the fused kernel\) for 9200 elements, and has 3073/,
  ],
  [
    "rank-1 scales of another shape",
    "lpmm_adamw4_rank1",
    (t) => {
      t["state.0.exp_avg_sq_qstate.overhead.max_dims.0"] = floats(
        [24, 1],
        new Array(24).fill(1),
      );
    },
    /was said of it|rank-1 scales/,
  ],
  [
    "a name twice",
    "bnb_adamw8bit",
    (t, m) => {
      for (const [key, tensor] of Object.entries(t))
        t[key.replace(".0.", ".1.")] = tensor;
      m.names = '["w","w"]';
    },
    /the parameter 'w' is in it twice/,
  ],
  [
    "fewer names than parameters",
    "bnb_adamw8bit",
    (_, m) => (m.names = "[]"),
    /there is a parameter 0, and its metadata have 0 names/,
  ],
  [
    "metadata that are not JSON",
    "bnb_adamw8bit",
    (_, m) => (m.param_groups = "{"),
    /'param_groups' in its metadata is not JSON/,
  ],
  [
    "a hyperparameter that cannot be",
    "bnb_adamw8bit",
    (_, m) => (m.param_groups = '[{"betas":[0.9,1.5]}]'),
    /its hyperparameters cannot be: adamw: beta2 must be in \[0, 1\), given 1.5/,
  ],
  [
    "only other tensors",
    "bnb_adamw8bit",
    (t) => {
      for (const key of Object.keys(t)) delete t[key];
      t["h.0.weight"] = floats([1], [1]);
    },
    /none of its 1 tensors is the state of an optimizer; the first are 'h.0.weight'/,
  ],
];

describe("a file with", () => {
  test.each(cases)("%s is refused", async (_, name, change, words) => {
    const python = pythonState(byName(name), 2);
    const tensors = Object.fromEntries(
      Object.entries(python.tensors).map(([key, tensor]) => [
        key,
        { ...tensor, data: tensor.data.slice() },
      ]),
    );
    const metadata = { ...python.metadata };
    await readAll(writeSafetensors(tensors, metadata));
    change(tensors, metadata);
    const read = readAll(writeSafetensors(tensors, metadata));
    await expect(read).rejects.toThrow(FileError);
    await expect(read).rejects.toThrow(words);
  });

  test("a name that is __proto__ keeps to itself", async () => {
    const python = pythonState(byName("bnb_adamw8bit"), 2);
    const tensors = Object.fromEntries(
      Object.entries(python.tensors).map(([key, tensor]) => [
        key.replace(".0.", ".__proto__."),
        tensor,
      ]),
    );
    const open = await readState(
      writeSafetensors(tensors, {
        optimizer: "AdamW",
        shapes: '{"__proto__":[1093]}',
        param_groups: '[{"lr":0.1,"__proto__":{"eps":5}}]',
      }),
    );
    expect(open.checkpoint.tensors[0]!.name).toBe("__proto__");
    expect(open.checkpoint.hyper.eps).toBe(1e-8);
    expect(({} as { eps?: number }).eps).toBeUndefined();
    for (const to of ["lowbit", "torchao", "float32"] as const) {
      const parts: Uint8Array[] = [];
      for await (const part of writeState(open.checkpoint, { to }).chunks())
        parts.push(part);
      const back = await readState(new Uint8Array(Buffer.concat(parts)));
      expect(back.checkpoint.tensors[0]!.name).toBe("__proto__");
    }
  });
});

test("10,000 changed files are read or refused, and nothing else", async () => {
  const names = [
    "bnb_adamw8bit",
    "bnb_ademamix8bit",
    "ao_adamw4bit",
    "ao_adamwfp8",
    "lpmm_adamw4_rank1",
    "lpmm_factor4",
  ];
  const random = randomSource(42);
  const below = (n: number) => Math.floor(random() * n);
  const files = names.map((name) => pythonState(byName(name), 2).bytes);
  let refused = 0;
  for (let i = 0; i < 10_000; i++) {
    const bytes = mutate(files[i % files.length]!.slice(), below);
    try {
      await readAll(bytes);
    } catch (error) {
      if (!(error instanceof FileError)) throw error;
      refused++;
    }
  }
  // Codes may be changed to other codes; most changes are seen.
  expect(refused).toBeGreaterThan(5_000);
});

/** Changes mostly the header, where the trouble is. */
function mutate(
  bytes: Uint8Array<ArrayBuffer>,
  below: (n: number) => number,
): Uint8Array {
  const header = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  switch (below(6)) {
    case 0:
      return bytes.subarray(0, below(bytes.length));
    case 1: // a byte of the header
      bytes[below(8 + header)] = below(256);
      return bytes;
    case 2: {
      // a digit becomes another
      const digits = [...bytes.subarray(8, 8 + header).keys()].filter(
        (i) => bytes[8 + i]! >= 48 && bytes[8 + i]! <= 57,
      );
      bytes[8 + digits[below(digits.length)]!] = 48 + below(10);
      return bytes;
    }
    case 3: {
      // a piece of the header over another
      const length = below(40);
      const from = 8 + below(header - length);
      bytes.copyWithin(8 + below(header - length), from, from + length);
      return bytes;
    }
    case 4: // a float of the data
      bytes.set(
        [0, 0, below(2) ? 0xc0 : 0x80, 0x7f + 128 * below(2)],
        8 + header + 4 * below(Math.floor((bytes.length - header - 12) / 4)),
      );
      return bytes;
    default: {
      const swap = (a: string, b: string) => {
        const text = Buffer.from(bytes).toString("latin1");
        return new Uint8Array(Buffer.from(text.replace(a, b), "latin1"));
      };
      const words = ["F32", 'U8"', 'I8"', "I64", "step", "state1", "exp_avg"];
      const from = words[below(words.length)]!;
      const to = words[below(words.length)]!;
      return swap(from, to.padEnd(from.length, "x").slice(0, from.length));
    }
  }
}
