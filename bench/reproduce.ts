/** `npm run reproduce:8bit` and `npm run reproduce:4bit`: the papers' ablations in miniature. */
import fs from "node:fs";
import os from "node:os";
import { parseArgs } from "node:util";
import { InputError } from "lowbit/trainer";
import { partNames, partsOf, reproduce, rowNames } from "./reproduce/report.ts";
import { large, quick, usual } from "./reproduce/sizes.ts";
import { readWords } from "./reproduce/words.ts";

const help = `npm run reproduce:4bit -- [options]    (or reproduce:8bit)

Trains a small word model with states stored in many ways, as the papers'
ablations do, and prints tables in Markdown.

  --data FILE    text to train on, several times for several files; default
                 TypeScript's declaration files, as lowbit train
  --seeds 3      runs of each row
  --steps 600    steps of each run
  --lr 8e-3      highest learning rate, for all rows
  --rows REGEX   only rows whose name matches
  --jobs 2       processes; default: one for each core, eight at most
  --large        the larger model: 2000 words, 64 x 4 -> 256, batches of 128
  --parts A,B    only these parts, of ${partsOf["4bit"].join(", ")} (4bit) and
                 ${partsOf["8bit"].join(", ")} (8bit)
  --quick        a few rows of a tiny model, seconds
  --json FILE    everything measured, into a file
  --help         this text`;

interface Asked {
  readonly which: "4bit" | "8bit";
  readonly values: ReturnType<typeof parse>["values"];
}

function parse(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      data: { type: "string", multiple: true },
      seeds: { type: "string" },
      steps: { type: "string" },
      lr: { type: "string" },
      rows: { type: "string" },
      jobs: { type: "string" },
      parts: { type: "string" },
      large: { type: "boolean", default: false },
      quick: { type: "boolean", default: false },
      json: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
}

/** What is asked for. @throws InputError */
function read(args: readonly string[]): Asked {
  const { values, positionals } = attempt("", () => parse(args));
  const [which, more] = positionals;
  if (which !== "4bit" && which !== "8bit")
    throw new InputError(`say 4bit or 8bit, given '${which ?? ""}'`);
  if (more !== undefined)
    throw new InputError(`unexpected '${more}'; a text comes after --data`);
  return { which, values };
}

/** Runs what throws when the input is wrong. */
function attempt<T>(what: string, work: () => T): T {
  try {
    return work();
  } catch (cause) {
    // Node's advice on positional arguments is left out.
    const [message] = (cause as Error).message.split(". To specify");
    throw new InputError(`${what}${message}`, { cause });
  }
}

async function main(args: readonly string[]): Promise<void> {
  const { which, values } = read(args);
  if (values.help) return console.log(help);
  const count = (name: "seeds" | "steps" | "jobs", standard: number) => {
    const given = values[name];
    const number = Number(given ?? standard);
    if (!Number.isInteger(number) || number < 1)
      throw new InputError(
        `--${name} must be a whole number from 1, given '${given}'`,
      );
    return number;
  };
  const size = values.quick ? quick : values.large ? large : usual;
  const steps = count("steps", size.settings.steps);
  const seeds = count("seeds", values.quick ? 1 : 3);
  const jobs = count("jobs", Math.min(8, os.availableParallelism()));
  const lr = Number(values.lr ?? size.settings.lr);
  if (!(lr > 0 && lr < Infinity))
    throw new InputError(`--lr must be a number above 0, given '${values.lr}'`);
  const { rows: pattern = "", json, data } = values;
  const rows = attempt("--rows: ", () => new RegExp(pattern));
  const parts = values.parts?.split(",").map((part) => part.trim());
  for (const part of parts ?? [])
    if (!partNames.includes(part))
      throw new InputError(
        `--parts: unknown part '${part}'; there are ${partNames.join(", ")}`,
      );
  const names = rowNames(parts ?? partsOf[which]);
  if (values.rows !== undefined && !names.some((name) => rows.test(name)))
    throw new InputError(
      `--rows: no row matches '${values.rows}'; there are ${[...new Set(names)].join("; ")}`,
    );
  const { vocabulary } = size;
  // Before minutes of work: the text is there, and the results can be written.
  readWords(data, vocabulary);
  if (json) attempt("--json: ", () => fs.closeSync(fs.openSync(json, "a")));

  const settings = { ...size.settings, steps, lr };
  const { batch, width, hidden } = settings;
  const started = performance.now();
  console.log(
    `reproduce:${which}: ${vocabulary} words, 4 x ${width} -> ${hidden}, batches of ${batch}, ${steps} steps, lr ${lr}, eps 1e-8, ${seeds} seeds; ` +
      `${os.cpus()[0]?.model ?? "unknown"}, ${jobs} processes, Node ${process.version}`,
  );
  const results = await reproduce(which, {
    task: { data, vocabulary, settings },
    seeds: Array.from({ length: seeds }, (_, i) => i),
    jobs,
    ...(parts ? { parts } : {}),
    only: ({ name }) =>
      values.rows === undefined
        ? !values.quick || size.only({ name })
        : rows.test(name),
    progress: (done, of) => {
      if (process.stderr.isTTY)
        process.stderr.write(`\r${done} of ${of} runs `);
    },
    show: (title, text) => console.log(`\n${title}\n\n${text}`),
  });
  console.log(
    `\n${((performance.now() - started) / 1000).toFixed(0)} seconds in all`,
  );
  if (json)
    fs.writeFileSync(
      json,
      JSON.stringify(results, (_, value: unknown) =>
        value instanceof Map ? Object.fromEntries(value) : value,
      ),
    );
}

// Workers may keep handles; everything is printed.
main(process.argv.slice(2)).then(
  () => process.exit(0),
  (error: unknown) => {
    const isInput = error instanceof InputError;
    console.error(isInput ? `reproduce: ${error.message}` : error);
    process.exit(isInput ? 2 : 1);
  },
);
