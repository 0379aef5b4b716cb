import { expect, test } from "vitest";
import { Random } from "./random.ts";
import { draw } from "./sample.ts";

const numbers = (random: Random, count = 5) =>
  Array.from({ length: count }, () => random.uint32());

test("the same seed and stream give the same numbers, others do not", () => {
  const first = numbers(new Random(1, "a"));
  expect(numbers(new Random(1, "a"))).toEqual(first);
  expect(numbers(new Random(2, "a"))).not.toEqual(first);
  expect(numbers(new Random(1, "b"))).not.toEqual(first);
});

test("normal numbers have mean 0 and deviation 1", () => {
  const random = new Random(0, "test");
  const drawn = Array.from({ length: 20_000 }, () => random.normal());
  const mean = drawn.reduce((a, b) => a + b) / drawn.length;
  const square = drawn.reduce((a, b) => a + b * b, 0) / drawn.length;
  expect(mean).toBeCloseTo(0, 1);
  expect(square).toBeCloseTo(1, 1);
});

test("below(n) reaches each of n numbers and no other", () => {
  const random = new Random(0, "test");
  const drawn = new Set(Array.from({ length: 200 }, () => random.below(7)));
  expect([...drawn].sort()).toEqual([0, 1, 2, 3, 4, 5, 6]);
});

test("a draw follows the odds, and temperature 0 takes the likeliest", () => {
  const random = new Random(0, "test");
  const logits = Float32Array.of(0, Math.log(3));
  const count = (temperature: number) =>
    Array.from({ length: 4000 }, () =>
      draw(logits, temperature, random),
    ).reduce((a, b) => a + b) / 4000;
  expect(count(1)).toBeCloseTo(0.75, 1);
  expect(count(0.5)).toBeCloseTo(0.9, 1);
  expect(count(0)).toBe(1);
});
