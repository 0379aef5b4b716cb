import type { CommandEntry } from "./command.ts";

/** Every subcommand. A new one is a file and a line here. */
export const commands: Readonly<Record<string, CommandEntry>> = {
  train: {
    summary: "train a small GPT on text and see what low-bit state saves",
    load: async () => (await import("./train/command.ts")).train,
  },
  compare: {
    summary: "train with several optimizers and compare them, with a report",
    load: async () => (await import("./compare/command.ts")).compare,
  },
  plan: {
    summary: "tell what training a model takes, and which models fit",
    load: async () => (await import("./plan/command.ts")).plan,
  },
  convert: {
    summary: "convert optimizer state to and from bitsandbytes, torchao, lpmm",
    load: async () => (await import("./convert/command.ts")).convert,
  },
  inspect: {
    summary: "show what is in a checkpoint: formats, bytes, errors, codes",
    load: async () => (await import("./inspect/command.ts")).inspect,
  },
  doctor: {
    summary: "say what this machine offers, test every engine, measure it",
    load: async () => (await import("./doctor/command.ts")).doctor,
  },
};
