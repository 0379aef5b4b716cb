// The compiler of formulas: what it takes out of the loop, what it computes,
// and the WGSL it prints.

import { describe, expect, test } from "vitest";
import { adamw } from "../optimizers/adamw.ts";
import { sgd } from "../optimizers/sgd.ts";
import { randomSource } from "../../test/support/numbers.ts";
import { compileClosure } from "./closure.ts";
import { compileFormula } from "./compile.ts";
import { printWgsl, wgslNumber } from "./wgsl.ts";

/** Compiles and runs one formula on one element. */
function evaluate(
  update: string,
  inputs: Readonly<Record<string, number>> = {},
  scalars: Readonly<Record<string, number>> = {},
): Record<string, number> {
  const states = Object.keys(inputs).filter(
    (name) => !["p", "g"].includes(name),
  );
  const program = compileFormula({
    name: "test",
    update,
    states: Object.fromEntries(states.map((name) => [name, "signed" as const])),
    scalars: Object.keys(scalars),
  });
  const rows = new Map(
    ["p", "g", ...states].map((name) => [
      name,
      Float32Array.of(inputs[name] ?? 0),
    ]),
  );
  const outputs = compileClosure(program)(rows, program.uniforms(scalars), 1);
  return Object.fromEntries(
    [...program.outputs.keys()].map((name, i) => [name, outputs[i]![0]!]),
  );
}
const value = (expression: string, inputs = {}, scalars = {}) =>
  evaluate(`p = ${expression}`, inputs, scalars).p;

describe("the language", () => {
  test.each<[string, number]>([
    ["1 + 2 * 3", 7],
    ["(1 + 2) * 3", 9],
    ["7 - 2 - 1", 4],
    ["8 / 4 / 2", 1],
    ["-2 * -3", 6],
    ["- -2", 2],
    ["2 - -3", 5],
    ["+4", 4],
    ["1e3 + .5 + 2.", 1002.5],
    ["1.5E-1", 0.15],
    ["sqrt(9) + abs(-2)", 5],
    ["sign(-3) + sign(0) + sign(7) * 10", 9],
    ["min(2, 3) * 10 + max(2, 3)", 23],
    ["exp(0) + log(1)", 1],
    ["pow(2, 10)", 1024],
    ["select(1 < 2, 5, 6)", 5],
    ["select(1 + 1 == 2, 5, 6)", 5],
    ["select(2 != 2, 5, 6)", 6],
    ["select(2 <= 2, 5, 6) + select(2 >= 3, 10, 20)", 25],
    ["select(1 > 2, 1, select(2 > 1, 2, 3))", 2],
    ["max(\n  1,\n  2\n)", 2],
  ])("%s is %d, as constants and as elements", (expression, expected) => {
    expect(value(expression)).toBeCloseTo(expected, 6);
    // Every number read from p, g or a state instead: nothing folds.
    const names: Record<string, number> = {};
    const read = expression.replace(
      /(?<![\w.])(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?/g,
      (text) => {
        names[`s${Object.keys(names).length}`] = Number(text);
        return `s${Object.keys(names).length - 1}`;
      },
    );
    const update = `${Object.keys(names)
      .map((name) => `k${name} = ${name}`)
      .join("\n")}\np = ${read}\n${Object.keys(names)
      .map((name) => `${name} = k${name}`)
      .join("\n")}`;
    expect(evaluate(update, names).p).toBeCloseTo(expected, 5);
  });

  test("lines go in order: a state is read as it was until its line, and as it is after", () => {
    const result = evaluate(
      "old = m\nm = m + g\nnew = m\np = p + 10 * old + new",
      { p: 100, g: 2, m: 5 },
    );
    expect(result).toEqual({ p: 157, m: 7 });
  });

  test("a name may be assigned twice; the last line counts", () => {
    expect(value("1\nu = 2\nu = u + 3\np = u", {})).toBe(5);
  });

  test("comments, blank lines and semicolons are no part of it", () => {
    expect(evaluate("# first\n\n u = 2 // two\n\n p = u; ").p).toBe(2);
  });

  test("each operation is rounded to float32", () => {
    expect(value("g + 1 - g", { g: 2 ** 24 })).toBe(0);
    expect(value("g * 3", { g: 0.1 })).toBe(Math.fround(Math.fround(0.1) * 3));
    expect(value("p / g", { p: 1, g: 3 })).toBe(Math.fround(1 / 3));
    expect(value("g * g", { g: 1e-30 })).toBe(0);
    expect(value("g * g", { g: 1e30 })).toBe(Infinity);
  });
});

describe("what depends on the step alone", () => {
  const program = (update: string, scalars: string[]) =>
    compileFormula({ name: "test", update, states: {}, scalars });

  test("is computed in float64 and rounded once", () => {
    // In float32, 1 - 0.999 has an error of 1.3e-5 of itself.
    const one = program("p = (1 - beta) * g", ["beta"]);
    expect([...one.uniforms({ beta: 0.999 })]).toEqual([
      Math.fround(1 - 0.999),
    ]);
    expect(Math.fround(1 - 0.999)).not.toBe(
      Math.fround(1 - Math.fround(0.999)),
    );
  });

  test("a division by it becomes one product, and factors of it are gathered", () => {
    const one = program("p = lr * (p / c1) / c2", ["lr", "c1", "c2"]);
    expect(one.nodes.map(({ op }) => op).sort()).toEqual([
      "input",
      "mul",
      "uniform",
    ]);
    expect([...one.uniforms({ lr: 0.1, c1: 3, c2: 7 })]).toEqual([
      Math.fround(((1 / 7) * 0.1) / 3),
    ]);
  });

  test("takes one uniform however often it is written", () => {
    const one = program(
      "u = (1 - beta) * g\np = p + (1 - beta) * u + sqrt(g) * (1 - beta)",
      ["beta"],
    );
    expect(one.uniformCount).toBe(2); // 1 - beta and its square
    expect([...one.uniforms({ beta: 0.5 })].sort()).toEqual([0.25, 0.5]);
  });

  test("reaches functions and select on the host", () => {
    const one = program("p = p * select(lr > 0.5, sqrt(lr), pow(lr, 2))", [
      "lr",
    ]);
    expect([...one.uniforms({ lr: 0.25 })]).toEqual([0.0625]);
    expect([...one.uniforms({ lr: 0.81 })]).toEqual([Math.fround(0.9)]);
  });

  test("may decide for all elements", () => {
    const update = "p = select(warm == 1, g, p)";
    expect(evaluate(update, { p: 1, g: 2 }, { warm: 1 }).p).toBe(2);
    expect(evaluate(update, { p: 1, g: 2 }, { warm: 0 }).p).toBe(1);
  });

  test("unused lines and equal expressions cost nothing", () => {
    const one = program("u = exp(g)\na = g * g\nb = g * g\np = a + b", []);
    expect(one.nodes.map(({ op }) => op).sort()).toEqual([
      "add",
      "input",
      "mul",
    ]);
  });
});

describe("random formulas", () => {
  // Numbers stay moderate, so that float32 is close to float64; comparisons and
  // sign are left to the tests above, since they may flip at rounding.
  const unary: [string, (a: number) => number][] = [
    ["abs(#)", Math.abs],
    ["sqrt(abs(#))", (a) => Math.sqrt(Math.abs(a))],
    ["exp(-abs(#))", (a) => Math.exp(-Math.abs(a))],
    ["log(1 + abs(#))", (a) => Math.log(1 + Math.abs(a))],
    ["-#", (a) => -a],
    ["pow(1 + abs(#), 0.75)", (a) => (1 + Math.abs(a)) ** 0.75],
  ];
  const binary: [string, (a: number, b: number) => number][] = [
    ["(# + @)", (a, b) => a + b],
    ["(# - @)", (a, b) => a - b],
    ["# * @", (a, b) => a * b],
    ["# / (1 + abs(@))", (a, b) => a / (1 + Math.abs(b))],
    ["min(#, @)", Math.min],
    ["max(#, @)", Math.max],
    ["select(# > @, #, @ / 2)", (a, b) => (a > b ? a : b / 2)],
  ];
  type Tree = { text: string; run: (names: Record<string, number>) => number };
  const names = ["p", "g", "m", "v", "lr", "beta"];

  function tree(random: () => number, depth: number): Tree {
    const pick = <T>(list: readonly T[]) =>
      list[Math.floor(random() * list.length)]!;
    if (depth === 0) {
      if (random() < 0.15) {
        const number = Math.round(random() * 1000) / 500;
        return { text: String(number), run: () => number };
      }
      const name = pick(names);
      return { text: name, run: (values) => values[name]! };
    }
    const a = tree(random, depth - 1);
    if (random() < 0.3) {
      const [text, apply] = pick(unary);
      return {
        text: text.replaceAll("#", `(${a.text})`),
        run: (values) => apply(a.run(values)),
      };
    }
    const b = tree(random, depth - 1);
    const [text, apply] = pick(binary);
    return {
      text: text.replace(/[#@]/g, (mark) => `(${(mark === "#" ? a : b).text})`),
      run: (values) => apply(a.run(values), b.run(values)),
    };
  }

  test("500 of them agree with float64", () => {
    const random = randomSource(42);
    const misses: string[] = [];
    for (let n = 0; n < 500; n++) {
      const [m, v, p] = [tree(random, 2), tree(random, 2), tree(random, 3)];
      const update = `m = ${m.text}\nv = ${v.text}\np = ${p.text}`;
      const values: Record<string, number> = Object.fromEntries(
        names.map((name) => [name, Math.fround(random() * 4 - 2)]),
      );
      const got = evaluate(
        update,
        { p: values.p!, g: values.g!, m: values.m!, v: values.v! },
        { lr: values.lr!, beta: values.beta! },
      );
      const expected = { ...values };
      expected.m = m.run(expected);
      expected.v = v.run(expected);
      expected.p = p.run(expected);
      for (const name of ["m", "v", "p"]) {
        const size = Math.max(1, Math.abs(expected[name]!));
        // A select near a tie may take the other branch: branches differ there.
        if (!(Math.abs(got[name]! - expected[name]!) <= 2e-5 * size))
          misses.push(
            `${name} of\n${update}: ${got[name]} against ${expected[name]}`,
          );
      }
    }
    expect(misses).toEqual([]);
  });
});

describe("WGSL", () => {
  const print = (
    program: ReturnType<typeof compileFormula>,
    type: "f32" | "vec4f",
  ) =>
    printWgsl(program, [...program.outputs.values()], {
      type,
      input: (name) => `${name}_in`,
      uniform: (i) => `u[${i}]`,
    });

  test("adamw reads like the formula", () => {
    expect(print(adamw().optimizer.program, "vec4f")).toMatchInlineSnapshot(`
      {
        "results": [
          "t28",
          "t8",
          "t14",
        ],
        "statements": [
          "let t0 = p_in;",
          "let t1 = g_in;",
          "let t2 = m_in;",
          "let t3 = v_in;",
          "let t4 = vec4f(u[0]);",
          "let t5 = t4 * t2;",
          "let t6 = vec4f(u[1]);",
          "let t7 = t6 * t1;",
          "let t8 = t5 + t7;",
          "let t9 = vec4f(u[2]);",
          "let t10 = t9 * t3;",
          "let t11 = vec4f(u[3]);",
          "let t12 = t11 * t1;",
          "let t13 = t12 * t1;",
          "let t14 = t10 + t13;",
          "let t15 = vec4f(u[4]);",
          "let t16 = t15 * t0;",
          "let t17 = vec4f(0.0f);",
          "let t18 = t14 > t17;",
          "let t19 = vec4f(u[5]);",
          "let t20 = t19 * t8;",
          "let t21 = sqrt(t14);",
          "let t22 = vec4f(u[6]);",
          "let t23 = t22 * t21;",
          "let t24 = vec4f(u[7]);",
          "let t25 = t23 + t24;",
          "let t26 = t20 / t25;",
          "let t27 = select(t17, t26, t18);",
          "let t28 = t16 - t27;",
        ],
      }
    `);
  });

  test("sgd reads like the formula", () => {
    expect(print(sgd().optimizer.program, "f32")).toMatchInlineSnapshot(`
      {
        "results": [
          "t18",
          "t10",
        ],
        "statements": [
          "let t0 = p_in;",
          "let t1 = g_in;",
          "let t2 = m_in;",
          "let t3 = u[0];",
          "let t4 = t3 * t0;",
          "let t5 = t1 + t4;",
          "let t6 = u[1];",
          "let t7 = t6 * t2;",
          "let t8 = u[2];",
          "let t9 = t8 * t5;",
          "let t10 = t7 + t9;",
          "let t11 = u[3];",
          "let t12 = t11 * t5;",
          "let t13 = u[4];",
          "let t14 = t13 * t10;",
          "let t15 = t12 + t14;",
          "let t16 = u[5];",
          "let t17 = t16 * t15;",
          "let t18 = t0 - t17;",
        ],
      }
    `);
  });

  test.each([
    [1, "1.0f"],
    [-2, "-2.0f"],
    [0.5, "0.5f"],
    [1e-8, "9.99999993922529e-9f"],
    [1e30, "1.0000000150474662e+30f"],
  ])("the number %d is written as %s", (number, text) => {
    expect(wgslNumber(number)).toBe(text);
  });
});
