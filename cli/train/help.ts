import { optionName, trainOptions, type Option } from "lowbit/trainer";
import { helpRow as row } from "../help.ts";

const headings = {
  model: "Model",
  training: "Training",
  optimizer: "Optimizer",
  sample: "Generated text",
  machine: "Machine",
} as const;

/** Text of `lowbit train --help`. */
export function trainHelp(): string {
  const groups = Object.entries(headings).map(([group, heading]) => {
    const rows = Object.entries(trainOptions)
      .filter(([, option]) => option.group === group)
      .map(([key, option]) =>
        row(
          `--${optionName(key)} ${placeholder(option)}`,
          describeOption(option),
        ),
      );
    return [`${heading}:`, ...rows].join("\n");
  });
  return `Trains a small GPT, byte by byte, on text of yours, and shows what the optimizer's
low-bit state saves. Without any option it takes about two minutes on two cores.

Usage: lowbit train [options]

  lowbit train                             TypeScript's declaration files as text
  lowbit train --data book.txt             a text of yours
  lowbit train --data src --steps 1000     every file in a folder
  lowbit train --optimizer adamw4bit       4 bits instead of 8
  lowbit train --save-every 100            with checkpoints; after a crash, or Ctrl-C:
  lowbit train --resume runs/a             the run goes on as if nothing had happened
  lowbit train --config runs/a/config.json --seed 1      a run again, with another seed

Text and outputs:
${[
  row(
    "--data FILE...",
    "Files, folders (with all in them), globs in quotes, or - for standard input. The last tenth is held out: training never sees it, and the validation loss is measured there (default: the lib*.d.ts files of the installed typescript)",
  ),
  row("--out DIR", "Where outputs go (default: runs/<time>-<optimizer>)"),
  row("--overwrite", "Replace the outputs of an earlier run in that folder"),
  row(
    "--config FILE",
    "Options from a JSON file, as the config.json of a run; flags win",
  ),
  row(
    "--resume DIR",
    "Go on with the run in that folder from its last checkpoint: the same text and the same options, bit for bit as without the stop. Only device, threads, eval-every, save-every and what concerns generated text may be given anew (and steps, with a constant schedule)",
  ),
  row("--quiet", "Print only where the outputs are"),
  row("--json", "Print one JSON object a line, for programs"),
  row("--help, --version", ""),
].join("\n")}

${groups.join("\n\n")}

The model is computed by jax-js (npm install @jax-js/jax), the optimizer by lowbit.
  wasm    WebAssembly with threads; works everywhere.
  webgpu  model and optimizer on the GPU, where gradients and state stay; in Node with
          npm install webgpu. It pays for models larger than the default.
  cpu     plain JavaScript, a hundred times slower: to check the others on tiny models.

Ctrl-C ends after the step under way, saves a checkpoint and writes the outputs;
twice ends at once.

Outputs: model.safetensors (float32), log.jsonl (one line a step), samples.txt,
config.json (repeats the run) and summary.json; in checkpoints/ the last two.

Exit code 0: done; 2: what was asked for cannot work; 130: ended by Ctrl-C.`;
}

export function placeholder(option: Option): string {
  if (option.kind === "text") return "TEXT";
  if (option.kind === "choice") return "NAME";
  return option.kind === "integer" ? "N" : "X";
}

/** A default that shows: not the line break, which has its own words. */
export function describeOption({ help, default: value }: Option): string {
  if (value === undefined || /default/.test(help)) return help;
  return `${help} (default: ${value})`;
}
