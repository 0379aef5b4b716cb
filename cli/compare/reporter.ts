import type { TrainConfig } from "lowbit/trainer";
import { openTerminal, type Terminal } from "../terminal.ts";
import type { Text } from "../train/text.ts";
import type { CompareFlags } from "./flags.ts";
import type { FromWorker, RunResult } from "./protocol.ts";
import type { Comparison } from "./report.ts";
import { CompareScreen } from "./screen.ts";

/** Where the course of a comparison is shown. Runs go by their index. */
export interface Reporter {
  start(plans: readonly TrainConfig[], text: Text, flags: CompareFlags): void;
  event(run: number, event: FromWorker): void;
  ran(run: number, result: RunResult): void;
  failed(run: number, error: Error): void;
  /** Something that a person should know and that ends nothing. */
  notice(text: string): void;
  /** The user wants to end; steps may still be under way. */
  interrupted(): void;
  /** @param folder where the outputs are; undefined when they could not be written */
  end(comparison: Comparison, folder: string | undefined): void;
}

export function chooseReporter(
  { quiet, json }: CompareFlags,
  terminal: Terminal = openTerminal(process.stdout),
): Reporter {
  if (json) return new JsonReporter();
  if (quiet) return quietReporter;
  return new CompareScreen(terminal, process.stdout);
}

/** `--quiet`: only where the outputs are, and what failed. */
const quietReporter: Reporter = {
  start() {},
  event() {},
  ran() {},
  failed: (_run, error) => console.error(`lowbit: ${error.message}`),
  notice: (text) => console.error(`lowbit: ${text}`),
  interrupted() {},
  end: (_comparison, folder) => {
    if (folder !== undefined) console.log(folder);
  },
};

/** `--json`: an object a line. */
class JsonReporter implements Reporter {
  #plans: readonly TrainConfig[] = [];

  start(plans: readonly TrainConfig[], { bytes, files }: Text): void {
    this.#plans = plans;
    print({
      event: "start",
      runs: plans.map(({ optimizer, seed }) => ({ optimizer, seed })),
      text: { bytes: bytes.length, files },
      config: plans[0],
    });
  }

  event(run: number, event: FromWorker): void {
    if (event.kind === "start") print({ event: "run", ...this.#which(run) });
    if (event.kind === "step") {
      const { step, loss } = event.result;
      print({ event: "step", ...this.#which(run), step, loss });
    }
    if (event.kind === "validation") {
      const { step, loss } = event;
      print({ event: "validation", ...this.#which(run), step, loss });
    }
  }

  ran(run: number, result: RunResult): void {
    const { trainLoss: _, codes: __, errors: ___, ...rest } = result;
    print({ event: "ran", ...this.#which(run), ...rest });
  }

  failed(run: number, { message }: Error): void {
    print({ event: "failed", ...this.#which(run), message });
  }

  notice(message: string): void {
    print({ event: "notice", message });
  }

  interrupted(): void {
    print({ event: "interrupted" });
  }

  end({ summary, seconds }: Comparison, folder: string | undefined): void {
    print({ event: "end", summary, seconds, folder });
  }

  #which(run: number) {
    const { optimizer, seed } = this.#plans[run]!;
    return { optimizer, seed };
  }
}

const print = (object: unknown) => console.log(JSON.stringify(object));
