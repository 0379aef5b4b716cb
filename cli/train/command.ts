import path from "node:path";
import {
  FileError,
  InputError,
  resolveConfig,
  run,
  Trainer,
  type TrainEvent,
} from "lowbit/trainer";
import type { Command } from "../command.ts";
import { cannotWrite, isSystemError } from "../system.ts";
import { openTerminal } from "../terminal.ts";
import { Checkpoints } from "./checkpoints.ts";
import { sha256 } from "./durable.ts";
import { parseFlags, type Flags } from "./flags.ts";
import { trainHelp } from "./help.ts";
import { catchInterrupts } from "./interrupt.ts";
import { defaultFolder, Outputs } from "./outputs.ts";
import {
  decode,
  jsonReporter,
  quietReporter,
  type Reporter,
} from "./reporter.ts";
import { checkText, openRun, type Past } from "./resume.ts";
import { Screen } from "./screen.ts";
import { Tally, type Summary } from "./summary.ts";
import { readText, type Text } from "./text.ts";

/** A run that is about to begin, or to go on. */
interface Start {
  readonly trainer: Trainer;
  readonly text: Text;
  readonly data: readonly string[] | undefined;
  readonly outputs: Outputs;
  readonly checkpoints: Checkpoints;
  readonly reporter: Reporter;
  readonly signal: AbortSignal;
  readonly past: Past | undefined;
}

/** `lowbit train` */
export const train: Command = {
  help: trainHelp,
  async run(args) {
    const flags = parseFlags(args);
    // Everything that can be wrong is found before anything is written.
    const past =
      flags.resume === undefined ? undefined : openRun(flags, flags.resume);
    const options = past?.options ?? flags.options;
    const config = resolveConfig(options);
    const folder = past?.folder ?? flags.out ?? defaultFolder(config.optimizer);
    const fresh = flags.overwrite ? "overwrite" : "fresh";
    const outputs = new Outputs(folder, past ? "resume" : fresh);
    const data = past?.data ?? flags.data;
    const text = readText(data);
    if (past?.from) checkText(past.from.run, text);
    const reporter = chooseReporter(flags);
    const interrupt = catchInterrupts(() => reporter.interrupted());
    let trainer: Trainer | undefined;
    try {
      trainer = await Trainer.create(text.bytes, options);
      await restore(trainer, past);
      await follow({
        trainer,
        text,
        data,
        outputs,
        checkpoints: new Checkpoints(outputs.folder),
        reporter,
        signal: interrupt.signal,
        past,
      });
    } finally {
      trainer?.dispose();
      interrupt.release();
    }
    return interrupt.code();
  },
};

/** Puts a trainer where its run was. */
async function restore(trainer: Trainer, past: Past | undefined) {
  if (!past?.from) return;
  const { name, run } = past.from;
  const saved = past.checkpoints.open(name, run);
  try {
    await trainer.restore(saved);
  } catch (error) {
    if (!(error instanceof FileError)) throw error;
    throw new InputError(`--resume: ${name}: ${error.message}`, {
      cause: error,
    });
  } finally {
    saved.close();
  }
}

function chooseReporter({ quiet, json }: Flags): Reporter {
  if (json) return jsonReporter;
  if (quiet) return quietReporter;
  return new Screen(openTerminal(process.stdout), process.stdout);
}

async function follow(start: Start): Promise<void> {
  const { trainer, text, outputs, reporter, past } = start;
  const before = past?.from?.run;
  reporter.start(trainer, text);
  for (const notice of past?.notices ?? []) reporter.notice(notice);
  const tally = new Tally(before?.progress);
  const samples = [...(before?.samples ?? [])];
  const looked = before?.progress.looked;
  let behind = false;
  try {
    outputs.open(
      ({ step, validationLoss }) =>
        step! <=
        (validationLoss === undefined ? trainer.steps : (looked ?? -1)),
    );
    past?.checkpoints.putAside(past.notices.length);
    await outputs.write("config.json", configFile(start));
    for await (const event of run(trainer, start.signal, looked)) {
      tally.add(event);
      if (event.kind === "sample")
        samples.push(`--- step ${event.step}\n${decode(event.text)}\n`);
      if (event.kind === "step" || event.kind === "validation") {
        const refused = outputs.log(logLine(event));
        if (refused && !behind)
          reporter.notice(
            `log.jsonl is behind from step ${event.step} on: ${refused.message}; its lines wait for room`,
          );
        behind = refused !== undefined;
      }
      if (event.kind === "save" && !(await save(start, tally, samples)))
        continue;
      reporter.event(event);
    }
  } catch (error) {
    // Nothing learned, nothing to keep.
    if (trainer.steps === 0 && !past) outputs.discard();
    throw isSystemError(error) ? cannotWrite(outputs.folder, error) : error;
  }
  const summary = tally.summary(trainer, text);
  const folder = path.relative(process.cwd(), outputs.folder) || ".";
  const failure = await writeEnd(start, summary, samples);
  reporter.end(summary, folder, failure === undefined);
  if (failure)
    throw new InputError(
      `not all outputs could be written to '${folder}': ${failure.message}; ${howToFinish(start, folder)}`,
      { cause: failure },
    );
}

/** What the run came to, the dearest first. @returns why something is missing */
async function writeEnd(
  { trainer, outputs }: Start,
  summary: Summary,
  samples: readonly string[],
): Promise<Error | undefined> {
  const failures: Error[] = [];
  const attempt = async (write: () => void | Promise<void>) => {
    try {
      await write();
    } catch (error) {
      if (!isSystemError(error)) throw error;
      failures.push(error);
    }
  };
  await attempt(() => outputs.write("model.safetensors", trainer.modelFile()));
  await attempt(() => outputs.write("samples.txt", samples.join("\n")));
  await attempt(() => outputs.closeLog());
  // Last, and only of a whole run: it says that the run has ended.
  if (failures.length === 0)
    await attempt(() =>
      outputs.write("summary.json", `${JSON.stringify(summary, null, 2)}\n`),
    );
  return failures[0];
}

function howToFinish({ checkpoints }: Start, folder: string): string {
  const [last] = checkpoints.names();
  return last
    ? `make room, then lowbit train --resume ${folder} goes on from ${last}`
    : "there is no checkpoint to go on from (--save-every makes some)";
}

/** Saves a checkpoint. A disk that is full today must not end the run. */
async function save(
  { trainer, text, data, outputs, checkpoints, reporter }: Start,
  tally: Tally,
  samples: readonly string[],
): Promise<boolean> {
  try {
    outputs.flushLog();
    await checkpoints.save({
      run: {
        position: trainer.position,
        config: trainer.config,
        data: fullNames(data),
        text: { bytes: text.bytes.length, sha256: sha256(text.bytes) },
        progress: tally.progress,
        samples,
      },
      model: trainer.modelFile(),
      optimizer: trainer.optimizerFile(),
    });
    return true;
  } catch (error) {
    if (!isSystemError(error)) throw error;
    const [last] = checkpoints.names();
    reporter.notice(
      `no checkpoint could be saved at step ${trainer.steps}: ${error.message}; ${last ? `the last is ${last}` : "there is none yet"}`,
    );
    return false;
  }
}

/** What `--config` reads to repeat the run. */
function configFile({ trainer, data }: Start): string {
  const full = fullNames(data);
  const config = { ...(full ? { data: full } : {}), ...trainer.config };
  return `${JSON.stringify(config, null, 2)}\n`;
}

/** Files as they are called from any folder. */
const fullNames = (data: Start["data"]) =>
  data?.map((name) => (name === "-" ? "-" : path.resolve(name)));

function logLine(
  event: Extract<TrainEvent, { kind: "step" | "validation" }>,
): Record<string, unknown> {
  const { step, loss } = event;
  if (event.kind === "validation") return { step, validationLoss: loss };
  const { lr, gradNorm, nonFinite, tokens, milliseconds } = event;
  return {
    step,
    loss,
    lr,
    ...(gradNorm === undefined ? {} : { gradNorm }),
    ...(nonFinite === 0 ? {} : { nonFinite }),
    tokensPerSecond: Math.round((1000 * tokens) / milliseconds),
  };
}
