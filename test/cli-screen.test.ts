// What a person sees: the progress bar of a terminal, and numbers with units.

import { resolveConfig, type Trainer } from "lowbit/trainer";
import { describe, expect, test } from "vitest";
import { harmless, openTerminal, wrap } from "../cli/terminal.ts";
import { Pace, progressLine } from "../cli/train/progress.ts";
import { Screen } from "../cli/train/screen.ts";
import {
  bytes,
  count,
  digits,
  duration,
  hundredths,
  plural,
  rate,
} from "../cli/units.ts";

const result = (step: number, milliseconds = 100) => ({
  kind: "step" as const,
  step,
  loss: 3,
  lr: 1e-3,
  gradNorm: 1,
  nonFinite: 0,
  tokens: 512,
  milliseconds,
  optimizerMilliseconds: 1,
});

/** A stream that keeps what is written to it. */
function fakeStream(isTTY: boolean, columns = 80) {
  const written: string[] = [];
  const stream = {
    isTTY,
    columns,
    write: (text: string) => written.push(text) > 0,
  } as unknown as NodeJS.WriteStream;
  return { stream, written };
}

/** As much of a trainer as a screen looks at. */
const trainer = {
  config: resolveConfig({ steps: 100 }),
  parameterCount: 834_304,
  split: { trainBytes: 900, validationBytes: 100 },
  description: { model: "a model", optimizer: "an engine" },
  memory: () => ({ stateBytes: 1_735_936, stateBytes32: 6_674_432 }),
} as unknown as Trainer;
const text = { bytes: new Uint8Array(1000), files: 1, description: "x.txt" };

function startScreen(isTTY: boolean, columns?: number) {
  const { stream, written } = fakeStream(isTTY, columns);
  const screen = new Screen(openTerminal(stream), stream);
  screen.start(trainer, text);
  return { screen, written, began: written.splice(0).join("") };
}

test("a run begins with its configuration and its memory", () => {
  const { began } = startScreen(false);
  expect(began).toContain("GPT of 834,304 parameters: 4 layers, 4 heads");
  expect(began).toContain("the last 100 bytes (10 %)");
  expect(began).toContain(
    "1,735,936 bytes (1.74 MB); in 32-bit 6,674,432 bytes (6.67 MB), 3.84 times as much",
  );
});

describe("the progress bar", () => {
  test("fills with the steps and tells loss, speed and time left", () => {
    const pace = new Pace();
    for (let step = 1; step <= 30; step++) pace.add(result(step));
    const line = progressLine(pace, 30, 120, 100);
    expect(line).toBe(
      `step  30/120 ${"█".repeat(10)}${"░".repeat(30)} loss 3.000 · 5.12k bytes/s · 0:09 left`,
    );
  });

  test("never is wider than the terminal", () => {
    const pace = new Pace();
    pace.add(result(1));
    for (const width of [10, 40, 57, 58, 80, 200])
      expect(progressLine(pace, 1, 120, width).length).toBeLessThanOrEqual(
        width,
      );
  });

  test("leaves the first step, which compiles the model, out of the speed", () => {
    const pace = new Pace();
    pace.add(result(1, 5000));
    pace.add(result(2));
    pace.add(result(3));
    expect(pace.milliseconds).toBe(100);
  });

  test("is written over on a terminal, and cleared before other lines", () => {
    const { screen, written } = startScreen(true, 60);
    screen.event(result(1));
    screen.event(result(2));
    screen.event({ kind: "validation", step: 2, loss: 2.5 });
    expect(written[0]).toMatch(/^\r.*\x1b\[K$/);
    expect(written[1]).toMatch(/^\r.*\x1b\[K$/);
    expect(written[2]).toBe("\r\x1b[K");
    expect(written[3]).toContain("validation loss");
  });

  test("gives way once to a warning about gradients that are not finite", () => {
    const { screen, written } = startScreen(false);
    screen.event({ ...result(1), nonFinite: 7 });
    screen.event({ ...result(2), nonFinite: 7 });
    expect(written.join("").match(/7 numbers .* not finite/g)).toHaveLength(1);
  });

  test("is plain lines elsewhere", () => {
    const { screen, written } = startScreen(false);
    screen.event(result(1));
    screen.interrupted();
    expect(written.join("")).not.toMatch(/[\r\x1b]/);
  });
});

test("NO_COLOR leaves styles away", () => {
  const { stream } = fakeStream(true);
  const before = process.env.NO_COLOR;
  process.env.NO_COLOR = "1";
  expect(openTerminal(stream).bold("x")).toBe("x");
  delete process.env.NO_COLOR;
  expect(openTerminal(stream).bold("x")).toBe("\x1b[1mx\x1b[0m");
  if (before !== undefined) process.env.NO_COLOR = before;
});

test("text of a model cannot steer the terminal", () => {
  expect(harmless("a\x1b[2Jb\r\nc\td\x07\u202e")).toBe("a·[2Jb\nc\td··");
});

test("numbers have units", () => {
  expect([0, 999, 1000, 1_735_936, 999_600].map(bytes)).toEqual([
    "0 bytes",
    "999 bytes",
    "1.00 kB",
    "1.74 MB",
    "1.00 MB",
  ]);
  expect([7, 754, 3723].map(duration)).toEqual(["0:07", "12:34", "1:02:03"]);
  expect([12.4, 1834].map(rate)).toEqual(["12", "1.83k"]);
  expect(count(834304)).toBe("834,304");
  expect([0.0123, 1.234, 999.4, 1334.4].map(digits)).toEqual([
    "0.0123",
    "1.23",
    "999",
    "1,334",
  ]);
  expect([0, 0.0314, 0.997].map(hundredths)).toEqual(["0.0", "3.1", "100"]);
  expect([999.7, 1.5e6].map(rate)).toEqual(["1.00k", "1,500k"]);
  expect([1, 2].map((n) => plural(n, "step"))).toEqual(["1 step", "2 steps"]);
});

test("wraps at spaces", () => {
  expect(wrap("one two three four", 9)).toEqual(["one two", "three", "four"]);
});
