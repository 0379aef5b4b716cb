import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import {
  InputError,
  resolveConfig,
  Split,
  trainRecipe,
  type TrainConfig,
} from "lowbit/trainer";
import type { Command } from "../command.ts";
import { Folder } from "../folder.ts";
import { cannotWrite, isSystemError } from "../system.ts";
import { openTerminal } from "../terminal.ts";
import { catchInterrupts } from "../train/interrupt.ts";
import { defaultFolder } from "../train/outputs.ts";
import { readText, type Text } from "../train/text.ts";
import { version } from "../version.ts";
import { runInChild } from "./child.ts";
import { parseCompareFlags, type CompareFlags } from "./flags.ts";
import { compareHelp } from "./help.ts";
import type { RunResult } from "./protocol.ts";
import { loadTemplate, report, type Comparison } from "./report.ts";
import { chooseReporter, type Reporter } from "./reporter.ts";
import { summarize } from "./summary.ts";

const files = ["report.html", "results.json", "config.json"];

/** `lowbit compare` */
export const compare: Command = {
  help: compareHelp,
  async run(args) {
    const flags = parseCompareFlags(args);
    // Everything that can be wrong is found before anything is written.
    const plans = planRuns(flags);
    const folder = new Folder(
      flags.out ?? defaultFolder("compare"),
      flags.overwrite,
      files,
    );
    const text = readText(flags.data);
    void new Split(text.bytes, plans[0]!.context);
    const template = loadTemplate();
    const reporter = chooseReporter(flags, openTerminal(process.stdout));
    const interrupt = catchInterrupts(() => reporter.interrupted());
    const { paths, remove } = keepInput(flags.data, text);
    const setting = { flags, plans, text, folder, template, reporter };
    // Also when Ctrl-C comes twice.
    process.once("exit", remove);
    try {
      folder.prepare();
      reporter.start(plans, text, flags);
      const failed = await runAll(setting, paths, interrupt.signal);
      return interrupt.code() || (failed > 0 ? 1 : 0);
    } finally {
      process.off("exit", remove);
      remove();
      folder.abandon();
      interrupt.release();
    }
  },
};

interface Setting {
  readonly flags: CompareFlags;
  readonly plans: readonly TrainConfig[];
  readonly text: Text;
  readonly folder: Folder;
  readonly template: string;
  readonly reporter: Reporter;
}

/** Every run, seed by seed, so that an early end leaves whole comparisons. */
function planRuns({ optimizers, seeds, options }: CompareFlags): TrainConfig[] {
  const first = resolveConfig(options);
  // More looks than `train` takes, for the curves.
  const evalEvery = options.evalEvery ?? Math.ceil(first.steps / 10);
  return Array.from({ length: seeds }, (_, i) => first.seed + i).flatMap(
    (seed) =>
      optimizers.map((optimizer) => {
        const all = { ...options, evalEvery, seed, optimizer };
        const config = resolveConfig(all);
        trainRecipe(config); // says what the optimizer does not have
        return config;
      }),
  );
}

/** Standard input can be read but once: its text goes to a file for the runs. */
function keepInput(data: readonly string[] | undefined, { bytes }: Text) {
  if (!data?.includes("-")) return { paths: data, remove: () => {} };
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "lowbit-compare-"));
  const file = path.join(folder, "text");
  fs.writeFileSync(file, bytes);
  return {
    paths: [file],
    remove: () => fs.rmSync(folder, { recursive: true, force: true }),
  };
}

/** @returns how many runs failed */
async function runAll(
  setting: Setting,
  data: readonly string[] | undefined,
  signal: AbortSignal,
): Promise<number> {
  const { flags, plans, folder, reporter } = setting;
  const done: (RunResult | undefined)[] = plans.map(() => undefined);
  let [next, failed, opened] = [0, 0, false];
  const start = performance.now();
  /** What there is so far, and why it is not on the disk, where it is not. */
  const keep = () => {
    const runs = done.filter((run) => run !== undefined);
    if (runs.length === 0) return undefined;
    const seconds = (performance.now() - start) / 1000;
    const comparison = compareRuns(setting, runs, seconds);
    try {
      if (!opened) folder.open();
      opened = true;
      writeAll(setting, comparison);
      return { comparison };
    } catch (error) {
      if (!isSystemError(error)) throw error;
      return { comparison, refused: cannotWrite(folder.path, error) };
    }
  };
  const refused = new AbortController();
  const either = AbortSignal.any([signal, refused.signal]);
  const work = async () => {
    while (next < plans.length && !either.aborted) {
      const index = next++;
      const config = plans[index]!;
      try {
        const job = {
          data,
          options: config,
          formatsOf: formatsOf(config, flags),
        };
        const run = await runInChild(job, either, (event) =>
          reporter.event(index, event),
        );
        done[index] = run;
        reporter.ran(index, run);
        const { refused } = keep()!;
        if (refused) reporter.notice(`${refused.message}; the runs go on`);
      } catch (error) {
        if (error instanceof InputError) {
          refused.abort();
          throw error;
        }
        failed++;
        reporter.failed(index, error as Error);
      }
    }
  };
  const ends = await Promise.allSettled(
    Array.from({ length: flags.jobs }, work),
  );
  for (const end of ends) if (end.status === "rejected") throw end.reason;
  const end = keep();
  if (end) {
    const place = path.relative(process.cwd(), folder.path) || ".";
    reporter.end(end.comparison, end.refused ? undefined : place);
    if (end.refused) throw end.refused;
  }
  return failed;
}

/** Whose formats are tried on a run's states: once, on float32 states. */
function formatsOf(
  { seed, optimizer }: TrainConfig,
  { optimizers, options }: CompareFlags,
): string[] {
  const first = Number(options.seed ?? 0);
  if (seed !== first || !/32bit$/i.test(optimizer)) return [];
  return optimizers.filter((other) => other !== optimizer);
}

function compareRuns(
  { flags, plans, text }: Setting,
  runs: readonly RunResult[],
  seconds: number,
): Comparison {
  const { optimizers, jobs } = flags;
  return {
    version: 1,
    created: new Date().toISOString(),
    lowbit: version(),
    node: process.version,
    machine: `${os.cpus()[0]?.model.trim() ?? "unknown processor"}, ${os.availableParallelism()} cores`,
    text: {
      description: text.description,
      files: text.files,
      bytes: text.bytes.length,
    },
    ...{ optimizers, jobs, planned: plans.length, seconds },
    summary: summarize(optimizers, runs),
    runs,
  };
}

function writeAll(
  { flags, plans, folder, template }: Setting,
  comparison: Comparison,
): void {
  const { optimizers, seeds, jobs } = flags;
  const full = flags.data?.map((name) =>
    name === "-" ? "-" : path.resolve(name),
  );
  const { optimizer: _, lr: __, minLr: ___, ...config } = plans[0]!;
  const { lr, minLr } = flags.options;
  folder.write(
    "config.json",
    json({
      ...(full ? { data: full } : {}),
      ...{ optimizers, seeds, jobs },
      ...config,
      ...(lr === undefined ? {} : { lr }),
      ...(minLr === undefined ? {} : { minLr }),
    }),
  );
  folder.write("results.json", json(comparison));
  folder.write("report.html", report(template, comparison));
}

const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
