/** The engine in a host's memory, at once, against the engine in its own. */
import { describe, expect, test } from "vitest";
import { createOptimizer, createOptimizerSync } from "../../core/create.ts";
import type { OptimizerHandle } from "../../core/optimizer.ts";
import type { ReadState } from "../../core/states.ts";
import {
  adafactor32bit,
  adamw4bitRank1,
  adamw8bit,
  factor4bit,
  lamb8bit,
  type Recipe,
} from "../../index.ts";
import type { HostMemory } from "./memory.ts";
import { referenceEngine } from "../reference/engine.ts";
import { wasmEngine, wasmEngineIn } from "./engine.ts";

/** A heap with a bump allocator, which grows as a host's would. */
function makeHost(shared: boolean) {
  const memory = new WebAssembly.Memory({ initial: 2, maximum: 4096, shared });
  let top = 1000;
  const live = new Set<number>();
  const host: HostMemory = {
    memory,
    allocate(bytes) {
      const at = Math.ceil(top / 8) * 8;
      top = at + bytes;
      const missing = Math.ceil((top - memory.buffer.byteLength) / 65536);
      if (missing > 0) memory.grow(missing);
      live.add(at);
      return at;
    },
    free: (address) => void live.delete(address),
  };
  return { ...host, host, live };
}

const shapes = { a: [70, 90], b: [33000], c: [5] };
const names = Object.keys(shapes) as (keyof typeof shapes)[];
const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const valuesOf = (name: string, t: number, size: number) =>
  Float32Array.from({ length: size }, (_, i) =>
    Math.sin(i * 0.37 + t * 1.7 + name.charCodeAt(0)),
  );

const recipes: [string, () => Recipe][] = [
  ["adamw8bit", () => adamw8bit()],
  ["adamw4bitRank1", () => adamw4bitRank1()],
  ["factor4bit", () => factor4bit()],
  ["lamb8bit", () => lamb8bit()],
  ["adafactor32bit", () => adafactor32bit()],
];

async function states(optimizer: OptimizerHandle) {
  const all: Record<string, Record<string, ReadState>> = {};
  for (const name of names) all[name] = await optimizer.state(name);
  return all;
}

describe.each([false, true])("shared memory: %s", (shared) => {
  test.each(recipes)(
    "%s: equal to the bit to the engine in its own memory",
    async (_, recipe) => {
      const { host, memory, allocate, live } = makeHost(shared);
      const view = (name: keyof typeof shapes, at: number) =>
        new Float32Array(memory.buffer, at, sizeOf(shapes[name]));
      const own: Record<string, Float32Array> = {};
      const expected = await createOptimizer(
        recipe(),
        Object.fromEntries(
          names.map((name) => {
            own[name] = valuesOf(name, 0, sizeOf(shapes[name]));
            return [name, { data: own[name], shape: shapes[name] }];
          }),
        ),
        { device: "wasm", threads: 1, maxGradNorm: 1 },
      );
      const nowhere = Object.fromEntries(
        names.map((name) => [
          name,
          { data: new Float32Array(sizeOf(shapes[name])), shape: shapes[name] },
        ]),
      );
      const options = { device: wasmEngineIn(host), maxGradNorm: 1 };
      const kept = createOptimizerSync(recipe(), nowhere, options);
      const functional = createOptimizerSync(recipe(), nowhere, {
        ...options,
        hostStates: true,
      });
      const { bytes, initial } = functional.hostStates!.regions[0]!;
      let regionAt = allocate(bytes);
      new Uint8Array(memory.buffer, regionAt, bytes).set(initial());
      const placed = { kept: {}, functional: {} } as Record<
        string,
        Record<string, number>
      >;
      for (const one of Object.values(placed))
        for (const name of names) {
          const data = valuesOf(name, 0, sizeOf(shapes[name]));
          one[name] = allocate(data.byteLength);
          view(name, one[name]).set(data);
        }
      for (let t = 1; t <= 4; t++) {
        const given = Object.fromEntries(
          names.map((name) => [name, valuesOf(name, t, sizeOf(shapes[name]))]),
        );
        await expected.step(given);
        // Gradients and parameters of the host, at a new place each step; the
        // last allocation ends where the memory does.
        const at = names.map((name) => allocate(given[name]!.byteLength));
        const take = (which: "kept" | "functional") => {
          for (const name of names) {
            const size = sizeOf(shapes[name]);
            const next = allocate(4 * size);
            view(name, next).set(view(name, placed[which]![name]!));
            placed[which]![name] = next;
          }
        };
        take("kept");
        take("functional");
        const moved = allocate(bytes);
        const all = new Uint8Array(memory.buffer);
        all.copyWithin(moved, regionAt, regionAt + bytes);
        regionAt = moved;
        names.forEach((name, i) => view(name, at[i]!).set(given[name]!));
        const gradients = Object.fromEntries(
          names.map((name, i) => [name, view(name, at[i]!)]),
        );
        const parameters = (which: "kept" | "functional") =>
          Object.fromEntries(
            names.map((name) => [name, view(name, placed[which]![name]!)]),
          );
        kept.stepSync(gradients, { parameters: parameters("kept") });
        functional.stepSync(gradients, {
          parameters: parameters("functional"),
          regions: [new Uint8Array(memory.buffer, regionAt, bytes)],
          step: t,
        });
      }
      for (const which of ["kept", "functional"] as const)
        for (const name of names)
          expect(view(name, placed[which]![name]!), which).toEqual(own[name]);
      const wanted = await states(expected);
      expect(await states(kept)).toEqual(wanted);
      for (const [index, name] of names.entries())
        Object.values(wanted[name]!).forEach((state, s) => {
          const [piece] = functional.hostStates!.pieces(index, s)!;
          const bytesAt = (offset: number, length: number) =>
            new Uint8Array(memory.buffer, regionAt + offset, length).slice();
          if (state.kind === "float") {
            const length = piece!.length * (state.format.bits / 8);
            if (state.format.bits === 32)
              expect(
                new Float32Array(bytesAt(piece!.codes, length).buffer),
              ).toEqual(state.values);
            return;
          }
          expect(bytesAt(piece!.codes, state.codes.length)).toEqual(
            state.codes,
          );
          expect(
            new Float32Array(
              bytesAt(piece!.scales!, 4 * state.scales.length).buffer,
            ),
          ).toEqual(state.scales);
        });
      const before = live.size;
      kept.dispose();
      functional.dispose();
      functional.dispose();
      expect(live.size).toBe(before - 2);
    },
  );
});

test("what cannot be done at once says so", async () => {
  const { host } = makeHost(false);
  const parameters = { a: { data: new Float32Array(8), shape: [8] } };
  const device = wasmEngineIn(host);
  expect(() =>
    createOptimizerSync(adamw8bit(), parameters, { device, accumulate: 2 }),
  ).toThrow("adamw8bit: accumulate is not offered here");
  expect(() =>
    createOptimizerSync(adamw8bit(), parameters, {
      device,
      hostStates: true,
      percentileClipping: 90,
    }),
  ).toThrow("percentileClipping is not offered here");
  const optimizer = createOptimizerSync(adamw8bit(), parameters, {
    device,
    hostStates: true,
  });
  expect(() => optimizer.stepSync({ a: new Float32Array(8) })).toThrow(
    "the states must be a Uint8Array of",
  );
  await expect(optimizer.state("a")).rejects.toThrow("kept by its host");
});

test.each([wasmEngine, referenceEngine, wasmEngineIn(makeHost(false).host)])(
  "parameters that only steps bring take no memory: $name",
  async (device) => {
    const size = 40_000;
    const values = valuesOf("a", 0, size);
    const gradient = valuesOf("a", 1, size);
    const [expected, data] = [values.slice(), values.slice()];
    const usual = createOptimizerSync(
      adamw8bit(),
      { a: { data: expected, shape: [size] } },
      { device },
    );
    const placed = createOptimizerSync(
      adamw8bit(),
      { a: { shape: [size] } },
      { device, hostParameters: true },
    );
    expect(placed.parameter("a")).toBeUndefined();
    const { workspaceBytes } = placed.memory();
    expect(workspaceBytes).toBe(usual.memory().workspaceBytes);
    expect(() => placed.stepSync({ a: gradient })).toThrow(
      "adamw8bit: the parameter 'a' was not given",
    );
    placed.stepSync({ a: null });
    expect(placed.steps).toBe(1);
    usual.stepSync({ a: gradient }, { step: 2 });
    placed.stepSync({ a: gradient }, { parameters: { a: data } });
    expect(data).toEqual(expected);

    const stored = await usual.state("a");
    const again = createOptimizerSync(
      adamw8bit(),
      { a: { shape: [size] } },
      { device, hostParameters: true },
    );
    again.setStateSync("a", stored);
    const next = data.slice();
    placed.stepSync({ a: gradient }, { parameters: { a: data } });
    again.stepSync({ a: gradient }, { parameters: { a: next }, step: 3 });
    expect(next).toEqual(data);
  },
);
