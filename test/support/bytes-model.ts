/**
 * A small real task: the next character of TypeScript's own lib.*.d.ts from the
 * four before, by an embedding, a tanh layer and a softmax, with gradients by
 * hand. Seconds on one core, and the second moments spread over many decades,
 * as rare characters make them.
 */
import fs from "node:fs";
import path from "node:path";
import { createOptimizer, type Device, type Recipe } from "lowbit";
import { normals, randomSource } from "./numbers.ts";

const context = 4;
const width = 16;
const hidden = 64;
const classes = 64;
const batch = 32;

let text: Uint8Array | undefined;

/** Characters by rank: the 63 most frequent, and one class for the rest. */
function readText(): Uint8Array {
  if (text) return text;
  const folder = path.resolve(
    import.meta.dirname,
    "../../node_modules/typescript/lib",
  );
  const bytes = ["lib.es5.d.ts", "lib.es2015.core.d.ts"].flatMap((name) => [
    ...fs.readFileSync(path.join(folder, name)),
  ]);
  const counts = new Array<number>(256).fill(0);
  for (const byte of bytes) counts[byte]!++;
  const ranks = new Array<number>(256).fill(classes - 1);
  [...counts.keys()]
    .sort((a, b) => counts[b]! - counts[a]! || a - b)
    .slice(0, classes - 1)
    .forEach((byte, rank) => (ranks[byte] = rank));
  return (text = Uint8Array.from(bytes, (byte) => ranks[byte]!));
}

const shapes = {
  embedding: [classes, width],
  inner: [context * width, hidden],
  innerBias: [hidden],
  outer: [hidden, classes],
  outerBias: [classes],
} as const;
type Tensors = Record<keyof typeof shapes, Float32Array<ArrayBuffer>>;

const filled = (of: (name: keyof typeof shapes, size: number) => unknown) =>
  Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [
      name,
      of(
        name as keyof typeof shapes,
        (shape as readonly number[]).reduce((a, b) => a * b, 1),
      ),
    ]),
  );

/** Mean loss over positions, adding gradients when they are given. */
function loss(p: Tensors, positions: number[], g?: Tensors): number {
  const data = readText();
  const x = new Float64Array(context * width);
  const h = new Float64Array(hidden);
  const out = new Float64Array(classes);
  let total = 0;
  for (const position of positions) {
    for (let c = 0; c < context; c++)
      for (let k = 0; k < width; k++)
        x[c * width + k] = p.embedding[data[position - 1 - c]! * width + k]!;
    h.set(p.innerBias);
    for (let i = 0; i < x.length; i++)
      for (let j = 0; j < hidden; j++)
        h[j]! += x[i]! * p.inner[i * hidden + j]!;
    for (let j = 0; j < hidden; j++) h[j] = Math.tanh(h[j]!);
    out.set(p.outerBias);
    for (let i = 0; i < hidden; i++)
      for (let j = 0; j < classes; j++)
        out[j]! += h[i]! * p.outer[i * classes + j]!;
    const most = Math.max(...out);
    let sum = 0;
    for (let j = 0; j < classes; j++) sum += out[j] = Math.exp(out[j]! - most);
    const wanted = data[position]!;
    total -= Math.log(out[wanted]! / sum) / positions.length;
    if (!g) continue;
    for (let j = 0; j < classes; j++)
      out[j] = (out[j]! / sum - (j === wanted ? 1 : 0)) / positions.length;
    for (let j = 0; j < classes; j++) g.outerBias[j]! += out[j]!;
    for (let i = 0; i < hidden; i++) {
      let back = 0;
      for (let j = 0; j < classes; j++) {
        g.outer[i * classes + j]! += h[i]! * out[j]!;
        back += p.outer[i * classes + j]! * out[j]!;
      }
      h[i] = back * (1 - h[i]! * h[i]!);
    }
    for (let j = 0; j < hidden; j++) g.innerBias[j]! += h[j]!;
    for (let i = 0; i < x.length; i++) {
      let back = 0;
      for (let j = 0; j < hidden; j++) {
        g.inner[i * hidden + j]! += x[i]! * h[j]!;
        back += p.inner[i * hidden + j]! * h[j]!;
      }
      const symbol = data[position - 1 - Math.floor(i / width)]!;
      g.embedding[symbol * width + (i % width)]! += back;
    }
  }
  return total;
}

/** Rates near the best of 32 bits for 400 steps, by optimizer. */
export const rates: Record<string, number> = {
  adafactor: 0.1,
  adagrad: 0.05,
  adam: 0.01,
  adamw: 0.01,
  adan: 0.02,
  ademamix: 0.005,
  factor: 0.01,
  lamb: 0.02,
  lars: 10,
  lion: 0.002,
  nadam: 0.01,
  rmsprop: 0.004,
  scheduleFreeAdamw: 0.02,
  sgd: 0.1,
  sgdw: 0.1,
  sm3: 0.1,
};

/** Trains from a fixed seed; every state is quantized, the small ones too. Returns the losses before and after. */
export async function train(
  recipe: Recipe,
  steps: number,
  seed = 1,
  device: Device = "wasm",
): Promise<{ before: number; after: number }> {
  const spread = { embedding: 1, inner: 0.12, outer: 0.12 };
  const p = filled((name, size) =>
    normals(size, 10 * seed + name.length, spread[name as "inner"] ?? 0),
  ) as Tensors;
  const random = randomSource(seed);
  const { length } = readText();
  const pick = (count: number) =>
    Array.from(
      { length: count },
      () => context + Math.floor(random() * (length - context)),
    );
  const judged = pick(400);
  const before = loss(p, judged);
  const { lr: given } = recipe;
  const top = given as number;
  const optimizer = await createOptimizer(
    // Warm-up, then down to nothing in a straight line.
    {
      ...recipe,
      lr: (t) => top * Math.min(t / 10, 1) * (1 - (t - 1) / steps),
    },
    filled((name) => ({ data: p[name], shape: shapes[name] })) as never,
    { device, minQuantizedSize: 0, threads: 1 },
  );
  for (let t = 1; t <= steps; t++) {
    const g = filled((_, size) => new Float32Array(size)) as Tensors;
    loss(p, pick(batch), g);
    await optimizer.step(g);
  }
  optimizer.dispose();
  return { before, after: loss(p, judged) };
}
