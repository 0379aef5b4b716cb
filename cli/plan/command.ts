import {
  largestAlike,
  largestModels,
  planMemory,
  presets,
  publicModel,
  runPreset,
  series,
  type PlanOptions,
} from "lowbit/plan";
import { asInputError, InputError, nearestName } from "lowbit/trainer";
import type { Command } from "../command.ts";
import { openTerminal } from "../terminal.ts";
import { findModel, type Found } from "./find.ts";
import { parsePlanFlags, type PlanFlags } from "./flags.ts";
import { planHelp } from "./help.ts";
import { presetNames, showLargest, showPlan, showPreset } from "./show.ts";

/** `lowbit plan` */
export const plan: Command = {
  help: planHelp,
  async run(args) {
    const flags = parsePlanFlags(args);
    try {
      await answer(flags);
    } catch (error) {
      throw asInputError(error);
    }
    return 0;
  },
};

async function answer(flags: PlanFlags): Promise<void> {
  if (flags.preset !== undefined) return answerPreset(flags);
  const found = await findModel(flags.model, flags.sizes);
  if (found) return answerModel(found, flags);
  if (flags.options.memory === undefined)
    throw new InputError(
      "give a model, as config.json or gpt2-medium, or --memory SIZE for the largest that fit; lowbit plan --help explains",
    );
  answerLargest(flags);
}

function answerModel(found: Found, { options, json }: PlanFlags): void {
  const { model, run } = found;
  const all: PlanOptions = {
    ...(run ? { host: "jax", batch: run.batch } : {}),
    ...options,
  };
  const planned = planMemory(model, all);
  const alike = largestAlike(model, all);
  if (json) {
    const { memory, ...rest } = planned;
    return print({
      ...rest,
      ...(memory === Infinity ? {} : { memory, largest: alike }),
    });
  }
  console.log(showPlan(planned, alike, openTerminal(process.stdout)));
}

function answerLargest({ options, json }: PlanFlags): void {
  const lines = Object.entries(series).map(([name, models]) => ({
    series: name,
    largest: largestModels(
      Object.keys(models).map((one) => publicModel(one)!),
      options,
    ),
  }));
  if (json) return print({ memory: options.memory, series: lines });
  console.log(
    showLargest(lines, options.memory!, openTerminal(process.stdout)),
  );
}

function answerPreset({ preset: name, json }: PlanFlags): void {
  if (!Object.hasOwn(presets, name!)) {
    const guess = nearestName(name!, presetNames());
    throw new InputError(
      `unknown preset '${name}'; ${guess ? `did you mean '${guess}'?` : `there are ${presetNames().join(", ")}`}`,
    );
  }
  const preset = presets[name!]!;
  const results = runPreset(preset);
  if (json) {
    const { title, source, assumptions } = preset;
    return print({ title, source, assumptions, rows: results });
  }
  console.log(showPreset(preset, results, openTerminal(process.stdout)));
}

const print = (value: unknown) => console.log(JSON.stringify(value, null, 2));
