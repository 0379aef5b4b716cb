/** Runs in processes of their own: as many at a time as there are cores for. */
import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Hyper, TableName } from "./schemes.ts";
import type { Outcome, Settings } from "./train.ts";

export interface Run {
  readonly table: TableName;
  readonly scheme: string;
  readonly seed: number;
  readonly hyper: Hyper;
}

/** What a process must know of all its runs. */
export interface Task {
  readonly data: readonly string[] | undefined;
  readonly vocabulary: number;
  readonly settings: Settings;
}

/** Runs them in so many processes, or in this one when it is one. */
export async function runAll(
  runs: readonly Run[],
  task: Task,
  jobs: number,
  done: (run: Run, outcome: Outcome) => void = () => {},
): Promise<Map<Run, Outcome>> {
  const outcomes = new Map<Run, Outcome>();
  const take = (run: Run, outcome: Outcome) => {
    outcomes.set(run, outcome);
    done(run, outcome);
  };
  if (jobs <= 1) {
    const { runner } = await import("./runner.ts");
    const one = runner(task);
    for (const run of runs) take(run, await one(run));
    return outcomes;
  }
  const waiting = [...runs];
  const children = Array.from({ length: Math.min(jobs, runs.length) }, () =>
    start(task),
  );
  try {
    await Promise.all(
      children.map(async (child) => {
        for (;;) {
          const run = waiting.shift();
          if (!run) return;
          take(run, await ask(child, run));
        }
      }),
    );
  } finally {
    for (const child of children) child.kill();
  }
  return outcomes;
}

function start(task: Task): ChildProcess {
  const child = fork(fileURLToPath(new URL("worker.ts", import.meta.url)), {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    serialization: "advanced",
  });
  child.send(task);
  return child;
}

const ask = (child: ChildProcess, run: Run): Promise<Outcome> =>
  new Promise((resolve, reject) => {
    const failed = () =>
      reject(
        new Error(
          `reproduce: the process of '${run.scheme}', seed ${run.seed}, ended early`,
        ),
      );
    child.once("exit", failed);
    child.once("message", (answer: Outcome | { error: string }) => {
      child.off("exit", failed);
      if ("error" in answer) reject(new Error(answer.error));
      else resolve(answer);
    });
    child.send(run);
  });
