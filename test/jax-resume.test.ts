// The state is arrays: flattened and saved in one process, it goes on in another
// as if nothing had been.

import { execFile } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, describe, expect, test } from "vitest";
import { skipReason, type Backend } from "./support/jax.ts";

const folder = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-jax-"));
afterAll(() => fs.rmSync(folder, { recursive: true }));

const script = path.join(import.meta.dirname, "support/jax-resume.ts");
const run = async (backend: Backend, from: number, to: number, file: string) =>
  (
    await promisify(execFile)(process.execPath, [
      "--conditions=lowbit-source",
      script,
      backend,
      String(from),
      String(to),
      path.join(folder, file),
    ])
  ).stdout.trim();

describe.each<Backend>(["wasm", "webgpu"])("on %s", (backend) => {
  const skip = skipReason(backend);
  test(
    "a run that was saved and loaded ends as one that was not",
    { skip: !!skip, meta: { skipReason: skip } },
    async () => {
      const whole = await run(backend, 0, 6, `${backend}-whole`);
      const half = await run(backend, 0, 3, `${backend}-half`);
      const rest = await run(backend, 3, 6, `${backend}-half`);
      expect(whole).toMatch(RegExp(`^${backend} [0-9a-f]{64}$`));
      expect(rest).toBe(whole);
      expect(half).not.toBe(whole);
    },
  );
});
