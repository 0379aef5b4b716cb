// Nothing is left behind by steps on jax-js, and a step takes little room.

import { heapBytes, watchBuffers } from "./support/jax-memory.ts";
import * as jax from "@jax-js/jax";
import { beforeAll, describe, expect, test } from "vitest";
import { adam8bit, adamw8bit, type JaxOptimizer } from "lowbit/jax";
import {
  applyUpdates,
  openJax,
  skipReason,
  type Backend,
  type Params,
} from "./support/jax.ts";
import { jitUpdate } from "./support/jax-arrays.ts";

const { numpy: np, tree } = jax;

const make = (size: number): Params => ({
  w: np.array(new Float32Array(size).fill(0.5)),
  b: np.array(Float32Array.of(1, 2, 3)),
});

/** Steps in every form: update and add, step, update by operations under jit. */
function walker(optimizer: JaxOptimizer, size: number) {
  const traced = jitUpdate(optimizer);
  let params = make(size);
  let state = optimizer.init(tree.ref(params));
  const ready = () => jax.blockUntilReady([params, state] as never);
  const add = async (update: JaxOptimizer["update"]) => {
    let updates: Params;
    [updates, state] = update(make(size), state, tree.ref(params));
    params = applyUpdates(params, updates);
    await ready();
  };
  return {
    update: () => add(optimizer.update),
    traced: () => add(traced),
    async step() {
      [params, state] = await optimizer.step(params, make(size), state);
      await ready();
    },
    end() {
      tree.dispose([params, state] as never);
      optimizer.dispose();
    },
  };
}

describe.each<Backend>(["wasm", "webgpu"])("on %s", (backend) => {
  const skip = skipReason(backend);
  describe("memory", { skip: !!skip, meta: { skipReason: skip } }, () => {
    let live: () => number[];
    beforeAll(async () => {
      await openJax(backend);
      if (backend === "wasm") live = () => [heapBytes()];
      else {
        const seen = watchBuffers(jax.getWebGPUDevice());
        live = () => [seen.bytes, seen.buffers];
      }
    });

    // Enough steps that a lost scalar, of 64 bytes, makes the heap grow.
    const times = backend === "wasm" ? 1500 : 300;
    test.each<["update" | "step" | "traced", number]>([
      ["update", times],
      ["step", times],
      ["traced", backend === "wasm" ? 300 : 30],
    ])("is constant over %s, %i times", async (form, count) => {
      const walk = walker(
        adamw8bit(1e-3, { minQuantizedSize: 0, maxGradNorm: 1 }),
        700,
      );
      for (let i = 0; i < 10; i++) await walk[form]();
      const before = live();
      for (let i = 0; i < count; i++) await walk[form]();
      expect(live()).toEqual(before);
      walk.end();
    });

    test("is as before when an optimizer is disposed of, however many there were", async () => {
      const once = async () => {
        const walk = walker(adamw8bit(1e-3, { minQuantizedSize: 0 }), 700);
        await walk.step();
        walk.end();
      };
      for (let i = 0; i < 5; i++) await once();
      const before = live();
      for (let i = 0; i < 40; i++) await once();
      expect(live()).toEqual(before);
    });

    test("a step needs no more than its state; an update, its result", async () => {
      const size = 2 ** 20;
      const optimizer = adam8bit(1e-3);
      let params = { w: np.array(new Float32Array(size).fill(0.5)) };
      let state = optimizer.init(tree.ref(params));
      const gradients = { w: np.array(new Float32Array(size).fill(0.1)) };
      await jax.blockUntilReady([params, gradients, state] as never);
      // 2 bytes and two scales of 256 elements a parameter.
      expect(optimizer.memory(params).stateBytes).toBe(
        2 * size + (8 * size) / 256,
      );
      // What a kernel needs beside is there after the first step.
      [params, state] = await optimizer.step(
        params,
        tree.ref(gradients),
        state,
      );
      const slack = 2 ** 17;
      const before = live()[0]!;
      [params, state] = await optimizer.step(
        params,
        tree.ref(gradients),
        state,
      );
      expect(live()[0]! - before).toBeLessThan(slack);
      const [updates, next] = optimizer.update(gradients, state);
      expect(live()[0]! - before).toBeLessThan(4 * size + slack);
      tree.dispose([params, updates, next] as never);
      optimizer.dispose();
    });
  });
});
