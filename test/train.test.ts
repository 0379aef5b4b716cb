// The trainer through its door. The command line has tests of its own.

import { describe, expect, onTestFinished, test, vi } from "vitest";
import {
  InputError,
  learningRate,
  resolveConfig,
  run,
  Split,
  Trainer,
  trainOptions,
  type TrainEvent,
} from "lowbit/trainer";
import { memories } from "./support/memories.ts";
import { describeGpu } from "./support/gpu.ts";

const heap = () =>
  memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0);

const tiny = {
  layers: 1,
  heads: 2,
  width: 32,
  context: 16,
  batch: 4,
  threads: 1,
  sampleLength: 8,
};
const text = new TextEncoder().encode(
  "to be, or not to be, that is the question. ".repeat(100),
);

/** A trainer that is disposed of with its test. */
async function open(options: Record<string, unknown>) {
  const trainer = await Trainer.create(text, options);
  onTestFinished(() => trainer.dispose());
  return trainer;
}

async function collect(trainer: Trainer, signal?: AbortSignal) {
  const events: TrainEvent[] = [];
  for await (const event of run(trainer, signal)) events.push(event);
  return events;
}

describe("a run", () => {
  test("learns: the validation loss falls from 5.5 to below 2 nats a byte", async () => {
    const trainer = await open({
      ...tiny,
      steps: 120,
      lr: 4e-3,
    });
    const events = await collect(trainer);
    const losses = events.flatMap((e) =>
      e.kind === "validation" ? e.loss : [],
    );
    expect(losses[0]).toBeCloseTo(Math.log(256), 0);
    expect(losses.at(-1)).toBeLessThan(2);
    expect(losses.length).toBe(5);
    const kinds = new Set(events.map(({ kind }) => kind));
    expect(kinds).toEqual(new Set(["validation", "sample", "step", "end"]));
  });

  test("looks at the validation loss before, every N steps, and after", async () => {
    const trainer = await open({
      ...tiny,
      steps: 5,
      evalEvery: 2,
      sampleLength: 0,
    });
    const events = await collect(trainer);
    expect(
      events.map((event) => `${event.kind} ${event.step}`).join(", "),
    ).toBe(
      "validation 0, step 1, step 2, validation 2, step 3, step 4, validation 4, step 5, validation 5, end 5",
    );
  });

  test.each(["adamw8bit", "adamw4bit", "adamw32bit", "sgd8bit"])(
    "trains with %s",
    async (optimizer) => {
      const trainer = await open({
        ...tiny,
        optimizer,
        steps: 30,
        minQuantizedSize: 0,
      });
      const before = await trainer.validationLoss();
      while (trainer.steps < 30) await trainer.step();
      expect(await trainer.validationLoss()).toBeLessThan(before - 0.5);
      const { stateBytes, stateBytes32 } = trainer.memory();
      const bits = Number(/\d+/.exec(optimizer)![0]);
      expect(stateBytes / stateBytes32).toBeCloseTo(bits / 32, 1);
    },
  );

  test("ends after the step under way when its signal is aborted", async () => {
    const trainer = await open({ ...tiny, steps: 50 });
    const controller = new AbortController();
    const events: TrainEvent[] = [];
    for await (const event of run(trainer, controller.signal)) {
      events.push(event);
      if (event.kind === "step" && event.step === 3) controller.abort();
    }
    expect(events.at(-1)).toEqual({ kind: "end", step: 3, aborted: true });
    expect(events.at(-2)).toEqual({ kind: "save", step: 3 });
    expect(events.at(-3)).toMatchObject({ kind: "step", step: 3 });
  });

  test("takes no more memory with more steps, looks and samples", async () => {
    const trainer = await open({ ...tiny, steps: 1000 });
    const some = async (steps: number) => {
      for (let i = 0; i < steps; i++) await trainer.step();
      await trainer.validationLoss();
      await trainer.sample();
      return heap();
    };
    const before = await some(3);
    expect(before).toBeGreaterThan(0);
    await some(60);
    expect(await some(60)).toBe(before);
  });

  test("gives its memory back: the next trainer fits into its place", async () => {
    const once = async () => {
      const trainer = await Trainer.create(text, { ...tiny, steps: 2 });
      await collect(trainer);
      trainer.dispose();
      return memories[0]!.buffer.byteLength; // jax-js's
    };
    await once();
    const before = await once();
    for (let i = 0; i < 3; i++) expect(await once()).toBe(before);
  });

  test("decays no bias, norm or embedding", async () => {
    // With a learning rate of 1 and no gradient, decay would wipe them out.
    const trainer = await open({
      ...tiny,
      optimizer: "sgd32bit",
      lr: 1e-9,
      minLr: 0,
      weightDecay: 9e8,
      warmup: 0,
      schedule: "constant",
      steps: 1,
    });
    const {
      wte,
      "h.0.ln_1.w": norm,
      "h.0.mlp.w": mlp,
    } = await trainer.weights();
    await trainer.step();
    const after = await trainer.weights();
    const change = [
      [wte, after.wte],
      [norm, after["h.0.ln_1.w"]],
      [mlp, after["h.0.mlp.w"]],
    ].map(([p, q]) =>
      Math.max(...p!.data.map((x, j) => Math.abs(x - q!.data[j]!))),
    );
    expect(change[0]).toBeLessThan(1e-6);
    expect(change[1]).toBeLessThan(1e-6);
    expect(change[2]).toBeGreaterThan(0.01);
  });
});

describeGpu("on WebGPU", () => {
  test("learns the same from the same batches, within 1e-3 nats", async () => {
    const losses = async (device: string) => {
      const options = { ...tiny, width: 16, steps: 5, device };
      const trainer = await open(options);
      // The optimizer runs where the model does, so nothing is copied.
      expect(trainer.description.optimizer).toMatch(RegExp(`^${device}`));
      const steps: number[] = [];
      while (trainer.steps < 5) steps.push((await trainer.step()).loss);
      return steps;
    };
    const wasm = await losses("wasm");
    const webgpu = await losses("webgpu");
    // And back: two devices in one process do not mix.
    expect(await losses("wasm")).toEqual(wasm);
    webgpu.forEach((loss, i) => expect(loss).toBeCloseTo(wasm[i]!, 3));
  });

  test("an array that the device does not take is refused before it is made", async () => {
    const options = { ...tiny, device: "webgpu" };
    const huge = { ...options, layers: 1000, width: 1_000_000 };
    for (const one of [{ ...options, batch: 1e7 }, huge])
      await expect(Trainer.create(text, one)).rejects.toThrow(
        /an array of [\d.]+ GiB, and WebGPU takes [\d.]+ GiB at most here/,
      );
  });

  test("what the device refuses, and jax-js goes on with, ends the run", async () => {
    const trainer = await open({ ...tiny, device: "webgpu" });
    const { getWebGPUDevice } = await import("@jax-js/jax");
    const quiet = vi.spyOn(console, "error").mockImplementation(() => {});
    onTestFinished(() => quiet.mockRestore());
    const device = getWebGPUDevice();
    // A step that is too large fails so, some time after it was submitted.
    device.createBuffer({ size: device.limits.maxBufferSize + 4, usage: 128 });
    await device.queue.onSubmittedWorkDone();
    const failed = trainer.validationLoss();
    await expect(failed).rejects.toThrow(InputError);
    await expect(failed).rejects.toThrow(/the GPU refused a step: .*too large/);
  });
});

describe("the split", () => {
  test("training never sees a byte of the validation text", () => {
    const length = 1000;
    const marked = new Uint8Array(length);
    const { trainBytes } = new Split(marked, 16);
    marked.fill(1, trainBytes);
    const split = new Split(marked, 16);
    const reached = { first: length, last: 0 };
    // A generator that walks over every place.
    let next = 0;
    const random = { below: (limit: number) => next++ % limit };
    for (let i = 0; i < trainBytes; i++) {
      const { tokens, targets } = split.trainBatch(1, random as never);
      expect([...tokens, ...targets]).not.toContain(1);
    }
    for (const { tokens, targets } of split.validationBatches(4)) {
      expect([...tokens, ...targets]).not.toContain(0);
      reached.last += tokens.length;
    }
    expect(reached.last).toBe(16 * 4 * 16);
  });

  test("targets are the bytes that follow", () => {
    const counted = Uint8Array.from({ length: 200 }, (_, i) => i);
    const split = new Split(counted, 8);
    const { tokens, targets } = split.validationBatches(2)[0]!;
    expect(targets).toEqual(tokens.map((byte) => byte + 1));
  });

  test("the shortest text that works has two pieces", () => {
    expect(() => new Split(new Uint8Array(2 * 17), 16)).not.toThrow();
    expect(() => new Split(new Uint8Array(2 * 17 - 1), 16)).toThrow(
      "the text has 33 bytes, and a context of 16 needs 34 or more",
    );
  });
});

describe("the learning rate", () => {
  const options = { lr: 1, minLr: 0.1, warmup: 10, steps: 110 };

  test("rises over the warm-up and falls to minLr with the last step", () => {
    for (const schedule of ["cosine", "linear"] as const) {
      const rate = learningRate({ ...options, schedule });
      expect(rate(1)).toBeCloseTo(0.1);
      expect(rate(10)).toBe(1);
      expect(rate(60)).toBeCloseTo(0.55);
      expect(rate(110)).toBeCloseTo(0.1);
    }
  });

  test("constant stays", () => {
    const rate = learningRate({ ...options, schedule: "constant" });
    expect([rate(10), rate(60), rate(110)]).toEqual([1, 1, 1]);
  });
});

describe("the configuration", () => {
  test("is complete, and resolving it again changes nothing", () => {
    const config = resolveConfig({ steps: 40, optimizer: "sgd8bit" });
    expect(config).toMatchObject({ lr: 0.1, warmup: 8, evalEvery: 10 });
    expect(resolveConfig({ ...config })).toEqual(config);
    expect(Object.keys(config)).toEqual(Object.keys(trainOptions));
  });

  test("lets a float be 0 where that means off, and nothing be NaN", () => {
    expect(resolveConfig({ maxGradNorm: 0 }).maxGradNorm).toBe(0);
    for (const [key, { kind }] of Object.entries(trainOptions))
      if (kind === "number" || kind === "integer")
        for (const value of [NaN, Infinity, -1, "1", null])
          expect(() => resolveConfig({ [key]: value }), key).toThrow(
            InputError,
          );
  });

  test("names the nearest option", () => {
    expect(() => resolveConfig({ weightdecay: 1 })).toThrow(
      "unknown option 'weightdecay'; did you mean 'weightDecay'?",
    );
  });
});
