/** Small trees of jax-js's arrays, and their numbers. */
import * as jax from "@jax-js/jax";
import { expect } from "vitest";
import type { JaxOptimizer, OptState } from "lowbit/jax";
import type { Params } from "./jax.ts";
import { normals } from "./numbers.ts";

const { jit, numpy: np } = jax;
export const shapes = { a: [70, 90], b: [333], c: [1] };
export const names = Object.keys(shapes) as (keyof typeof shapes)[];
export const sizeOf = (shape: readonly number[]) =>
  shape.reduce((x, y) => x * y, 1);
export const valuesOf = (name: keyof typeof shapes, t: number) =>
  normals(sizeOf(shapes[name]), 31 * t + name.charCodeAt(0), 0.5);
export const arrays = (t: number, device?: "cpu" | "wasm"): Params =>
  Object.fromEntries(
    names.map((name) => [
      name,
      np.array(valuesOf(name, t), {
        shape: shapes[name],
        ...(device ? { device } : {}),
      }),
    ]),
  );
/** Numbers of every leaf; keeps the arrays. */
export const read = async (
  params: Params,
): Promise<Record<string, Float32Array>> =>
  Object.fromEntries(
    await Promise.all(
      Object.entries(params).map(async ([name, array]) => [
        name,
        (await array.ref.data()) as Float32Array,
      ]),
    ),
  ) as Record<string, Float32Array>;
export const bytesOf = async ({ states }: OptState) =>
  Promise.all(
    states.map(
      async (words) =>
        new Uint8Array(
          ((await words.ref.data()) as Uint32Array).slice().buffer,
        ),
    ),
  );
export const largest = (values: Float32Array) =>
  values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** Whether two sets of updates agree: to rounding of the updates and of the parameters. */
export async function expectClose(
  actual: Params,
  expected: Params,
  note: string,
) {
  const [a, b] = [await read(actual), await read(expected)];
  for (const name of names) {
    const bound = 2e-5 * largest(b[name]!) + 5e-7;
    const worst = largest(a[name]!.map((x, i) => x - b[name]![i]!));
    expect(worst, `${note} ${name}`).toBeLessThan(bound);
  }
}

/** `optimizer.update` under `jit`. */
export const jitUpdate = (optimizer: JaxOptimizer) =>
  jit((g: Params, s: OptState, p: Params) =>
    optimizer.update(g, s, p),
  ) as unknown as JaxOptimizer["update"];
