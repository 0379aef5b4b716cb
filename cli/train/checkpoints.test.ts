// A crash at any operation, and at any byte of a write, leaves a whole
// checkpoint; a disk that fails leaves what was there.

import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { InputError, resolveConfig, writeSafetensors } from "lowbit/trainer";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Checkpoints, type Contents } from "./checkpoints.ts";
import type { Disk } from "./durable.ts";

let home: string;
beforeEach(() => {
  home = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-checkpoints-"));
});
afterEach(() => fs.rmSync(home, { recursive: true }));

const model = (step: number) =>
  writeSafetensors({
    w: { dtype: "F32", shape: [3], data: Float32Array.of(step, 2, 3) },
  });
const optimizer = (step: number) => new Uint8Array(40).fill(step);

function contents(step: number): Contents {
  return {
    run: {
      position: { step, batches: { words: [step, -2, 3, 4] } },
      config: resolveConfig({ threads: 1 }),
      data: ["text.txt"],
      text: { bytes: 5, sha256: "abc" },
      progress: {
        seconds: 1,
        steps: step,
        tokens: 2,
        milliseconds: 3,
        optimizerMilliseconds: 1,
        trainLoss: { first: 5, last: 4 },
        validationLoss: {},
        looked: -1,
      },
      samples: ["one"],
    },
    // Two pieces, as there is one for each tensor.
    model: [model(step).subarray(0, 50), model(step).subarray(50)],
    optimizer: [optimizer(step)],
  };
}

/** What a new process finds: the step of the newest checkpoint, whole to the last byte. */
async function found(): Promise<number | undefined> {
  const checkpoints = new Checkpoints(home);
  const [name] = checkpoints.names();
  if (name === undefined) return undefined;
  const run = checkpoints.readRun(name);
  const { step } = run.position;
  const { files: _, ...saved } = { files: 0, ...run };
  expect(saved).toEqual(JSON.parse(JSON.stringify(contents(step).run)));
  const open = checkpoints.open(name, run);
  expect(open.model.tensors.w!.data[0]).toBe(step);
  const { size, read } = open.optimizer as Extract<
    typeof open.optimizer,
    { size: number; read: unknown }
  >;
  expect(await read(0, size)).toEqual(optimizer(step));
  open.close();
  return step;
}

/** How an operation ends. */
type Failure =
  /** The call throws, and the process goes on. */
  | { readonly kind: "error" }
  /** The process ends within the call, after so many bytes of a write. */
  | { readonly kind: "crash"; readonly bytes: number }
  /** The machine ends; what was not flushed is gone. */
  | { readonly kind: "power"; readonly bytes: number };

interface Operation {
  readonly name: keyof Disk;
  /** Bytes of a write. */
  readonly bytes: number;
}

/** A disk that fails at the n-th operation, and a list of what was asked of it. */
function failingDisk(at = Infinity, failure: Failure = { kind: "error" }) {
  const operations: Operation[] = [];
  const platter = watchFlushes();
  let dead = false;
  const call = (name: keyof Disk, args: unknown[]): unknown => {
    if (dead) throw new Error("the process has ended");
    const index = operations.length;
    const data = name === "writeSync" ? (args[1] as Uint8Array) : undefined;
    const from = (args[2] as number | undefined) ?? 0;
    operations.push({ name, bytes: data ? data.length - from : 0 });
    const real = quick[name] as (...args: unknown[]) => unknown;
    if (index !== at) {
      const was = platter.before(name, args);
      const result = real(...args);
      platter.after(name, args, result, was);
      return result;
    }
    if (failure.kind === "error")
      throw Object.assign(new Error("ENOSPC: no space left on device"), {
        code: "ENOSPC",
        syscall: "write",
      });
    if (data) {
      const part = data.subarray(from, from + failure.bytes);
      platter.after(name, args, real(args[0], part, 0), false);
    }
    dead = true;
    if (failure.kind === "power") platter.cut();
    throw new Error("the process has ended");
  };
  const disk = Object.fromEntries(
    (
      [
        "closeSync",
        "fsyncSync",
        "mkdirSync",
        "openSync",
        "readdirSync",
        "renameSync",
        "rmSync",
        "writeSync",
      ] as const
    ).map((name) => [name, (...args: unknown[]) => call(name, args)]),
  ) as unknown as Disk;
  return { disk, operations };
}

/**
 * What a power cut takes: bytes of files that were not flushed; new files, new
 * folders and renames in a folder that was not flushed. Removals stay, which is
 * the worst.
 */
function watchFlushes() {
  const open = new Map<number, string>();
  let unflushed: string[] = [];
  let changes: { from?: string; to: string }[] = [];
  return {
    /** Whether what a call makes is there already. */
    before: (name: keyof Disk, args: unknown[]) =>
      (name === "openSync" || name === "mkdirSync") &&
      fs.existsSync(args[0] as string),
    after(
      name: keyof Disk,
      args: unknown[],
      result: unknown,
      wasThere: boolean,
    ) {
      const [first, second] = args as [string, string];
      if (name === "openSync") open.set(result as number, first);
      if ((name === "openSync" || name === "mkdirSync") && !wasThere)
        changes.push({ to: first });
      const file = open.get(args[0] as number)!;
      if (name === "writeSync") unflushed.push(file);
      if (name === "fsyncSync") {
        unflushed = unflushed.filter((one) => one !== file);
        changes = changes.filter(({ to }) => path.dirname(to) !== file);
      }
      if (name !== "renameSync") return;
      const moved = (one: string) =>
        one.startsWith(`${first}/`) ? second + one.slice(first.length) : one;
      unflushed = unflushed.map(moved);
      changes = changes.map((change) => ({ ...change, to: moved(change.to) }));
      for (const [handle, one] of open) open.set(handle, moved(one));
      changes.push({ from: first, to: second });
    },
    cut() {
      for (const file of unflushed)
        if (fs.existsSync(file)) fs.truncateSync(file, 0);
      for (const { from, to } of changes.reverse())
        if (from === undefined) fs.rmSync(to, { recursive: true, force: true });
        else if (fs.existsSync(to)) fs.renameSync(to, from);
    },
  };
}

/** The real one, without the wait for what no test looks at. */
const quick = { ...fs, fsyncSync: () => undefined };

/** Two checkpoints, so that the next save also removes one. */
async function begin(): Promise<void> {
  await new Checkpoints(home, quick).save(contents(1));
  await new Checkpoints(home, quick).save(contents(2));
}

/** Every operation of a save, every kind of end, and of writes every class of place. */
async function everyFailure(): Promise<[number, Failure, Operation][]> {
  await begin();
  const { disk, operations } = failingDisk();
  await new Checkpoints(home, disk).save(contents(3));
  return operations.flatMap((operation, at) => {
    const { bytes } = operation;
    const places =
      operation.name === "writeSync"
        ? [0, 1, 7, 8, Math.floor(bytes / 2), bytes - 1, bytes]
        : [0];
    return [
      [at, { kind: "error" }, operation] as [number, Failure, Operation],
      ...places.flatMap((place): [number, Failure, Operation][] =>
        (["crash", "power"] as const).map((kind) => [
          at,
          { kind, bytes: place },
          operation,
        ]),
      ),
    ];
  });
}

test("a failure or crash at every operation and class of byte leaves a whole checkpoint", async () => {
  const failures = await everyFailure();
  const kinds = new Set(failures.map(([, , { name }]) => name));
  for (const name of [
    "writeSync",
    "fsyncSync",
    "renameSync",
    "rmSync",
  ] as const)
    expect(kinds).toContain(name);
  expect(failures.length).toBeGreaterThan(100);
  const outcomes = new Set<number | undefined>();
  for (const [at, failure, { name }] of failures) {
    fs.rmSync(home, { recursive: true });
    fs.mkdirSync(home);
    await begin();
    const { disk } = failingDisk(at, failure);
    const what = `${failure.kind} at operation ${at}, ${name}`;
    const saved = await new Checkpoints(home, disk).save(contents(3)).then(
      () => true,
      () => false,
    );
    const step = await found();
    outcomes.add(step);
    expect([2, 3], what).toContain(step);
    if (saved) expect(step, what).toBe(3);
    // Whatever is left over, the run goes on.
    await new Checkpoints(home, quick).save(contents(4));
    expect(await found(), what).toBe(4);
    expect(new Checkpoints(home).names().length, what).toBe(2);
  }
  expect(outcomes).toEqual(new Set([2, 3]));
});

test("a file system that flushes no folders is none that fails", async () => {
  const fsyncSync = (handle: number) => {
    if (fs.fstatSync(handle).isDirectory())
      throw Object.assign(new Error("EINVAL: invalid argument, fsync"), {
        ...{ code: "EINVAL", syscall: "fsync" },
      });
  };
  await new Checkpoints(home, { ...fs, fsyncSync }).save(contents(1));
  expect(await found()).toBe(1);
});

test("a crash in the first save leaves none, which is no checkpoint of nothing", async () => {
  const { disk } = failingDisk(5, { kind: "crash", bytes: 3 });
  await expect(new Checkpoints(home, disk).save(contents(1))).rejects.toThrow();
  expect(await found()).toBeUndefined();
});

test("keeps the last two, newest first, and one of a step twice", async () => {
  const checkpoints = new Checkpoints(home);
  for (const step of [9, 10, 11, 11]) await checkpoints.save(contents(step));
  expect(checkpoints.names()).toEqual(["step-00000011", "step-00000010"]);
  expect(fs.readdirSync(checkpoints.folder).sort()).toEqual([
    "step-00000010",
    "step-00000011",
  ]);
  checkpoints.clear();
  expect(fs.readdirSync(home)).toEqual([]);
});

describe("notices", () => {
  test.each(["model.safetensors", "optimizer.safetensors", "run.json"])(
    "any changed byte of %s",
    async (file) => {
      const checkpoints = new Checkpoints(home);
      await checkpoints.save(contents(1));
      const place = path.join(checkpoints.folder, "step-00000001", file);
      const bytes = fs.readFileSync(place);
      // Of the text, all bytes that do not only lay it out.
      const places = [...bytes.keys()].filter(
        (i) => !/[\s]/.test(String.fromCharCode(bytes[i]!)),
      );
      for (const i of places) {
        const changed = Uint8Array.from(bytes);
        changed[i]! ^= 1;
        fs.writeFileSync(place, changed);
        expect(() => checkpoints.readRun("step-00000001")).toThrow(InputError);
      }
      fs.writeFileSync(place, bytes.subarray(0, -1));
      if (file !== "run.json")
        expect(() => checkpoints.readRun("step-00000001")).toThrow(
          `${file} has ${bytes.length - 1} bytes, and other ones than were saved`,
        );
      fs.rmSync(place);
      expect(() => checkpoints.readRun("step-00000001")).toThrow(
        `${file} cannot be read: ENOENT`,
      );
    },
  );
});
