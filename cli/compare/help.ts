import { optionName, type Option } from "lowbit/trainer";
import { helpRow as row } from "../help.ts";
import { describeOption, placeholder } from "../train/help.ts";
import { comparedOptions } from "./flags.ts";

const headings: Partial<Record<Option["group"], string>> = {
  model: "Model",
  training: "Training",
  optimizer: "Optimizer",
  machine: "Machine",
};

/** Text of `lowbit compare --help`. */
export function compareHelp(): string {
  const groups = Object.entries(headings).map(([group, heading]) =>
    [
      `${heading}, the same for all runs:`,
      ...comparedOptions
        .filter(([, option]) => option.group === group)
        .map(([key, option]) =>
          row(
            `--${optionName(key)} ${placeholder(option)}`,
            key === "evalEvery"
              ? "Steps between looks at the validation loss; 0: only before and after (default: a tenth of the steps)"
              : describeOption(option),
          ),
        ),
    ].join("\n"),
  );
  return `Trains the same small GPT from the same seeds with several optimizers, one after
another, and compares them: a table, and a report with loss curves, memory and
quantization errors in one HTML file that needs no network.

Usage: lowbit compare [options]

  lowbit compare                              8-bit and 4-bit AdamW against 32-bit
  lowbit compare --seeds 3                    three seeds, for the spread
  lowbit compare --optimizers adamw32bit,lion8bit,sgd8bit --data book.txt
  lowbit compare --config runs/a/config.json  a comparison again

What is compared:
${[
  row(
    "--optimizers A,B,...",
    "Recipes; the first is what the others are held against (default: adamw32bit,adamw8bit,adamw4bit,factor4bit)",
  ),
  row(
    "--seeds N",
    "Runs of each, with seeds from --seed on; from 2 on the table has standard deviations (default: 1)",
  ),
  row(
    "--jobs N",
    "Runs at a time, each a process; more than 1 disturbs the times (default: 1)",
  ),
].join("\n")}

Text and outputs:
${[
  row(
    "--data FILE...",
    "Files, folders, globs in quotes, or - for standard input (default: the lib*.d.ts files of the installed typescript)",
  ),
  row("--out DIR", "Where outputs go (default: runs/<time>-compare)"),
  row("--overwrite", "Replace the outputs of an earlier comparison there"),
  row(
    "--config FILE",
    "Options from a JSON file, as the config.json of a comparison or a run; flags win",
  ),
  row("--quiet", "Print only where the outputs are"),
  row("--json", "Print one JSON object a line, for programs"),
  row("--help, --version", ""),
].join("\n")}

${groups.join("\n\n")}

Each recipe takes the learning rate that suits it unless --lr is given. The numbers
are those of lowbit train with the same options: same seed, same run. State is counted
in real buffers; times are medians over the steps after the first; peak memory is the
whole process's, Node and jax-js included.

Ctrl-C ends after the step under way and reports what is done; twice ends at once.

Outputs: report.html, results.json (all numbers) and config.json (repeats it).

Exit code 0: done; 1: a run failed; 2: what was asked for cannot work; 130: Ctrl-C.`;
}
