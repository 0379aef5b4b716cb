import path from "node:path";
import {
  layoutNames,
  readState,
  writeState,
  type LayoutName,
  type OpenState,
  type StateFile,
} from "lowbit/io";
import { asInputError, InputError, nearestName } from "lowbit/trainer";
import type { Command } from "../command.ts";
import {
  aboutFile,
  checkOutput,
  openInput,
  writeOutput,
  type InputFile,
} from "../files.ts";
import { readFlags } from "../flags.ts";
import { percentage } from "../progress.ts";
import { readShapes } from "../shapes.ts";
import { openTerminal } from "../terminal.ts";
import { convertHelp } from "./help.ts";
import { describeConversion, jsonOfConversion } from "./report.ts";

interface ConvertFlags {
  readonly input: string;
  readonly output: string;
  readonly to: LayoutName;
  readonly from: LayoutName | undefined;
  readonly bits: number | "fp8" | undefined;
  readonly optimizer: string | undefined;
  readonly recipe: string | undefined;
  readonly step: number | undefined;
  readonly model: string | undefined;
  readonly overwrite: boolean;
  readonly json: boolean;
  readonly quiet: boolean;
}

/** A conversion that was made. */
export interface Conversion {
  readonly input: string;
  readonly inputBytes: number;
  readonly output: string;
  readonly to: LayoutName;
  readonly open: OpenState;
  readonly file: StateFile;
  /** 0, or that of Ctrl-C, when nothing was written. */
  readonly code: number;
}

/** `lowbit convert` */
export const convert: Command = {
  help: convertHelp,
  async run(args) {
    const flags = parse(args);
    const input = openInput(flags.input);
    try {
      const done = await run(input, flags);
      if (done.code !== 0) return done.code;
      if (flags.json) console.log(JSON.stringify(jsonOfConversion(done)));
      else if (!flags.quiet)
        console.log(describeConversion(done, openTerminal(process.stdout)));
    } finally {
      input.close();
    }
    return 0;
  },
};

async function run(input: InputFile, flags: ConvertFlags): Promise<Conversion> {
  const { output, to, from, bits, optimizer, recipe, step, model } = flags;
  if (path.resolve(output) === path.resolve(input.name))
    throw new InputError(
      "the file cannot be converted into itself; name another",
    );
  checkOutput(output, flags.overwrite);
  const shapes = model === undefined ? undefined : await readShapes(model);
  try {
    return await aboutFile(input.name, async () => {
      const open = await readState(input, {
        ...(from ? { from } : {}),
        ...(optimizer ? { optimizer } : {}),
        ...(step === undefined ? {} : { step }),
        ...(shapes ? { shapes } : {}),
      });
      const file = writeState(open.checkpoint, {
        to,
        ...(bits === undefined ? {} : { bits }),
        ...(recipe ? { recipe } : {}),
      });
      const progress = percentage(flags.json || flags.quiet);
      const code = await writeOutput(output, file.chunks(), (bytes) =>
        progress(bytes / file.size),
      );
      const inputBytes = input.size;
      return { input: input.name, inputBytes, output, to, open, file, code };
    });
  } catch (error) {
    throw asInputError(error);
  }
}

function parse(args: readonly string[]): ConvertFlags {
  const { texts, switches, positionals } = readFlags(
    args,
    {
      to: "text",
      from: "text",
      bits: "text",
      optimizer: "text",
      recipe: "text",
      step: "text",
      model: "text",
      overwrite: "switch",
      json: "switch",
      quiet: "switch",
    },
    { command: "convert" },
  );
  const [input, output, extra] = positionals;
  if (input === undefined || output === undefined)
    throw new InputError(
      "give the file to read and the file to write, as in lowbit convert in.safetensors out.safetensors --to lowbit",
    );
  if (extra !== undefined) throw new InputError(`unexpected '${extra}'`);
  if (texts.to === undefined)
    throw new InputError(`--to is missing: one of ${layoutNames.join(", ")}`);
  return {
    input,
    output,
    to: layoutOf("to", texts.to),
    from: texts.from === undefined ? undefined : layoutOf("from", texts.from),
    bits: bitsOf(texts.bits),
    optimizer: texts.optimizer,
    recipe: texts.recipe,
    step: stepOf(texts.step),
    model: texts.model,
    overwrite: switches.has("overwrite"),
    json: switches.has("json"),
    quiet: switches.has("quiet"),
  };
}

function layoutOf(flag: string, text: string): LayoutName {
  const found = layoutNames.find((name) => name === text.toLowerCase());
  if (found) return found;
  const guess = nearestName(text, layoutNames);
  throw new InputError(
    `--${flag} '${text}' is no layout; ${guess ? `did you mean '${guess}'?` : `there are ${layoutNames.join(", ")}`}`,
  );
}

function bitsOf(text: string | undefined): number | "fp8" | undefined {
  if (text === undefined || text === "fp8") return text;
  const bits = Number(text);
  if (
    !/^\d+$/.test(text) ||
    !(bits === 16 || bits === 32 || (bits >= 2 && bits <= 8))
  )
    throw new InputError(
      `--bits must be 2 to 8, 16, 32 or fp8, given '${text}'`,
    );
  return bits;
}

function stepOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,15}$/.test(text))
    throw new InputError(`--step must be a count of steps, given '${text}'`);
  return Number(text);
}
