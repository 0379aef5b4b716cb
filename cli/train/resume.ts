/** `--resume DIR`: what a run was, and whether it can go on with what is given. */
import fs from "node:fs";
import path from "node:path";
import {
  InputError,
  optionName,
  resolveConfig,
  type TrainConfig,
} from "lowbit/trainer";
import { look } from "../system.ts";
import { Checkpoints, type RunState } from "./checkpoints.ts";
import { sha256 } from "./durable.ts";
import { checkData, readConfig, type Flags } from "./flags.ts";
import type { Text } from "./text.ts";

/** Options that may change midway: they do not decide what is learned. */
const FREE: readonly (keyof TrainConfig)[] = [
  "device",
  "threads",
  "evalEvery",
  "saveEvery",
  "sampleLength",
  "prompt",
  "temperature",
];

/** A run that goes on. */
export interface Past {
  readonly folder: string;
  /** Of the whole run, with what may change as given now. */
  readonly options: Readonly<Record<string, unknown>>;
  readonly data: readonly string[] | undefined;
  readonly checkpoints: Checkpoints;
  /** Undefined when the run ended before its first checkpoint: it begins again. */
  readonly from: { readonly name: string; readonly run: RunState } | undefined;
  /** Checkpoints that cannot be used, and why, in words. */
  readonly notices: readonly string[];
}

/** @throws InputError when there is no run, or it cannot go on. Nothing is written. */
export function openRun(flags: Flags, folder: string): Past {
  const found = look(folder);
  if (!found) throw new InputError(`--resume: there is no folder '${folder}'`);
  if (!found.isDirectory())
    throw new InputError(
      `--resume '${folder}' is a file; give the folder of a run`,
    );
  const checkpoints = new Checkpoints(path.resolve(folder));
  const { from, notices } = newest(checkpoints, folder);
  const { data, ...written } = readWritten(folder);
  if (written.optimizer === undefined && !from)
    throw new InputError(
      `--resume '${folder}' is no run of lowbit train: it has neither a config.json nor checkpoints`,
    );
  if (from) checkWritten(folder, from.run.config, written);
  const began = from ? from.run.config : resolveConfig(written);
  const config = checkOptions(folder, began, flags.options);
  if (from) checkUnfinished(folder, config, from.run.position.step);
  return {
    folder,
    options: { ...config },
    data: flags.data ?? (from ? from.run.data : checkData(data)),
    checkpoints,
    from,
    notices,
  };
}

/** The newest checkpoint that is whole. */
function newest(checkpoints: Checkpoints, folder: string) {
  const names = checkpoints.names();
  const notices: string[] = [];
  for (const name of names)
    try {
      return { from: { name, run: checkpoints.readRun(name) }, notices };
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      notices.push(`${name} cannot be used: ${error.message}`);
    }
  if (names.length > 0)
    throw new InputError(
      `--resume '${folder}' has no checkpoint that can be used: ${notices.join("; ")}`,
    );
  return { from: undefined, notices };
}

/** The run's config.json; nothing where there is none. */
function readWritten(folder: string): Record<string, unknown> {
  const file = path.join(folder, "config.json");
  return fs.existsSync(file) ? readConfig(file) : {};
}

function checkWritten(
  folder: string,
  saved: TrainConfig,
  written: Readonly<Record<string, unknown>>,
): void {
  for (const [key, value] of Object.entries(written))
    if (!FREE.includes(key as never) && value !== saved[key as never])
      throw new InputError(
        `--resume: config.json in '${folder}' has been changed: it says ${key} ${JSON.stringify(value)}, and the run was saved with ${JSON.stringify(saved[key as never])}; ${howElse(folder)}`,
      );
}

function checkOptions(
  folder: string,
  began: TrainConfig,
  given: Readonly<Record<string, unknown>>,
): TrainConfig {
  const config = resolveConfig({ ...began, ...given });
  for (const key of Object.keys(given) as (keyof TrainConfig)[]) {
    if (config[key] === began[key] || FREE.includes(key)) continue;
    const name = optionName(key);
    if (key === "steps" && began.schedule === "constant") continue;
    const why =
      key === "steps"
        ? ", as its learning rate falls towards the last step"
        : "";
    throw new InputError(
      `--resume: the run in '${folder}' has ${name} ${JSON.stringify(began[key])}, given ${JSON.stringify(config[key])}; it can only go on as it began${why}: leave --${name} out, or ${howElse(folder)}`,
    );
  }
  return config;
}

const howElse = (folder: string) =>
  `begin another run with --config ${path.join(folder, "config.json")}`;

function checkUnfinished(
  folder: string,
  { steps }: TrainConfig,
  taken: number,
): void {
  const file = path.join(folder, "summary.json");
  if (taken < steps || !fs.existsSync(file)) return;
  throw new InputError(
    `--resume: the run in '${folder}' has finished, all ${steps} steps; ${howElse(folder)}`,
  );
}

/** @throws InputError when the text is not the one that the run began with. */
export function checkText(run: RunState, text: Text): void {
  const { bytes, sha256: hash } = run.text;
  if (text.bytes.length === bytes && sha256(text.bytes) === hash) return;
  throw new InputError(
    `--resume: the text has changed: the run began with ${bytes} bytes (sha256 ${hash.slice(0, 12)}...), and ${text.description} has ${text.bytes.length}${text.bytes.length === bytes ? " others" : ""}; a run can only go on with the text it began with`,
  );
}
