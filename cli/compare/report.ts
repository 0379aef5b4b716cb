import fs from "node:fs";
import { InputError } from "lowbit/trainer";
import type { RunResult } from "./protocol.ts";
import type { RecipeSummary } from "./summary.ts";

/** Everything about a comparison: `results.json`, and what the report draws. */
export interface Comparison {
  /** Of this layout. */
  readonly version: 1;
  /** ISO time. */
  readonly created: string;
  readonly lowbit: string;
  readonly node: string;
  readonly machine: string;
  readonly text: {
    readonly description: string;
    readonly files: number;
    readonly bytes: number;
  };
  readonly optimizers: readonly string[];
  /** Runs at a time. */
  readonly jobs: number;
  /** Runs that there were to be. */
  readonly planned: number;
  readonly seconds: number;
  readonly summary: readonly RecipeSummary[];
  readonly runs: readonly RunResult[];
}

/** Where the data go. */
const PLACE = "<!-- comparison -->";

/**
 * The page as the build made it, with its script and style inside.
 *
 * @throws InputError when it was not built
 */
export function loadTemplate(): string {
  // In dist/cli/compare/ when built, in cli/compare/ when run from source.
  const places = ["report.html", "../../dist/cli/compare/report.html"];
  for (const place of places) {
    const url = new URL(place, import.meta.url);
    if (fs.existsSync(url)) return fs.readFileSync(url, "utf8");
  }
  throw new InputError("the report's page is not built: run npm run build");
}

/** The page with its data: one file that asks for nothing else. */
export function report(template: string, comparison: Comparison): string {
  // `<` could end the script that holds the data.
  const data = JSON.stringify(comparison).replaceAll("<", "\\u003c");
  // A function, since a replacement text gives `$` a meaning.
  return template.replace(PLACE, () => data);
}
