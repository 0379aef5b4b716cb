// What a step does to variables on each backend of TensorFlow.js: the right
// numbers, nobody else's, and nothing left behind.

import type { Tensor, Variable } from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import * as lowbit from "lowbit";
import * as door from "lowbit/tfjs";
import {
  adamw32bit,
  adamw8bit,
  lion4bit,
  sgd32bit,
  type TfOptimizerFactory,
} from "lowbit/tfjs";
import { normals } from "./support/numbers.ts";
import { backends, tf, useBackend } from "./support/tfjs.ts";

let count = 0;
const sizeOf = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);

function makeVariable(shape: number[], seed = 1, name = `steps${count++}`) {
  const initial = tf.tensor(normals(sizeOf(shape), seed), shape);
  const variable = tf.variable(initial, true, name);
  initial.dispose();
  return variable;
}

/** Gradients from a seed, on their way to the optimizer and away again. */
function step(
  optimizer: {
    applyGradients(given: { name: string; tensor: Tensor }[]): void;
  },
  variables: readonly Variable[],
  t: number,
  scale = 1,
) {
  const given = variables.map(({ name, shape, size }, i) => ({
    name,
    tensor: tf.tensor(normals(size, 1000 * t + i, scale), shape),
  }));
  optimizer.applyGradients(given);
  tf.dispose(given.map(({ tensor }) => tensor));
}

const read = async (variable: Tensor) =>
  Array.from(await variable.data()) as number[];

describe.each(backends)("on $name", ({ name, skip }) => {
  describe("steps", { skip: !!skip, meta: { skipReason: skip } }, () => {
    const onDevice = name === "webgpu";
    beforeAll(async () => {
      await useBackend(name);
      await adamw8bit().ready();
    });

    // The same engine elsewhere, so that bits can be compared; on a GPU each
    // recipe would take seconds to compile.
    const recipes = onDevice
      ? ["adamw8bit"]
      : name === "webgl"
        ? ["adamw8bit", "lamb8bit"]
        : [...lowbit.optimizers().keys()].filter((one) => /\dbit/.test(one));

    test("are the core's, for every recipe", async () => {
      for (const recipe of recipes) {
        const shapes = { a: [70, 70], b: [33], c: [5, 7, 3] };
        const variables = Object.values(shapes).map((shape, i) =>
          makeVariable(shape, i),
        );
        const data = Object.fromEntries(
          variables.map(({ name, shape, size }, i) => [
            name,
            { data: normals(size, i), shape },
          ]),
        );
        const options = { minQuantizedSize: 100, maxGradNorm: 20 };
        const make = (door as unknown as Record<string, TfOptimizerFactory>)[
          recipe
        ]!;
        const host = make(1e-2, options);
        const core = await lowbit.createOptimizer(
          lowbit.optimizerByName(recipe)({ lr: 1e-2 }),
          data,
          { ...options, threads: 1 },
        );
        for (let t = 1; t < 4; t++) {
          step(host, variables, t);
          await core.step(
            Object.fromEntries(
              variables.map(({ name, size }, i) => [
                name,
                normals(size, 1000 * t + i),
              ]),
            ),
          );
        }
        for (const variable of variables) {
          const expected = Array.from(data[variable.name]!.data);
          const actual = await read(variable);
          if (onDevice)
            actual.forEach((x, i) =>
              expect(Math.abs(x - expected[i]!)).toBeLessThan(2e-4),
            );
          else expect(actual, recipe).toEqual(expected);
        }
        const { gradNorm } = await host.stats();
        expect(gradNorm).toBeCloseTo((await core.stats()).gradNorm!, 3);
        expect(host.memory().stateBytes).toBe(core.memory().stateBytes);
        host.dispose();
        core.dispose();
        tf.dispose(variables);
      }
    });

    test("change the variable, and nobody who has the same numbers", async () => {
      const optimizer = adamw8bit(0.1, { minQuantizedSize: 0 });
      const variable = makeVariable([40, 40]);
      const before = await read(variable);
      const kept = (await variable.data()) as Float32Array;
      const clone = variable.clone();
      const shaped = tf.reshape(variable, [1600]);
      const asVariable = tf.variable(variable, true, `steps${count++}`);
      for (let t = 1; t < 4; t++) {
        const earlier = await read(variable);
        const copy = variable.clone();
        step(optimizer, [variable], t);
        expect(await read(variable)).not.toEqual(earlier);
        expect(await read(copy)).toEqual(earlier);
        copy.dispose();
      }
      for (const one of [clone, shaped, asVariable])
        expect(await read(one)).toEqual(before);
      expect(Array.from(kept)).toEqual(before);
      optimizer.dispose();
      tf.dispose([variable, clone, shaped, asVariable]);
    });

    test("come between what was computed before and what is after", async () => {
      const optimizer = sgd32bit(1, { momentum: 0 });
      const variable = makeVariable([40, 40]);
      const x = tf.tensor(normals(1600, 5), [40, 40]);
      const ones = tf.ones([40, 40]);
      const product = () => tf.matMul(x as never, variable as never);
      for (let t = 0; t < 3; t++) {
        const start = await read(variable);
        const before = product();
        // No reading in between: on a device all of this is only recorded.
        optimizer.applyGradients({ [variable.name]: ones });
        const after = product();
        const sums = tf.sum(x, 1);
        const [a, b, rows] = await Promise.all([before, after, sums].map(read));
        expect(await read(variable)).toEqual(
          start.map((value) => Math.fround(value - 1)),
        );
        b!.forEach((value, i) =>
          expect(a![i]! - value).toBeCloseTo(rows![Math.floor(i / 40)]!, 3),
        );
        tf.dispose([before, after, sums]);
      }
      optimizer.dispose();
      tf.dispose([variable, x, ones]);
    });

    test("take gradients that are variables", async () => {
      const optimizer = sgd32bit(0.5, { momentum: 0 });
      const [a, b, c] = [1, 2, 3].map((seed) => makeVariable([8, 8], seed));
      const before = await Promise.all([a!, b!, c!].map(read));
      optimizer.applyGradients([
        { name: a!.name, tensor: a! },
        { name: b!.name, tensor: a! },
        { name: c!.name, tensor: b! },
      ]);
      const minusHalf = (x: number[], y: number[]) =>
        x.map((value, i) => Math.fround(value - 0.5 * y[i]!));
      expect(await read(a!)).toEqual(minusHalf(before[0]!, before[0]!));
      expect(await read(b!)).toEqual(minusHalf(before[1]!, before[0]!));
      expect(await read(c!)).toEqual(minusHalf(before[2]!, before[1]!));
      optimizer.dispose();
      tf.dispose([a!, b!, c!]);
    });

    test("leave out variables without a gradient, and take those that come later", async () => {
      const optimizer = adamw32bit(0.1);
      const [a, b, c] = [1, 2, 3].map((seed) => makeVariable([6, 4], seed));
      const start = await Promise.all([a!, b!, c!].map(read));
      const gradient = tf.ones([6, 4]);
      optimizer.applyGradients([
        { name: a!.name, tensor: gradient },
        { name: b!.name, tensor: null as never },
      ]);
      expect(await read(b!)).toEqual(start[1]);
      step(optimizer, [a!, c!], 2);
      step(optimizer, [b!, a!, c!], 3);
      expect(optimizer.iterations).toBe(3);
      expect(optimizer.memory().tensors.map((row) => row.name)).toEqual(
        [a!, c!, b!].map((one) => one.name),
      );
      // As one that had all three from the beginning, with the same steps.
      const again = [1, 2, 3].map((seed) => makeVariable([6, 4], seed));
      const usual = adamw32bit(0.1);
      usual.applyGradients([{ name: again[0]!.name, tensor: gradient }]);
      step(usual, [again[0]!, again[2]!], 2);
      step(usual, [again[1]!, again[0]!, again[2]!], 3);
      expect(await Promise.all(again.map(read))).toEqual(
        await Promise.all([a!, b!, c!].map(read)),
      );
      optimizer.dispose();
      usual.dispose();
      tf.dispose([a!, b!, c!, gradient, again]);
    });

    test("clip all gradients together, also of variables that came later", async () => {
      // Plain descent shows what is left of a gradient.
      const optimizer = sgd32bit(1, { momentum: 0, maxGradNorm: 2 });
      const [a, b] = [makeVariable([5, 5], 1), makeVariable([7], 2)];
      const [ga, gb] = [tf.fill([5, 5], 3), tf.fill([7], -4)];
      optimizer.applyGradients({ [a.name]: ga });
      const [beforeA, beforeB] = [await read(a), await read(b)];
      optimizer.applyGradients({ [a.name]: ga, [b.name]: gb });
      const factor =
        2 / (Math.hypot(...[9 * 25, 16 * 7].map(Math.sqrt)) + 1e-6);
      const near = (actual: number[], start: number[], change: number) =>
        actual.forEach((x, i) => expect(x).toBeCloseTo(start[i]! - change, 5));
      near(await read(a), beforeA, 3 * factor);
      near(await read(b), beforeB, -4 * factor);
      const whole = Math.hypot(15, 16 ** 0.5 * 7 ** 0.5);
      expect((await optimizer.stats()).gradNorm).toBeCloseTo(whole, 4);
      optimizer.dispose();
      tf.dispose([a, b, ga, gb]);
    });

    test("leave out what is not finite, or the whole step for it", async () => {
      const [a, b] = [makeVariable([6], 1), makeVariable([6], 2)];
      const element = sgd32bit(1, { momentum: 0 });
      const whole = sgd32bit(1, { momentum: 0, skipNonFinite: "step" });
      const bad = tf.tensor1d([1, NaN, 1, Infinity, 1, 1]);
      const good = tf.ones([6]);
      const before = [await read(a), await read(b)];
      whole.applyGradients({ [a.name]: bad });
      expect(await whole.stats()).toMatchObject({
        nonFinite: 2,
        skipped: true,
      });
      // In two batches now.
      whole.applyGradients({ [a.name]: good, [b.name]: bad });
      expect([await read(a), await read(b)]).toEqual(before);
      element.applyGradients({ [a.name]: bad });
      expect(await element.stats()).toMatchObject({
        step: 1,
        nonFinite: 2,
        skipped: false,
      });
      expect(await read(a)).toEqual(
        before[0]!.map((x, i) => ([1, 3].includes(i) ? x : Math.fround(x - 1))),
      );
      element.dispose();
      whole.dispose();
      tf.dispose([a, b, bad, good]);
    });

    test("follow a learning rate that changes", async () => {
      const optimizer = sgd32bit(1, { momentum: 0 });
      const variable = makeVariable([3]);
      const gradient = tf.ones([3]);
      const moved = async () => {
        const before = await read(variable);
        optimizer.applyGradients({ [variable.name]: gradient });
        return before[0]! - (await read(variable))[0]!;
      };
      expect(await moved()).toBeCloseTo(1, 5);
      optimizer.learningRate = 0.5;
      expect(await moved()).toBeCloseTo(0.5, 5);
      optimizer.setLearningRate((t) => 10 * t);
      expect(await moved()).toBeCloseTo(30, 4);
      expect((await optimizer.stats()).lr).toBe(30);
      optimizer.dispose();
      tf.dispose([variable, gradient]);
    });

    test("keep tensors and memory as they are, over 300 steps and 50 saves", async () => {
      const bytes = meterOf(name);
      const optimizer = adamw8bit(1e-2, { minQuantizedSize: 0 });
      const variables = [makeVariable([20, 30]), makeVariable([30])];
      const settle = async () => {
        for (let t = 1; t < 6; t++) step(optimizer, variables, t);
        await optimizer.getWeights();
        await read(variables[0]!);
      };
      await settle();
      const [start, before] = [tf.memory(), bytes()];
      for (let t = 6; t < 300; t++) {
        step(optimizer, variables, t);
        // A device's queue is not for ever.
        if (t % 6 === 0) await optimizer.getWeights();
      }
      await settle();
      const after = tf.memory();
      expect(after.numTensors).toBe(start.numTensors);
      expect(after.numBytes).toBe(start.numBytes);
      expect(after.numDataBuffers).toBe(start.numDataBuffers);
      expect(bytes()).toBe(before);
      optimizer.dispose();
      tf.dispose(variables);
    });

    test("hold the new values of one variable at a time beside the old ones", () => {
      // On the others nothing lies beside: they work in place.
      const device = adamw8bit().device;
      const optimizer = adamw8bit(0.1, { minQuantizedSize: 0 });
      const variables = [1, 2, 3].map((seed) => makeVariable([30, 30], seed));
      const before = variables.map(({ dataId }) => dataId);
      /** By variable: which had new values when this one was read. */
      const done = variables.map((variable) => {
        const seen: boolean[] = [];
        const { dataSync } = variable;
        variable.dataSync = function (this: Variable) {
          seen.push(...variables.map(({ dataId }, i) => dataId !== before[i]));
          return dataSync.call(this);
        } as typeof dataSync;
        return seen;
      });
      step(optimizer, variables, 1);
      if (device.includes("assign"))
        expect(done).toEqual([
          [false, false, false],
          [true, false, false],
          [true, true, false],
        ]);
      else expect(done).toEqual([[], [], []]);
      optimizer.dispose();
      tf.dispose(variables);
    });

    test("free the state of variables that are gone; a name may come again", async () => {
      const optimizer = lion4bit(0.1, { minQuantizedSize: 0 });
      const first = makeVariable([64, 64], 1, `again-${name}`);
      step(optimizer, [first], 1);
      expect(optimizer.memory().parameters).toBe(4096);
      first.dispose();
      const second = makeVariable([10], 1, `again-${name}`);
      step(optimizer, [second], 2);
      expect(optimizer.memory().parameters).toBe(10);
      expect((await read(second)).every(Number.isFinite)).toBe(true);
      optimizer.dispose();
      second.dispose();
    });
  });
});

/** Tells what the backend has allocated, as far as it can be known: on WebGPU all buffers of the device. */
function meterOf(name: string): () => number {
  const { wasm, device } = tf.backend() as unknown as {
    wasm?: { HEAPU8: Uint8Array };
    device?: GPUDevice;
  };
  if (wasm) return () => wasm.HEAPU8.length;
  if (name === "webgl")
    return () =>
      (tf.memory() as unknown as { numBytesInGPU: number }).numBytesInGPU;
  if (!device) return () => 0;
  let live = 0;
  const create = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    const buffer = create(descriptor);
    const { size } = descriptor;
    const destroy = buffer.destroy.bind(buffer);
    live += size;
    let gone = false;
    buffer.destroy = () => {
      if (!gone) live -= size;
      gone = true;
      return destroy();
    };
    return buffer;
  };
  return () => live;
}
