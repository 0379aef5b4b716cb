// A run of PyTorch's own AdamW, recorded on a CPU by test/golden/pytorch/record.py,
// whose state after three steps examples/python/lowbit_state.py saved: it goes on
// here, and on the way back PyTorch's state is what it would have been.

import fs from "node:fs";
import path from "node:path";
import { adamw32bit, adamw8bit, createOptimizer } from "lowbit";
import { readSafetensors, readState, writeState } from "lowbit/io";
import { expect, test } from "vitest";

const golden = path.resolve(import.meta.dirname, "golden/pytorch");
const read = (name: string) =>
  new Uint8Array(fs.readFileSync(path.join(golden, name)));
const { tensors, metadata } = readSafetensors(read("adamw.safetensors"));
const { hyper, saved, steps } = JSON.parse(metadata.meta!);
const names = ["w", "ln"];
const at = (name: string, step: number) =>
  tensors[`p.${name}.${step}`]!.data as Float32Array<ArrayBuffer>;
const gradients = (step: number) =>
  Object.fromEntries(
    names.map((name) => {
      const { data, shape } = tensors[`grads.${name}`]!;
      const size = data.length / shape[0]!;
      return [
        name,
        (data as Float32Array).slice((step - 1) * size, step * size),
      ];
    }),
  );
const parameters = (step: number) =>
  Object.fromEntries(
    names.map((name) => [
      name,
      {
        shape: tensors[`p.${name}.${step}`]!.shape,
        data: at(name, step).slice(),
      },
    ]),
  );
const recipe = adamw32bit({
  lr: hyper.lr,
  beta1: hyper.betas[0],
  beta2: hyper.betas[1],
  eps: hyper.eps,
  weightDecay: hyper.weight_decay,
});

async function bytesOf(file: ReturnType<typeof writeState>) {
  const parts: Uint8Array[] = [];
  for await (const part of file.chunks()) parts.push(part);
  return new Uint8Array(Buffer.concat(parts));
}

test("torch.optim.AdamW goes on here, and back", async () => {
  const open = await readState(read("adamw_state.safetensors"));
  expect(open.notes).toEqual([]);
  expect(open.checkpoint).toMatchObject({
    optimizer: "adamw",
    step: saved,
    hyper: { beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.1, amsgrad: 0 },
    lr: { value: 0.01, scheduled: false },
  });
  expect(open.checkpoint.tensors.map(({ name }) => name).sort()).toEqual(
    names.toSorted(),
  );
  const data = parameters(saved);
  const mine = await createOptimizer(recipe, data);
  const file = await bytesOf(writeState(open.checkpoint, { to: "lowbit" }));
  const report = await mine.load(file);
  expect(report.differences).toEqual([]);
  expect(report.requantized).toEqual([]);
  for (let step = saved + 1; step <= steps; step++) {
    await mine.step(gradients(step));
    for (const name of names) {
      const theirs = at(name, step);
      const furthest = data[name]!.data.reduce(
        (most, value, i) => Math.max(most, Math.abs(value - theirs[i]!)),
        0,
      );
      expect(furthest, `${name} after step ${step}`).toBeLessThan(
        1e-4 * hyper.lr,
      );
    }
  }
  const back = readSafetensors(
    await bytesOf(
      writeState((await readState(await mine.save())).checkpoint, {
        to: "float32",
      }),
    ),
  );
  // The keys of PyTorch's own file, by name.
  const theirs = readSafetensors(read("adamw_state.safetensors"));
  const list = JSON.parse(theirs.metadata.names!) as string[];
  expect(Object.keys(back.tensors).sort()).toEqual(
    Object.keys(theirs.tensors)
      .map((key) => key.replace(/state\.(\d)/, (_, i) => `state.${list[i]}`))
      .sort(),
  );
  expect(back.tensors["state.w.step"]!.data).toEqual(Float32Array.of(steps));
});

test("a run of PyTorch goes on in 8 bits", async () => {
  const open = await readState(read("adamw_state.safetensors"));
  // Its tensors are small: 8 bits only by request.
  const eight = { minQuantizedSize: 0 };
  const data = parameters(saved);
  const mine = await createOptimizer(
    adamw8bit({
      lr: hyper.lr,
      beta1: hyper.betas[0],
      beta2: hyper.betas[1],
      weightDecay: hyper.weight_decay,
    }),
    data,
    eight,
  );
  const report = await mine.load(
    await bytesOf(writeState(open.checkpoint, { to: "lowbit" })),
  );
  expect(report.requantized.length).toBe(4);
  for (let step = saved + 1; step <= steps; step++)
    await mine.step(gradients(step));
  for (const name of names) {
    const theirs = at(name, steps);
    const moved = at(name, saved);
    let wrong = 0;
    let all = 0;
    data[name]!.data.forEach((value, i) => {
      wrong += (value - theirs[i]!) ** 2;
      all += (moved[i]! - theirs[i]!) ** 2;
    });
    // Of the way that the parameters go in four steps.
    expect(Math.sqrt(wrong / all), name).toBeLessThan(0.05);
  }
});
