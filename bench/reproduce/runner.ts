import type { Run, Task } from "./pool.ts";
import { tables } from "./schemes.ts";
import { train, type Outcome } from "./train.ts";
import { readWords } from "./words.ts";

/** Runs by the names of their schemes. */
export function runner(task: Task): (run: Run) => Promise<Outcome> {
  const words = readWords(task.data, task.vocabulary);
  return async ({ table, scheme: name, seed, hyper }) => {
    const scheme = tables[table].find((one) => one.name === name);
    if (!scheme) throw new Error(`reproduce: no scheme '${name}' in ${table}`);
    const { recipe, stable, after } = scheme;
    return train(recipe(hyper), words, task.settings, seed, stable, after);
  };
}
