import type { TrainEvent, Trainer } from "lowbit/trainer";
import { describeText, type Summary } from "./summary.ts";
import type { Text } from "./text.ts";

/** Where the course of a run is shown. */
export interface Reporter {
  start(trainer: Trainer, text: Text): void;
  event(event: TrainEvent): void;
  /** Something that a person should know and that ends nothing. */
  notice(text: string): void;
  /** The user wants to end; a step may still be under way. */
  interrupted(): void;
  /** @param whole whether all outputs are in the folder */
  end(summary: Summary, folder: string, whole: boolean): void;
}

/** `--quiet`: only where the outputs are. */
export const quietReporter: Reporter = {
  start() {},
  event() {},
  notice: (text) => console.error(`lowbit: ${text}`),
  interrupted() {},
  end: (_summary, folder, whole) => {
    if (whole) console.log(folder);
  },
};

/** `--json`: an object a line. */
export const jsonReporter: Reporter = {
  start: (trainer, text) =>
    print({
      event: "start",
      config: trainer.config,
      step: trainer.steps,
      parameters: trainer.parameterCount,
      ...trainer.description,
      text: describeText(trainer, text),
      memory: trainer.memory(),
    }),
  event: ({ kind, ...rest }) => {
    if (kind === "end") return; // the summary follows
    const bytes = "text" in rest ? { text: decode(rest.text) } : {};
    print({ event: kind, ...rest, ...bytes });
  },
  notice: (text) => print({ event: "notice", message: text }),
  interrupted: () => print({ event: "interrupted" }),
  end: (summary, folder, whole) =>
    print({ event: "end", ...summary, folder, whole }),
};

const print = (object: unknown) => console.log(JSON.stringify(object));

/** Bytes that are not UTF-8 become U+FFFD. */
export const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
