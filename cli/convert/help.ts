import { helpRow } from "../help.ts";

/** Text of `lowbit convert --help`. */
export const convertHelp =
  () => `Converts the state of an optimizer between lowbit's checkpoints and the state dicts
of Python libraries, saved as safetensors. Codes that the other layout can hold stay
as they are; what must be quantized anew is reported with its error.

Usage: lowbit convert IN OUT --to LAYOUT [options]

  lowbit convert bnb.safetensors run.safetensors --to lowbit
  lowbit convert run.safetensors ao.safetensors --to torchao
  lowbit convert adam.safetensors adam8.safetensors --to bitsandbytes --bits 8
  lowbit convert sgd.safetensors run.safetensors --to lowbit --optimizer sgd --step 500

${[
  helpRow(
    "--to LAYOUT",
    "lowbit, bitsandbytes, torchao, lpmm, or float32 (PyTorch's exp_avg and exp_avg_sq)",
  ),
  helpRow("--from LAYOUT", "Layout of IN (default: recognised by its tensors)"),
  helpRow(
    "--bits N",
    "Bits of the states of larger tensors: 8 in bitsandbytes, 4, 8 or fp8 in torchao, 4 in lpmm, 2 to 8 or 16 in lowbit; 32 everywhere (default: what they have, as far as the layout holds it)",
  ),
  helpRow(
    "--recipe NAME",
    "With --to lowbit: store states as this recipe does, as adamw4bit (default: as they are)",
  ),
  helpRow(
    "--optimizer NAME",
    "Whose state it is, where the file does not say: adamw, sgd, lion, ...",
  ),
  helpRow("--step N", "Steps taken, where the file has no count"),
  helpRow(
    "--model FILE",
    "The model as safetensors, for the shapes of flat 4-bit codes",
  ),
  helpRow("--overwrite", "Replace OUT"),
  helpRow("--quiet", "Print nothing"),
  helpRow("--json", "Print one JSON object, for programs"),
  helpRow("--help, --version", ""),
].join("\n")}

The keys of each layout, and the Python that saves and loads them: docs/interchange.md.

Exit code 0: done; 2: what was asked for cannot work; 130: Ctrl-C, nothing written.`;
