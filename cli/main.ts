#!/usr/bin/env node
// The command line: finds the subcommand, and turns errors into exit codes.
//
//   0    done
//   1    a mistake in lowbit; the stack says where
//   2    what was asked for cannot work; one sentence says why
//   130  ended by Ctrl-C

import { InputError, nearestName } from "lowbit/trainer";
import { commands } from "./commands.ts";
import { isSystemError } from "./system.ts";
import { version } from "./version.ts";

async function main(args: readonly string[]): Promise<number> {
  // `lowbit help`, `lowbit help train`, as people try.
  const asked = args[0] === "help" ? [...args.slice(1, 2), "--help"] : args;
  const [name, ...rest] = asked;
  if (name === undefined || name === "--help" || name === "-h") {
    console.log(help());
    return name === undefined ? 2 : 0;
  }
  if (name === "--version" || name === "-v") {
    console.log(version());
    return 0;
  }
  if (!Object.hasOwn(commands, name)) throw unknownCommand(name);
  const command = await commands[name]!.load();
  const end = rest.indexOf("--");
  const flags = end < 0 ? rest : rest.slice(0, end);
  if (flags.includes("--help") || flags.includes("-h")) {
    console.log(command.help());
    return 0;
  }
  if (flags.includes("--version")) {
    console.log(version());
    return 0;
  }
  return command.run(rest);
}

function unknownCommand(name: string): InputError {
  const names = Object.keys(commands);
  const guess = nearestName(name, names);
  return new InputError(
    `unknown command '${name}'; ${guess ? `did you mean '${guess}'?` : "lowbit --help lists them all"}`,
  );
}

function help(): string {
  const rows = Object.entries(commands).map(
    ([name, { summary }]) => `  ${name.padEnd(10)}${summary}`,
  );
  return `lowbit ${version()}: low-bit optimizer state for training in JavaScript

Usage: lowbit <command> [options]

Commands:
${rows.join("\n")}

lowbit <command> --help explains a command; lowbit --version prints the version.`;
}

// A reader that has seen enough, as `head`, is no mistake of ours.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
});

main(process.argv.slice(2)).then(
  (code) => (process.exitCode = code),
  (error: unknown) => {
    // What the system refuses is no mistake of ours, either.
    const isTheirs = error instanceof InputError || isSystemError(error);
    console.error(isTheirs ? `lowbit: ${error.message}` : error);
    process.exitCode = isTheirs ? 2 : 1;
  },
);
