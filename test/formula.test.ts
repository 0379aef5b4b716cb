// Errors in a formula read like a compiler's: the line, the text and a caret.

import {
  createOptimizer,
  defineOptimizer,
  FormulaError,
  type Recipe,
} from "lowbit";
import { describe, expect, test } from "vitest";

/** The error of a formula; its optimizer has the states m and v, lr and beta. */
function errorOf(update: string): FormulaError {
  const factory = defineOptimizer({
    name: "mine",
    hyper: { lr: 1e-3, beta: 0.9 },
    state: { m: "signed", v: "unsigned" },
    scalars: () => ({ c1: 1 }),
    update,
  });
  try {
    factory();
  } catch (error) {
    if (error instanceof FormulaError) return error;
    throw error;
  }
  throw new Error("the formula has no error");
}

const good = "m = beta * m + g\nv = v + g * g";

describe("an error in a formula", () => {
  test.each<[string, string, number, number]>([
    ["an unknown name, with the nearest", `${good}\np = p - lr * mm`, 3, 14],
    ["an unknown name far from all others", `${good}\np = p - momentum`, 3, 9],
    ["an unknown function", `${good}\np = p - lr * square(g)`, 3, 14],
    ["a function without its parenthesis", `${good}\np = p - sqrt g`, 3, 14],
    ["too few arguments", `${good}\np = p - pow(g)`, 3, 9],
    ["too many arguments", `${good}\np = p - sqrt(g, m)`, 3, 9],
    ["no arguments", `${good}\np = p - exp()`, 3, 9],
    ["a missing operand", `${good}\np = p - `, 3, 9],
    ["a missing operator", `${good}\np = p 2`, 3, 7],
    ["a product without its sign", `${good}\np = 2p`, 3, 5],
    ["an open parenthesis", `${good}\np = (p - lr * m`, 3, 16],
    ["a closing parenthesis too many", `${good}\np = p - lr * m)`, 3, 15],
    ["a character that is no part of the language", `${good}\np = p ^ 2`, 3, 7],
    ["a line that assigns nothing", `${good}\np - lr * m`, 3, 3],
    ["a line that begins with a number", `${good}\n3 = p`, 3, 1],
    ["an assignment to the gradient", `g = 2 * g\n${good}\np = p`, 1, 1],
    ["an assignment to a hyperparameter", `${good}\nlr = 2\np = p`, 3, 1],
    ["an assignment to a scalar", `${good}\n  c1 = 2\np = p`, 3, 3],
    ["an assignment to a function", `${good}\nmax = 2\np = p`, 3, 1],
    ["a local that is read before its line", `${good}\np = p - u\nu = m`, 3, 9],
    ["a comparison as a number", `${good}\np = p - (g > 0)`, 3, 12],
    ["a select without a comparison", `${good}\np = select(m, 1, 2)`, 3, 12],
    ["a chain of comparisons", `${good}\np = select(0 < m < 1, 1, 2)`, 3, 18],
    ["a parameter that is never assigned", good, 2, 14],
    ["a state that is never assigned", "m = g\np = p - lr * m", 2, 15],
    ["an empty formula", "", 1, 1],
    ["a number with two points", `${good}\np = 1.2.3`, 3, 5],
  ])("says where: %s", (_, update, line, column) => {
    const error = errorOf(update);
    expect(error).toMatchObject({ name: "FormulaError", line, column });
    // The caret stands under the column, below the text of that line.
    const [, text, caret] = error.message.split("\n");
    const source = update.split("\n")[line - 1]!;
    expect(text).toBe(`    ${source.trim()}`);
    const indent = source.length - source.trimStart().length;
    expect(caret!.indexOf("^")).toBe(4 + column - 1 - indent);
  });

  test("reads like this", () => {
    const messages = [
      `${good}\np = p - lr * mm`,
      `${good}\np = p - momentum`,
      `${good}\np = p - lr * square(g)`,
      `${good}\np = p - pow(g)`,
      `${good}\np = 2p`,
      `${good}\np = (p - lr * m`,
      `${good}\np = p ^ 2`,
      `g = 2 * g\n${good}\np = p`,
      `${good}\n    lr = 2\np = p`,
      `${good}\np = p - u\nu = m`,
      `${good}\np = p - (g > 0)`,
      `${good}\np = select(m, 1, 2)`,
      `${good}\np = select(0 < m < 1, 1, 2)`,
      good,
      "m = g\np = p - lr * m",
    ].map((update) => errorOf(update).message);
    expect(messages.join("\n\n")).toMatchInlineSnapshot(`
      "mine, line 3: unknown name 'mm'; did you mean 'm'?
          p = p - lr * mm
                       ^

      mine, line 3: unknown name 'momentum'; known are p, g, m, v, lr, beta, c1
          p = p - momentum
                  ^

      mine, line 3: unknown function 'square'; there are sqrt, abs, sign, exp, log, min, max, pow, select, norm, sum, mean, rms, rowmean, colmean, rowmax, colmax
          p = p - lr * square(g)
                       ^

      mine, line 3: pow takes 2 arguments, given 1
          p = p - pow(g)
                  ^

      mine, line 3: '2p' is not a number; write a product as 2 * x
          p = 2p
              ^

      mine, line 3: expected ')' to close the parenthesis, found the end of the formula
          p = (p - lr * m
                         ^

      mine, line 3: unexpected character '^'
          p = p ^ 2
                ^

      mine, line 1: 'g' is the gradient and cannot be assigned; use a new name
          g = 2 * g
          ^

      mine, line 3: 'lr' is a hyperparameter or scalar and cannot be assigned; use a new name
          lr = 2
          ^

      mine, line 3: 'u' is read before it is assigned; move its line up
          p = p - u
                  ^

      mine, line 3: a comparison is not a number; use it as the first argument of select(condition, then, else)
          p = p - (g > 0)
                     ^

      mine, line 3: the first argument of select must be a comparison, such as v > 0
          p = select(m, 1, 2)
                     ^

      mine, line 3: comparisons do not chain; nest two selects instead
          p = select(0 < m < 1, 1, 2)
                           ^

      mine, line 2: the parameter 'p' is never assigned; the last line usually is p = ...
          v = v + g * g
                       ^

      mine, line 2: the state 'v' is never assigned; add a line v = ...
          p = p - lr * m
                        ^"
    `);
  });
});

describe("a definition", () => {
  const define = (changes: object) =>
    defineOptimizer({
      name: "mine",
      hyper: { lr: 1 },
      state: { m: "signed" },
      update: "m = g\np = p - lr * m",
      ...changes,
    } as never);

  test("costs nothing until a recipe is made", () => {
    expect(() => define({ update: "nonsense" })).not.toThrow();
  });

  test.each<[string, object, string]>([
    [
      "a name with a space",
      { name: "my own" },
      "defineOptimizer: a name is letters and digits, given 'my own'",
    ],
    ["no lr", { hyper: {} }, "mine: hyper must have 'lr', the learning rate"],
    [
      "a hyperparameter named bits",
      { hyper: { lr: 1, bits: 8 } },
      "mine: 'bits' is an option of every optimizer",
    ],
    [
      "a state that is neither signed nor unsigned",
      { state: { m: "positive" } },
      "mine: state 'm' must be one of signed, unsigned, ",
    ],
    [
      "a state named p",
      { state: { p: "signed" } },
      "mine: 'p' is a word of the formula language",
    ],
    [
      "a state named like a function",
      { state: { max: "signed" } },
      "mine: 'max' is a word of the formula language",
    ],
    [
      "a state named like a hyperparameter",
      { state: { lr: "signed" } },
      "mine: 'lr' is both a state and a hyperparameter or scalar",
    ],
    [
      "a scalar named like a hyperparameter",
      { scalars: () => ({ lr: 2 }) },
      "mine: 'lr' is both a hyperparameter and a step scalar",
    ],
    [
      "a key that is not one",
      { states: {} },
      "mine: unknown key 'states'; did you mean 'state'? There are name, hyper, state, update,",
    ],
    [
      "no states",
      { state: undefined },
      "mine: state must be an object such as { m: 'signed' }, given undefined",
    ],
    [
      "no hyperparameters",
      { hyper: undefined },
      "mine: hyper must be an object such as { lr: 1e-3 }, given undefined",
    ],
    [
      "no update",
      { update: undefined },
      "mine: update must be text such as 'p = p - lr * g', given undefined",
    ],
    [
      "a default that is text",
      { hyper: { lr: "1e-3" } },
      "mine: the default of 'lr' must be a finite number, true or false, given 1e-3",
    ],
    [
      "a variant that is no form",
      { variants: [{ when: () => true, state: { m: "signed" } }] },
      "mine: update must be text",
    ],
  ])("with %s is an error", (_, changes, message) => {
    expect(() => (define(changes) as () => unknown)()).toThrow(message);
  });

  test.each([
    ["is no number", () => ({ k: NaN }), "NaN"],
    [
      "goes missing",
      (_: unknown, t: number) => (t === 1 ? { k: 1 } : {}),
      "undefined",
    ],
    [
      "grows out of bounds",
      (_: unknown, t: number) => ({ k: 1 / (2 - t) }),
      "Infinity",
    ],
  ])(
    "whose scalar %s stops before anything changes",
    async (_, scalars, given) => {
      const data = Float32Array.of(1, 2);
      const optimizer = await createOptimizer(
        (
          define({
            scalars,
            state: {},
            update: "p = p - lr * k * g",
          }) as unknown as () => Recipe
        )(),
        { w: { data, shape: [2] } },
        { device: "reference" },
      );
      const step = () => optimizer.step({ w: Float32Array.of(1, 1) });
      if (given !== "NaN") await step();
      const before = [...data];
      await expect(step()).rejects.toThrow(
        `mine: the scalar 'k' of step ${given === "NaN" ? 1 : 2} must be a finite number, given ${given}`,
      );
      expect([...data]).toEqual(before);
    },
  );
});
