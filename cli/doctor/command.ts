import { InputError } from "lowbit/trainer";
import type { Command } from "../command.ts";
import { readFlags } from "../flags.ts";
import { helpRow } from "../help.ts";
import { openTerminal } from "../terminal.ts";
import { examine, engineNames, type EngineName } from "./examine.ts";
import { describeMachine } from "./machine.ts";
import { probe, type EngineReport } from "./probe.ts";
import { showEngine, showMachine, showVerdict } from "./show.ts";

/** `lowbit doctor` */
export const doctor: Command = {
  help,
  async run(args) {
    const { texts, switches } = readFlags(
      args,
      { engine: "text", limit: "text", json: "switch", probe: "switch" },
      { command: "doctor", stray: "lowbit doctor takes only options" },
    );
    const chosen = engineOf(texts.engine);
    const limit = limitOf(texts.limit);
    // What a child process runs: prints what it finds as it finds it.
    if (switches.has("probe")) {
      await examine(chosen ?? "wasm", (part) =>
        console.log(JSON.stringify(part)),
      );
      return 0;
    }
    const machine = describeMachine();
    const terminal = openTerminal(process.stdout);
    const json = switches.has("json");
    if (!json) console.log(showMachine(machine, terminal));
    const reports: EngineReport[] = [];
    for (const name of chosen ? [chosen] : engineNames) {
      const report = await probe(name, limit);
      reports.push(report);
      if (!json) console.log(showEngine(report, terminal));
    }
    const verdict = judge(reports);
    console.log(
      json
        ? JSON.stringify({ ...verdict, machine, engines: reports })
        : showVerdict(verdict, reports, terminal),
    );
    return verdict.ok ? 0 : 1;
  },
};

export interface Verdict {
  /** Whether every engine that is there computes what the reference does. */
  readonly ok: boolean;
  /** The device that createOptimizer takes when none is given, and whether it works; null when it was not tried. */
  readonly device: "wasm";
  readonly usable: boolean | null;
}

function judge(reports: readonly EngineReport[]): Verdict {
  const wasm = reports.find(({ name }) => name === "wasm");
  return {
    ok: reports.every(({ state }) => state !== "failed"),
    device: "wasm",
    usable: wasm ? wasm.state === "passed" : null,
  };
}

function engineOf(text: string | undefined): EngineName | undefined {
  if (text === undefined) return undefined;
  const found = engineNames.find((name) => name === text);
  if (found) return found;
  throw new InputError(
    `--engine must be one of ${engineNames.join(", ")}, given '${text}'`,
  );
}

/** A minute is far beyond what a healthy engine takes. */
function limitOf(text = "60"): number {
  const seconds = Number(text);
  if (!(seconds >= 1 && seconds <= 3600))
    throw new InputError(`--limit must be 1 to 3600 seconds, given '${text}'`);
  return seconds;
}

function help(): string {
  return `Says what this machine offers to lowbit, which engine will run and why, whether each
engine computes what the plain reference does, and how fast it is. Takes about ten
seconds.

Usage: lowbit doctor [options]

${[
  helpRow(
    "--engine NAME",
    `Only this one: ${engineNames.join(", ")} (default: all)`,
  ),
  helpRow(
    "--limit SECONDS",
    "Longest that the trial of an engine may take (default: 60)",
  ),
  helpRow("--json", "Print one JSON object, for programs"),
  helpRow("--help, --version", ""),
].join("\n")}

Every engine is tried in a process of its own: a driver that hangs or crashes ends that
process, and this one says so.

Exit code 0: what is there works; 1: an engine is wrong, crashed or did not end.`;
}
