// The keys of files of other libraries, and what they leave out.

import {
  readSafetensors,
  readState,
  writeSafetensors,
  type SafeTensor,
} from "lowbit/io";
import { describe, expect, test } from "vitest";
import { pythonState } from "./support/python-state.ts";
import { byName, write } from "./support/interchange.ts";

describe("keys", () => {
  const run = byName("bnb_adamw8bit");
  const read = (
    rename: (key: string) => string,
    metadata: Record<string, string> = {},
  ) => {
    const { tensors } = pythonState(run, 2);
    const renamed = Object.entries(tensors).map(
      ([key, tensor]) => [rename(key), tensor] as const,
    );
    return readState(writeSafetensors(Object.fromEntries(renamed), metadata));
  };

  test.each([
    ["indices", "state.0.", "0"],
    ["names", "state.h.0.attn.weight.", "h.0.attn.weight"],
    ["another prefix", "optimizer.state.h.1.w.", "h.1.w"],
    ["no prefix", "h.0.exp_avg.step.", "h.0.exp_avg.step"],
    [
      "bitsandbytes' wrapper for FSDP",
      "state.3.__bnb_optimizer_quant_state__.",
      "3",
    ],
  ])("of parameters may be %s", async (_, prefix, name) => {
    const { layout, checkpoint } = await read((key) =>
      key.endsWith(".step")
        ? key.replace("state.0.", prefix.replace(/__\w+__\./, ""))
        : key.replace("state.0.", prefix),
    );
    expect(layout).toBe("bitsandbytes");
    expect(checkpoint.tensors.map((one) => one.name)).toEqual([name]);
  });

  test("without metadata are read with notes", async () => {
    const { notes, checkpoint } = await read((key) => key);
    expect(checkpoint.optimizer).toBe("adamw");
    expect(checkpoint.lr.scheduled, "no rate that replaces another").toBe(true);
    expect(notes.join("\n")).toMatch(/taken as adamw/);
    expect(notes.join("\n")).toMatch(/parameters have numbers and no names/);
    expect(notes.join("\n")).toMatch(/no hyperparameters/);
  });

  test("of PyTorch's param_names give names", async () => {
    const { checkpoint } = await read((key) => key, {
      optimizer: "bitsandbytes.optim.adamw.PagedAdamW8bit",
      param_groups: JSON.stringify([
        { lr: 0.5, betas: [0.8, 0.9], params: [0], param_names: ["wte"] },
      ]),
    });
    expect(checkpoint.tensors[0]!.name).toBe("wte");
    expect(checkpoint.lr).toEqual({ value: 0.5, scheduled: false });
    expect(checkpoint.hyper).toMatchObject({ beta1: 0.8, beta2: 0.9 });
  });

  test("that are no state are left out and told", async () => {
    const { tensors } = pythonState(run, 2);
    const model = {
      dtype: "F32" as const,
      shape: [2],
      data: Float32Array.of(1, 2),
    };
    const { notes } = await readState(
      writeSafetensors({ ...tensors, "model.w": model }),
    );
    expect(notes.join("\n")).toMatch(/left out: 1 tensor .* 'model.w'/);
  });

  test("of one scale a tensor, as before bitsandbytes 0.45", async () => {
    const { tensors } = pythonState(run, 2);
    const old: Record<string, SafeTensor> = {};
    for (const [key, tensor] of Object.entries(tensors))
      if (!key.includes("absmax")) old[key] = tensor;
    for (const slot of [1, 2])
      old[`state.0.max${slot}`] = {
        dtype: "F32",
        shape: [1],
        data: Float32Array.of(0.25 * slot),
      };
    const open = await readState(writeSafetensors(old, { optimizer: "Adam" }));
    const { bytes } = await write(open, { to: "float32" });
    const [v] = readSafetensors(bytes).tensors["state.0.exp_avg_sq"]!
      .data as Float32Array;
    const code = (tensors["state.0.state2"]!.data as Uint8Array)[0]!;
    const table = tensors["state.0.qmap2"]!.data as Float32Array;
    expect(v).toBe(Math.fround(table[code]! * 0.5));
  });

  test("of one state need the optimizer's name", async () => {
    const { tensors } = pythonState(byName("bnb_lion8bit"), 2);
    const bytes = writeSafetensors(tensors);
    await expect(readState(bytes)).rejects.toThrow(/say which optimizer it is/);
    const { checkpoint } = await readState(bytes, { optimizer: "lion8bit" });
    expect(checkpoint.optimizer).toBe("lion");
  });
});
