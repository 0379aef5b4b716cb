/**
 * What the library's 4-bit recipes choose beyond the usual format, against the
 * same recipe without it: on the characters that test/family-recipes.test.ts
 * trains on, every state quantized.
 */
import { optimizerByName, type FormatOptions } from "lowbit";
import { rates, train } from "../../test/support/bytes-model.ts";

export interface Alternative {
  /** Recipe. */
  readonly name: string;
  /** What is done otherwise, in words, and as formats. */
  readonly otherwise: string;
  readonly state: Readonly<Record<string, FormatOptions>>;
}

/** By seed: what 4 bits add to the loss in 32 bits. */
export interface Choice extends Alternative {
  readonly own: readonly number[];
  readonly other: readonly number[];
}

const nearest = { rounding: "nearest" } as const;
const linear = { codebook: "linear-nozero" } as const;

export const choices: readonly Alternative[] = [
  ...(
    [
      ["lion4bit", "m"],
      ["adan4bit", "m", "v"],
      ["ademamix4bit", "m2"],
      ["scheduleFreeAdamw4bit", "away"],
      ["sgd4bit", "m"],
      ["sgdw4bit", "m"],
      ["lars4bit", "m"],
      ["adagrad4bit", "v"],
      ["sm34bit", "v"],
    ] as const
  ).map(([name, ...states]) => ({
    name,
    otherwise: `${states.join(" and ")} rounded to nearest`,
    state: Object.fromEntries(states.map((state) => [state, nearest])),
  })),
  ...["rmsprop4bit", "adagrad4bit", "scheduleFreeAdamw4bit"].map((name) => ({
    name,
    otherwise: "v linear without zero",
    state: { v: linear },
  })),
  {
    name: "adan4bit",
    otherwise: "the gradient before in 4 bits",
    state: { before: { bits: 4 } },
  },
  ...(
    [
      ["adam4bit", "m"],
      ["adamw4bit", "m"],
      ["sgd4bit", "m"],
      ["sgdw4bit", "m"],
      ["lars4bit", "m"],
      ["adan4bit", "m", "v"],
      ["ademamix4bit", "m1", "m2"],
    ] as const
  ).map(([name, ...states]) => ({
    name,
    otherwise: `${states.join(" and ")} dynamic, as paper 2's m`,
    state: Object.fromEntries(
      states.map((state) => [state, { codebook: "dynamic" }]),
    ),
  })),
];

const steps = 400;

/** @param known losses that other rows have found */
export async function compareChoice(
  choice: Alternative,
  seeds: readonly number[],
  known: Map<string, Promise<number>>,
): Promise<Choice> {
  const { name, state } = choice;
  const base = name.replace("4bit", "32bit");
  const lr = rates[optimizerByName(name)().optimizer.name]!;
  const loss = (recipe: string, options: object, seed: number) => {
    const key = JSON.stringify([recipe, options, seed]);
    const found =
      known.get(key) ??
      train(
        optimizerByName(recipe)({ lr, ...options }),
        steps,
        // Seeds of the family's test begin with 1.
        seed + 1,
      ).then(({ after }) => after);
    known.set(key, found);
    return found;
  };
  const own: number[] = [];
  const other: number[] = [];
  for (const seed of seeds) {
    const exact = await loss(base, {}, seed);
    own.push((await loss(name, {}, seed)) - exact);
    other.push((await loss(name, { state }, seed)) - exact);
  }
  return { ...choice, own, other };
}
