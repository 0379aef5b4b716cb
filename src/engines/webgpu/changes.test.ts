/** Steps that write by how much parameters change, against steps that write parameters. */
import { expect, test } from "vitest";
import {
  describeGpu,
  downloadFrom,
  uploadTo,
  useDevice,
} from "../../../test/support/gpu.ts";
import { createOptimizerSync, type SyncOptions } from "../../core/create.ts";
import type { OptimizerHandle } from "../../core/optimizer.ts";
import {
  adam32bit,
  adam8bit,
  adamw4bit,
  adamw8bit,
  lamb8bit,
  type Recipe,
} from "../../index.ts";
import type { Written } from "../engine.ts";
import { createWebGPUEngine } from "./engine.ts";
import type { Tuning } from "./tuning.ts";

// Read four at a time and one by one; shorter than a block; with an end within one.
const sizes = { a: 6300, b: 333, c: 1, d: 4096 };
type Name = keyof typeof sizes;
const names = Object.keys(sizes) as Name[];
const valuesOf = (name: Name, t: number) =>
  Float32Array.from({ length: sizes[name] }, (_, i) =>
    Math.sin(i * 0.37 + t * 1.7 + name.charCodeAt(0)),
  );
const byName = <T>(value: (name: Name) => T) =>
  Object.fromEntries(names.map((name) => [name, value(name)])) as Record<
    Name,
    T
  >;

/** The three mains of a kernel; those with barriers take software drivers long. */
const mains = {
  "one invocation a block": { solo: true },
  workgroups: { solo: false, slots: 2 },
  rows: { solo: false, alone: 300 },
} satisfies Record<string, Tuning>;
type Main = keyof typeof mains;

describeGpu("changes of parameters", () => {
  let device: GPUDevice;
  useDevice((opened) => (device = opened));

  const upload = (name: Name, t: number) => uploadTo(device, valuesOf(name, t));
  const garbage = (name: Name) =>
    uploadTo(device, new Float32Array(sizes[name]).fill(NaN));
  const read = async (buffer: GPUBuffer) =>
    new Float32Array(await downloadFrom(device, buffer));

  function openWith(
    recipe: Recipe,
    tuning: Tuning,
    options: Omit<SyncOptions, "device"> = {},
  ) {
    return createOptimizerSync(
      recipe,
      byName((name) => ({ shape: [sizes[name]] })),
      {
        ...options,
        minQuantizedSize: 0,
        device: createWebGPUEngine(device, tuning),
        hostParameters: true,
      },
    );
  }

  /** Of step `t`, with one element that is not finite. */
  function gradientOf(name: Name, t: number, bad: boolean) {
    const values = valuesOf(name, t);
    if (bad && name === "a") values[77] = NaN;
    return values;
  }
  const gradientsOf = (t: number, bad: boolean) =>
    byName((name) => uploadTo(device, gradientOf(name, t, bad)));
  const write = (buffer: GPUBuffer, values: Float32Array<ArrayBuffer>) =>
    device.queue.writeBuffer(buffer, 0, values);

  /** Steps two optimizers side by side, one of which writes changes. */
  async function compare(
    [plain, changing]: readonly [OptimizerHandle, OptimizerHandle],
    written: Written,
    bad: (t: number) => boolean,
  ): Promise<void> {
    const unread = written === "unreadChange";
    const how = byName(() => written);
    const buffers = [byName(garbage), byName(garbage)] as const;
    for (let t = 1; t <= 4; t++) {
      const gradients = gradientsOf(t, bad(t));
      const before = byName((name) =>
        unread ? new Float32Array(sizes[name]) : valuesOf(name, -t),
      );
      const parameters = byName((name) => uploadTo(device, before[name]));
      plain.stepSync(gradients, { parameters });
      // Buffers of gradients and parameters change places.
      const [given, target] = t % 2 ? buffers : [buffers[1], buffers[0]];
      for (const name of names) {
        const start = unread ? undefined : before[name];
        write(given[name], gradientOf(name, t, bad(t)));
        write(target[name], start ?? new Float32Array(sizes[name]).fill(NaN));
      }
      changing.stepSync(given, { parameters: target, written: how });
      for (const name of names) {
        const after = await read(parameters[name]);
        const change = await read(target[name]);
        // A device may fuse a product with the subtraction.
        const worst = change.reduce((most, x, i) => {
          const old = before[name][i]!;
          const off = Math.abs(x - Math.fround(after[i]! - old));
          const ulp = 2 ** -23 * Math.max(Math.abs(old), Math.abs(x));
          return Math.max(most, off / ulp || (x === x ? 0 : Infinity));
        }, 0);
        expect(worst, `step ${t} ${name}`).toBeLessThanOrEqual(1);
        if (bad(t) && name === "a") expect(change[77]).toBe(0);
      }
      expect(await changing.stats()).toEqual(await plain.stats());
    }
    for (const name of names)
      expect(await changing.state(name)).toEqual(await plain.state(name));
    plain.dispose();
    changing.dispose();
  }

  test.each<[string, Main, Written, () => Recipe]>([
    ["adamw8bit", "one invocation a block", "change", () => adamw8bit()],
    ["adam8bit", "one invocation a block", "unreadChange", () => adam8bit()],
    ["lamb8bit", "one invocation a block", "change", () => lamb8bit()],
    ["adamw4bit", "workgroups", "change", () => adamw4bit()],
    ["adam32bit", "workgroups", "unreadChange", () => adam32bit()],
    ["adamw8bit", "rows", "change", () => adamw8bit()],
  ])("%s, %s, %s", async (_, main, written, recipe) => {
    const open = () => openWith(recipe(), mains[main]);
    await compare([open(), open()], written, (t) => t === 2);
  });

  test.each<[Main, Written, () => Recipe]>([
    ["one invocation a block", "change", () => adamw8bit()],
    ["one invocation a block", "unreadChange", () => adam8bit()],
    ["workgroups", "unreadChange", () => adam32bit()],
    ["rows", "unreadChange", () => adam8bit()],
  ])(
    "a step that is left out changes nothing, %s, %s",
    async (main, written, recipe) => {
      const optimizer = openWith(recipe(), mains[main], {
        skipNonFinite: "step",
        maxGradNorm: 1,
      });
      const parameters = byName((name) =>
        written === "change" ? upload(name, 0) : garbage(name),
      );
      optimizer.stepSync(gradientsOf(1, true), {
        parameters,
        written: byName(() => written),
      });
      for (const name of names)
        expect(await read(parameters[name]), name).toEqual(
          new Float32Array(sizes[name]),
        );
      expect(await optimizer.stats()).toMatchObject({ skipped: true });
      optimizer.dispose();
    },
  );
});
