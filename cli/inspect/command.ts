import {
  openTensors,
  readState,
  recogniseLayout,
  type TensorSource,
} from "lowbit/io";
import { asInputError, InputError } from "lowbit/trainer";
import type { Command } from "../command.ts";
import { aboutFile, openInput, type InputFile } from "../files.ts";
import { readFlags } from "../flags.ts";
import { helpRow } from "../help.ts";
import { percentage } from "../progress.ts";
import { openTerminal } from "../terminal.ts";
import { measureModel, measureState } from "./measure.ts";
import { showModel, showState } from "./show.ts";

/** `lowbit inspect` */
export const inspect: Command = {
  help,
  async run(args) {
    const { texts, switches, positionals } = readFlags(
      args,
      { optimizer: "text", all: "switch", json: "switch" },
      { command: "inspect" },
    );
    const [name, extra] = positionals;
    if (name === undefined)
      throw new InputError(
        "give the file to look at, as in lowbit inspect run.safetensors",
      );
    if (extra !== undefined) throw new InputError(`unexpected '${extra}'`);
    const file = openInput(name);
    try {
      await aboutFile(name, () =>
        look(file, {
          optimizer: texts.optimizer,
          all: switches.has("all"),
          json: switches.has("json"),
        }),
      );
    } catch (error) {
      throw asInputError(error);
    } finally {
      file.close();
    }
    return 0;
  },
};

interface Wanted {
  readonly optimizer: string | undefined;
  readonly all: boolean;
  readonly json: boolean;
}

async function look(
  file: InputFile,
  { optimizer, all, json }: Wanted,
): Promise<void> {
  const source = await openTensors(file);
  const terminal = openTerminal(process.stdout);
  if (recogniseLayout(source) === undefined)
    return lookAtModel(file, source, { optimizer, all, json });
  const open = await readState(file, optimizer ? { optimizer } : {});
  const measured = await measureState(file, open, percentage(json));
  console.log(
    json ? JSON.stringify(measured) : showState(measured, terminal, all),
  );
}

async function lookAtModel(
  file: InputFile,
  source: TensorSource,
  { all, json }: Wanted,
): Promise<void> {
  const measured = await measureModel(file, source, percentage(json));
  const terminal = openTerminal(process.stdout);
  console.log(
    json ? JSON.stringify(measured) : showModel(measured, terminal, all),
  );
}

function help(): string {
  return `Shows what is in a checkpoint: lowbit's own, an optimizer's state dict of
bitsandbytes, torchao, lpmm or PyTorch saved as safetensors, or any other
safetensors file.

Usage: lowbit inspect FILE [options]

  lowbit inspect run.safetensors
  lowbit inspect bnb.safetensors --json | jq .optimizer

${[
  helpRow(
    "--optimizer NAME",
    "Whose state it is, where the file does not say: adamw, sgd, lion, ...",
  ),
  helpRow("--all", "Every tensor; by default the 24 largest"),
  helpRow("--json", "Print one JSON object, for programs"),
  helpRow("--help, --version", ""),
].join("\n")}

Columns of a state:
  zeros       part of the values that are exactly 0
  at the end  part of the codes that are an outermost one: the largest of a block always
              is; many more mean that small values are lost
  scales      smallest, median and largest scale that is not 0
  error       root mean square error that quantization is expected to have cost, from the
              widths of the codes in use, in per cent of the values' own size

Exit code 0: done; 2: the file is not one, or is broken.`;
}
