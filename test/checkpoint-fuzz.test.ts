// The loader against files that are damaged or made to mislead: 100,000 of them,
// the same ones every time. Each is refused with one clear error and changes
// nothing, or is a good file and loads whole.

import { adamw, FileError } from "lowbit";
import { describe, expect, test } from "vitest";
import { advance, runOn, type Run } from "./support/checkpoints.ts";
import { engines } from "./support/engines.ts";
import { mutations, putTogether, takeApart } from "./support/mutations.ts";
import { randomSource } from "./support/numbers.ts";
import { readSafetensors } from "./support/safetensors.ts";

const FILES = 100_000;

const levels = Float32Array.from({ length: 7 }, (_, i) => (i - 3) / 3);

/** Codes with a codebook that has fewer values than codes, bfloat16 and float32, and sums. */
const make = () =>
  runOn(
    engines[0]!,
    adamw({
      state: {
        m: { bits: 3, codebook: levels },
        v: { bits: 4, blockSize: 32 },
      },
    }),
    {
      shapes: { w: [3, 15], b: [5] },
      accumulate: 2,
      percentileClipping: 50,
      overrides: [{ match: "b", bits: 16, lr: 0.01, weightDecay: 0 }],
    },
  );

/** What a load changes, as bytes. */
async function contents({ optimizer, parameters }: Run): Promise<Buffer> {
  const parts = [Buffer.from(`${optimizer.steps} ${optimizer.lr}`)];
  for (const name of Object.keys(parameters))
    for (const stored of Object.values(await optimizer.state(name)))
      if (stored.kind === "float")
        parts.push(Buffer.from(stored.values.buffer));
      else
        parts.push(
          Buffer.from(stored.codes),
          Buffer.from(stored.scales.buffer),
        );
  return Buffer.concat(parts);
}

/** After a load that succeeded: every state is the file's, or was requantized. */
async function checkWhole(
  { optimizer, parameters }: Run,
  file: Uint8Array,
  requantized: readonly { tensor: string; state: string }[],
): Promise<void> {
  const { tensors, metadata } = readSafetensors(file);
  const same = (a: Uint8Array, b: Uint8Array) => Buffer.compare(a, b) === 0;
  const wrong = [];
  if (optimizer.steps !== Number(metadata.step)) wrong.push("step");
  for (const tensor of Object.keys(parameters))
    for (const [state, stored] of Object.entries(
      await optimizer.state(tensor),
    )) {
      const name = `${tensor}/${state}`;
      if (requantized.some((one) => `${one.tensor}/${one.state}` === name))
        continue;
      const bytes = (suffix: string) => tensors.get(`${name}${suffix}`)!.bytes;
      if (stored.kind === "quantized") {
        const scales = new Uint8Array(stored.scales.buffer);
        if (!same(stored.codes, bytes(".codes"))) wrong.push(`${name}.codes`);
        if (!same(scales, bytes(".scales"))) wrong.push(`${name}.scales`);
      } else {
        // As values: which NaN a NaN is, float32 does not keep.
        const halves = new Uint16Array(bytes("").buffer);
        const bits = Uint32Array.from(halves, (half) => half << 16);
        const values = new Float32Array(bits.buffer);
        if (!values.every((value, i) => Object.is(value, stored.values[i])))
          wrong.push(name);
      }
    }
  if (wrong.length > 0)
    throw new Error(`loaded, and not the file's: ${wrong.join(", ")}`);
}

/** Mutations that leave the checksums as they are. */
const raw = new Set(Object.keys(mutations).slice(0, 6));

describe("the loader", () => {
  test(`refuses or loads whole each of ${FILES} mutated files`, async () => {
    const source = await make();
    await advance(source, 1, 2, 3, 4, 5);
    const file = await source.optimizer.save();
    const target = await make();
    // A file that was only taken apart is good.
    await target.optimizer.load(putTogether(takeApart(file)));
    expect(await contents(target)).toEqual(await contents(source));
    await advance(target, 6, 7);
    let before = await contents(target);
    const random = randomSource(2026);
    const kinds = Object.entries(mutations);
    const counts: Record<string, { refused: number; loaded: number }> = {};
    const messages = new Set<string>();
    for (let i = 0; i < FILES; i++) {
      const [name, mutate] = kinds[i % kinds.length]!;
      const mutated = mutate(file, random);
      const count = (counts[name] ??= { refused: 0, loaded: 0 });
      try {
        const { requantized } = await target.optimizer.load(mutated);
        count.loaded++;
        if (raw.has(name) && Buffer.compare(mutated, file) !== 0)
          throw new Error(`file ${i} (${name}) loaded and should not have`);
        await checkWhole(target, mutated, requantized);
        before = await contents(target);
      } catch (error) {
        if (!(error instanceof FileError)) throw error;
        count.refused++;
        messages.add(error.message.replace(/\d+|'[^']*'|"[^"]*"/g, "_"));
        if (error.message.length > 400)
          throw new Error(`no clear message: ${error.message}`, {
            cause: error,
          });
        if (Buffer.compare(await contents(target), before) !== 0)
          throw new Error(`file ${i} (${name}) left something`, {
            cause: error,
          });
      }
    }
    console.log(`${messages.size} different messages`, counts);
    // Where a checksum must tell, no file gets through but one that is the same.
    for (const name of ["cut off", "bytes in between", "a key twice"])
      expect(counts[name]!.loaded, name).toBe(0);
    expect(
      counts["other data, with the right checksums"]!.loaded,
    ).toBeGreaterThan(0);
    expect(messages.size).toBeGreaterThan(40);
    // The optimizer is as good as ever.
    await target.optimizer.load(file);
    expect(await contents(target)).toEqual(await contents(source));
    expect(Object.keys(Object.prototype)).toEqual([]);
  }, 300_000);
});
