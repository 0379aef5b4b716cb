/** What `npm run reproduce:4bit` and `reproduce:8bit` measure, one part after another. */
import { analyse, pairs4, pairs8, type Errors, type Pair } from "./analysis.ts";
import { momenta, noiseFloor, type Floor } from "./noise-floor.ts";
import { choices, compareChoice, type Choice } from "./choices.ts";
import { runAll, type Run, type Task } from "./pool.ts";
import {
  printErrors,
  printRows,
  printZeros,
  rowsOf,
  spread,
  table,
  type Row,
} from "./print.ts";
import {
  sensitivity,
  tables,
  type Hyper,
  type Scheme,
  type TableName,
} from "./schemes.ts";
import type { Outcome } from "./train.ts";
import { readWords } from "./words.ts";

export interface Options {
  readonly task: Task;
  readonly seeds: readonly number[];
  readonly jobs: number;
  /** Told after each run. */
  readonly progress?: (done: number, of: number) => void;
  /** Tells of each part when it is done. */
  readonly show?: (title: string, text: string) => void;
  /** Schemes of a table to run; default all. */
  readonly only?: (scheme: Pick<Scheme, "name">) => boolean;
  readonly parts?: readonly string[];
}

/** Everything measured, for `--json` and the tests. */
export interface Results {
  readonly rows: Record<string, readonly Row[]>;
  readonly errors?: ReadonlyMap<string, ReadonlyMap<string, Errors>>;
  readonly floors?: readonly Floor[];
  readonly recipes?: readonly Choice[];
}

const titles: Partial<Record<TableName, string>> = {
  ablation8: "8 bits: maps and blocks (paper 1, table 3)",
  secondMoment:
    "4-bit second moment, m in block 128 / dynamic (paper 2, table 1)",
  firstMoment: "Which moment it is (paper 2, table 6)",
  beyond: "Since then",
};

export async function reproduce(
  which: "4bit" | "8bit",
  options: Options,
): Promise<Results> {
  const parts = options.parts ?? partsOf[which];
  const rows: Record<string, readonly Row[]> = {};
  const results: {
    rows: typeof rows;
    errors?: ReadonlyMap<string, ReadonlyMap<string, Errors>>;
    floors?: readonly Floor[];
    recipes?: readonly Choice[];
  } = { rows };
  const training = parts.filter((part) => part in tables) as TableName[];
  const outcomes = await trainAll(training, options);
  for (const part of parts) {
    if (part === "sensitive")
      options.show?.(
        "One hyperparameter at a time, with the stable embedding (paper 1, figure 3)",
        printRows((rows[part] = sensitiveRows(outcomes, options))),
      );
    else if (part in tables) {
      const name = part as TableName;
      rows[name] = rowsOf(
        schemesOf(name, options),
        outcomes,
        (run) => run.table === name,
      );
      options.show?.(titles[name]!, printRows(rows[name]));
    } else if (part === "errors")
      results.errors = await showErrors(
        which === "8bit" ? pairs8 : pairs4,
        options,
        which === "4bit",
      );
    else if (part === "floor") results.floors = await showFloors(options);
    else if (part === "recipes") results.recipes = await showChoices(options);
  }
  return results;
}

/** What each command shows unless it is told. */
export const partsOf = {
  "8bit": ["ablation8", "sensitive", "errors"],
  "4bit": [
    "secondMoment",
    "firstMoment",
    "beyond",
    "errors",
    "floor",
    "recipes",
  ],
} as const;
export const partNames: readonly string[] = [
  ...new Set(Object.values(partsOf).flat()),
];

/** Names that `--rows` chooses from. */
export const rowNames = (parts: readonly string[]): readonly string[] =>
  parts.flatMap((part) =>
    part === "recipes"
      ? choices.map(({ name }) => name)
      : part in tables
        ? tables[part as TableName].map(({ name }) => name)
        : [],
  );

const schemesOf = (name: TableName, { only }: Options): readonly Scheme[] =>
  tables[name].filter((scheme) => only?.(scheme) ?? true);

async function trainAll(
  names: readonly TableName[],
  options: Options,
): Promise<Map<Run, Outcome>> {
  const { seeds, task, jobs, progress } = options;
  const { lr } = task.settings;
  // The same scheme in two tables is one run.
  const known = new Map<string, Run>();
  const asked: { run: Run; as: Run }[] = [];
  for (const name of names)
    for (const scheme of schemesOf(name, options))
      for (const hyper of hypersOf(name, lr))
        for (const seed of seeds) {
          const run = { table: name, scheme: scheme.name, seed, hyper };
          const key = JSON.stringify([
            scheme.recipe(hyper).storage,
            scheme.recipe(hyper).optimizer.name,
            scheme.stable,
            scheme.after?.name,
            hyper,
            seed,
          ]);
          const as = known.get(key) ?? run;
          known.set(key, as);
          asked.push({ run, as });
        }
  const runs = [...known.values()];
  // Those that diverge end early: mixed, so that no process is left with all the long ones.
  let done = 0;
  const outcomes = await runAll(runs, task, jobs, () =>
    progress?.(++done, runs.length),
  );
  return new Map(asked.map(({ run, as }) => [run, outcomes.get(as)!]));
}

const hypersOf = (name: TableName, lr: number): Hyper[] =>
  name !== "sensitive"
    ? [{ lr }]
    : sensitivity.map(({ hyper }) => ({
        ...hyper,
        lr: lr * (hyper.lr ?? 1),
      }));

/** A row for each change, of 8 bits against 32 with the same change. */
function sensitiveRows(
  outcomes: ReadonlyMap<Run, Outcome>,
  options: Options,
): Row[] {
  const runs = [...outcomes].filter(([run]) => run.table === "sensitive");
  const distinct = [
    ...new Set(runs.map(([{ hyper }]) => JSON.stringify(hyper))),
  ];
  return distinct.flatMap((key, i) => {
    const rows = rowsOf(
      schemesOf("sensitive", options),
      outcomes,
      (run) => run.table === "sensitive" && JSON.stringify(run.hyper) === key,
    );
    return rows.map((row) => ({
      ...row,
      name: `${sensitivity[i]!.name}: ${row.name}`,
    }));
  });
}

async function showErrors(
  pairs: readonly Pair[],
  { task, seeds, show }: Options,
  zeros: boolean,
) {
  const words = readWords(task.data, task.vocabulary);
  const errors = await analyse(pairs, words, task.settings, seeds[0]!);
  show?.(
    "Error of the Adam update on the states of a 32-bit run: mean of |u' - u| / |u + 1e-6| [median where |u| > 1e-3]",
    printErrors(errors),
  );
  if (zeros)
    show?.(
      "Where 1 / (sqrt(v) + 1e-6) of the embedding lies after v was stored (paper 2, figure 3)",
      printZeros(errors, "embedding"),
    );
  return errors;
}

async function showChoices({ seeds, show, only }: Options): Promise<Choice[]> {
  const chosen = choices.filter((choice) => only?.(choice) ?? true);
  const known = new Map<string, Promise<number>>();
  const results: Choice[] = [];
  for (const choice of chosen)
    results.push(await compareChoice(choice, seeds, known));
  show?.(
    "What the 4-bit recipes choose: nats that 4 bits add to the loss of 32 bits, on characters",
    table(
      ["recipe", "as it is", "otherwise", ""],
      results.map(({ name, otherwise, own, other }) => [
        name,
        spread(own, 3, true),
        spread(other, 3, true),
        otherwise,
      ]),
    ),
  );
  return results;
}

async function showFloors({ seeds, show }: Options): Promise<Floor[]> {
  const floors: Floor[] = [];
  for (const lr of [0.1, 0.05, 0.025])
    for (const name of Object.keys(momenta))
      floors.push(await noiseFloor(name, lr, 600, seeds[0]!));
  show?.(
    "SGD on a noisy quadratic: f - f* reached, and theorem 1's bound (paper 2)",
    table(
      ["momentum", "lr", "f - f*", "of the mean", "variance of Q(m)", "bound"],
      floors.map(({ name, lr, reached, ofMean, variance, bound }) => [
        name,
        String(lr),
        ...[reached, ofMean, variance, bound].map((x) => x.toPrecision(3)),
      ]),
    ),
  );
  return floors;
}
