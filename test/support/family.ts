/** A matrix, a batch of matrices and a vector, and runs of an optimizer over them. */
import { createOptimizer, type Recipe } from "lowbit";
import { expect } from "vitest";
import { bitsOf, gradientAt, normals } from "./numbers.ts";

export const shapes = { matrix: [24, 40], batch: [3, 8, 10], vector: [50] };
export type Name = keyof typeof shapes;
export const names = Object.keys(shapes) as Name[];
export const steps = 200;

export const lengthOf = (name: Name) => shapes[name].reduce((a, b) => a * b, 1);
export const startOf = (name: Name) =>
  normals(lengthOf(name), 11 + names.indexOf(name), 0.5);
export const gradientOf = (name: Name, t: number) =>
  gradientAt(lengthOf(name), 21 + names.indexOf(name), t);
export const byName = <T>(of: (name: Name) => T) =>
  Object.fromEntries(names.map((name) => [name, of(name)])) as Record<Name, T>;

/** Rises and falls, never the same twice in a row. */
export const rate = (lr: number) => (t: number) =>
  lr * Math.min(1, t / 10) * (1 + 0.5 * Math.sin(t));

/** float32 rounds 200 times, half an ulp each, of the parameter as it was. */
export const tolerance = 2e-5;

export function expectNear(
  label: string,
  actual: Float32Array,
  expected: Float64Array,
  start: Float32Array,
) {
  const wrong = actual.findIndex((value, i) => {
    const size = Math.max(Math.abs(start[i]!), Math.abs(expected[i]!), 0.01);
    return !(Math.abs(value - expected[i]!) <= tolerance * size);
  });
  if (wrong >= 0)
    expect.fail(
      `${label}: element ${wrong} is ${actual[wrong]}, published ${expected[wrong]}, from ${start[wrong]}`,
    );
  const moved = actual.filter((x, i) => Math.abs(x - start[i]!) > 1e-3);
  expect(moved.length, `${label} moved`).toBeGreaterThan(actual.length / 3);
}

export type Tensors = Record<Name, Float32Array>;

export const open = (
  recipe: Recipe,
  data: Tensors,
  device: "reference" | "wasm" = "wasm",
) =>
  createOptimizer(
    recipe,
    byName((name) => ({ data: data[name], shape: shapes[name] })),
    { device, minQuantizedSize: 0 },
  );

/** Parameters and states after some steps. */
export async function run(
  recipe: Recipe,
  {
    count = 12,
    lr = 0.01,
    scale = 1,
  }: { count?: number; lr?: number; scale?: number } = {},
) {
  const data = byName((name) => startOf(name));
  const optimizer = await open(recipe, data);
  optimizer.lr = lr;
  for (let t = 1; t <= count; t++)
    await optimizer.step(
      byName((name) => gradientOf(name, t).map((x) => x * scale)),
    );
  const states = await Promise.all(names.map((name) => optimizer.state(name)));
  const memory = optimizer.memory();
  optimizer.dispose();
  return { data, states, memory };
}

export const same = (a: Tensors, b: Tensors) =>
  names.every((name) => String(bitsOf(a[name])) === String(bitsOf(b[name])));
