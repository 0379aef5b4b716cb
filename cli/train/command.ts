import path from "node:path";
import {
  resolveConfig,
  run,
  Trainer,
  writeSafetensors,
  type TrainEvent,
} from "lowbit/trainer";
import type { Command } from "../command.ts";
import { openTerminal } from "../terminal.ts";
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
import { Screen } from "./screen.ts";
import { Tally } from "./summary.ts";
import { readText, type Text } from "./text.ts";

/** `lowbit train` */
export const train: Command = {
  help: trainHelp,
  async run(args) {
    const flags = parseFlags(args);
    // Everything that can be wrong is found before anything is written.
    const config = resolveConfig(flags.options);
    const folder = flags.out ?? defaultFolder(config.optimizer);
    const outputs = new Outputs(folder, flags.overwrite);
    const text = readText(flags.data);
    const reporter = chooseReporter(flags);
    const interrupt = catchInterrupts(() => reporter.interrupted());
    let trainer: Trainer | undefined;
    try {
      trainer = await Trainer.create(text.bytes, flags.options);
      await follow(trainer, text, flags, outputs, reporter, interrupt.signal);
    } finally {
      trainer?.dispose();
      interrupt.release();
    }
    return interrupt.code();
  },
};

function chooseReporter({ quiet, json }: Flags): Reporter {
  if (json) return jsonReporter;
  if (quiet) return quietReporter;
  return new Screen(openTerminal(process.stdout), process.stdout);
}

async function follow(
  trainer: Trainer,
  text: Text,
  flags: Flags,
  outputs: Outputs,
  reporter: Reporter,
  signal: AbortSignal,
): Promise<void> {
  reporter.start(trainer, text);
  const tally = new Tally();
  const samples: string[] = [];
  try {
    outputs.open();
    outputs.write("config.json", configFile(trainer, flags));
    for await (const event of run(trainer, signal)) {
      tally.add(event);
      reporter.event(event);
      if (event.kind === "sample")
        samples.push(`--- step ${event.step}\n${decode(event.text)}\n`);
      if (event.kind === "step" || event.kind === "validation")
        outputs.log(logLine(event));
    }
  } catch (error) {
    // Nothing learned, nothing to keep.
    if (trainer.steps === 0) outputs.discard();
    throw error;
  }
  const summary = tally.summary(trainer, text);
  outputs.closeLog();
  outputs.write("samples.txt", samples.join("\n"));
  outputs.write("model.safetensors", weightsFile(trainer));
  outputs.write("summary.json", `${JSON.stringify(summary, null, 2)}\n`);
  reporter.end(summary, path.relative(process.cwd(), outputs.folder) || ".");
}

/** What `--config` reads to repeat the run; files by their full names. */
function configFile(trainer: Trainer, { data }: Flags): string {
  const full = data?.map((name) => (name === "-" ? "-" : path.resolve(name)));
  const config = { ...(full ? { data: full } : {}), ...trainer.config };
  return `${JSON.stringify(config, null, 2)}\n`;
}

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

function weightsFile(trainer: Trainer): Uint8Array {
  const { layers, heads, width, context } = trainer.config;
  return writeSafetensors(
    Object.fromEntries(
      Object.entries(trainer.weights()).map(([name, { data, shape }]) => [
        name,
        { dtype: "F32" as const, shape, data },
      ]),
    ),
    {
      model: JSON.stringify({ layers, heads, width, context }),
      step: String(trainer.steps),
    },
  );
}
