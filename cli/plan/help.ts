import { dtypes, hosts, presets, publicModelNames } from "lowbit/plan";
import { helpRow as row } from "../help.ts";
import { wrap } from "../terminal.ts";

/** Text of `lowbit plan --help`. */
export const planHelp =
  () => `Tells what training a model takes, by recipe, before anything is allocated:
parameters, gradients, optimizer state, activations, temporaries; what fits into a
memory, and the largest model that does.

Usage: lowbit plan [MODEL] [options]

  lowbit plan gpt2-medium --memory 8GB
  lowbit plan config.json --memory 24GiB --batch 4 --context 512
  lowbit plan --params 7B --layers 32 --width 4096 --memory 80GB --dtype bfloat16
  lowbit plan --memory 16GB                   the largest public models that fit
  lowbit plan --preset paper1-table2          the table of a paper, computed

MODEL is one of
  a Hugging Face config.json (gpt2, llama, mistral, qwen, qwen2, qwen3, bert, roberta,
  xlm-roberta, opt, t5, mt5), or that of a lowbit train run
  a .safetensors file, a .safetensors.index.json, or a folder with these
${wrap(`a name: ${publicModelNames().join(", ")}`, 82)
  .map((line) => `  ${line}`)
  .join("\n")}

A model by its sizes:
${[
  row(
    "--params N",
    "Parameters: 7B, 125M (default: what layers and width come to)",
  ),
  row("--layers N", "Blocks of attention and MLP (default: width / 128)"),
  row(
    "--width N",
    "Size of the residual stream (default: what --params comes to)",
  ),
  row(
    "--heads N",
    "Attention heads (default: of 64 below a width of 2048, else 128)",
  ),
  row("--vocabulary N", "Tokens (default: 32000)"),
].join("\n")}

What is asked:
${[
  row(
    "--memory SIZE",
    "What there is: 24GB is 24 x 1000^3 bytes, 24GiB is 24 x 1024^3, as a card sold with 24 GB has",
  ),
  row("--reserve SIZE", "What something else takes of it (default: 0)"),
  row(
    "--optimizers A,B,...",
    "Recipes (default: adamw32bit,adamw8bit,adamw4bit,factor4bit)",
  ),
  row("--batch N", "Sequences in a batch (default: 1)"),
  row(
    "--context N",
    "Tokens in a sequence (default: 1024, or the model's own limit when that is less)",
  ),
  row(
    "--dtype NAME",
    `${Object.keys(dtypes).join(", ")}; mixed is float32 with a 16-bit copy of the parameters and 16-bit activations (default: float32)`,
  ),
  row("--checkpointing", "Keep only each layer's input for the backward pass"),
  row(
    "--attention NAME",
    "standard keeps the attention's weights, flash does not (default: standard)",
  ),
  row(
    "--activations SIZE",
    "Bytes of activations, where you know better, or for other models than transformers",
  ),
  row("--lora RANK", "Train adapters of this rank in the model's place"),
  row(
    "--host NAME",
    `${hosts.join(", ")}: whose temporaries and activations count; with tfjs a line for its own Adam, too (default: lowbit; jax for a lowbit train run)`,
  ),
  row(
    "--preset NAME",
    `A paper's table of largest models: ${Object.keys(presets).join(", ")}`,
  ),
  row("--json", "One JSON object, for programs"),
  row("--help, --version", ""),
].join("\n")}

State is counted by the rules of the library: tensors below 4096 elements keep 32-bit
state. Activations are those of arXiv 2205.05198, section 4.1, tensor by tensor. The
total is parameters, gradients, state, and the larger of activations and temporaries,
which never exist at the same time.

Exit code 0: done; 2: what was asked for cannot work.`;
