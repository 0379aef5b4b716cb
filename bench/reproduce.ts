/**
 * `npm run reproduce:8bit` and `npm run reproduce:4bit`: the papers' ablations in
 * miniature, on a small word model. Prints tables in Markdown.
 *
 *   --data FILE    text to train on, several times for several files; default
 *                  TypeScript's declaration files, as `lowbit train`
 *   --seeds 3      runs of each row
 *   --steps 600    steps of each run
 *   --lr 8e-3      highest learning rate, for all rows
 *   --rows REGEX   only rows whose name matches
 *   --jobs 2       processes; default: one for each core, eight at most
 *   --large        the larger model: 2000 words, 64 x 4 -> 256, batches of 128
 *   --parts A,B    only these parts
 *   --quick        a few rows of a tiny model, seconds
 *   --json FILE    everything measured, into a file
 */
import fs from "node:fs";
import os from "node:os";
import { parseArgs } from "node:util";
import { reproduce } from "./reproduce/report.ts";
import { large, quick, usual } from "./reproduce/sizes.ts";

const { values, positionals } = parseArgs({
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
  },
});
const which = positionals[0];
if (which !== "4bit" && which !== "8bit") {
  console.error(`reproduce: say 4bit or 8bit, given '${which ?? ""}'`);
  process.exit(1);
}

function count(name: "seeds" | "steps" | "jobs", standard: number): number {
  const given = values[name];
  if (given === undefined) return standard;
  const number = Number(given);
  if (!Number.isInteger(number) || number < 1) {
    console.error(
      `reproduce: --${name} must be a whole number from 1, given '${given}'`,
    );
    process.exit(1);
  }
  return number;
}

const size = values.quick ? quick : values.large ? large : usual;
const steps = count("steps", size.settings.steps);
const seeds = count("seeds", values.quick ? 1 : 3);
const jobs = count("jobs", Math.min(8, os.availableParallelism()));
const started = performance.now();
const { vocabulary } = size;
const lr = Number(values.lr ?? size.settings.lr);
if (!(lr > 0)) {
  console.error(`reproduce: --lr must be above 0, given '${values.lr}'`);
  process.exit(1);
}
const rows = values.rows === undefined ? undefined : new RegExp(values.rows);
const settings = { ...size.settings, steps, lr };
const { batch, width, hidden } = settings;
console.log(
  `reproduce:${which}: ${vocabulary} words, 4 x ${width} -> ${hidden}, batches of ${batch}, ${steps} steps, lr ${lr}, eps 1e-8, ${seeds} seeds; ` +
    `${os.cpus()[0]?.model ?? "unknown"}, ${jobs} processes, Node ${process.version}`,
);
const results = await reproduce(which, {
  task: { data: values.data, vocabulary, settings },
  seeds: Array.from({ length: seeds }, (_, i) => i),
  jobs,
  ...(values.parts ? { parts: values.parts.split(",") } : {}),
  only: (scheme) =>
    rows ? rows.test(scheme.name) : !values.quick || size.only(scheme),
  progress: (done, of) => {
    if (process.stderr.isTTY) process.stderr.write(`\r${done} of ${of} runs `);
  },
  show: (title, text) => console.log(`\n${title}\n\n${text}`),
});
console.log(
  `\n${((performance.now() - started) / 1000).toFixed(0)} seconds in all`,
);
if (values.json)
  fs.writeFileSync(
    values.json,
    JSON.stringify(results, (_, value: unknown) =>
      value instanceof Map ? Object.fromEntries(value) : value,
    ),
  );
// Workers may keep handles; everything is printed.
process.exit(0);
