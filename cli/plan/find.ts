/** Finds the model that `lowbit plan` is asked about. */
import fs from "node:fs";
import path from "node:path";
import {
  modelFromConfig,
  modelFromSizes,
  publicModel,
  publicModelNames,
  type PlanModel,
} from "lowbit/plan";
import { InputError, nearestName } from "lowbit/trainer";
import type { Sizes } from "./flags.ts";
import { readShapes } from "../shapes.ts";
import { look } from "../system.ts";

/** A model, and what the file says about how it is run. */
export interface Found {
  readonly model: PlanModel;
  /** Of a `lowbit train` run, whose plan is for its host and batch. */
  readonly run?: { readonly batch: number };
}

/** @throws InputError when there is no such model, or the file says too little. */
export async function findModel(
  name: string | undefined,
  sizes: Sizes | undefined,
): Promise<Found | undefined> {
  if (sizes) {
    const { parameters, layers, width } = sizes;
    const words = [
      parameters === undefined ? "" : `${short(parameters)} parameters`,
      layers === undefined ? "" : `${layers} layers`,
      width === undefined ? "" : `width ${width}`,
    ];
    const title = `a decoder of ${words.filter(Boolean).join(", ")}`;
    return { model: modelFromSizes(sizes, title) };
  }
  if (name === undefined) return undefined;
  const found = look(name);
  if (found?.isDirectory()) return fromFolder(name);
  if (found && !found.isFile())
    throw new InputError(
      `'${name}' is no plain file; give a config.json or a safetensors file`,
    );
  if (found) return fromFile(name);
  const known = publicModel(name);
  if (known) return { model: known };
  const guess = nearestName(name, publicModelNames());
  throw new InputError(
    `there is no file and no model '${name}'; ${guess ? `did you mean '${guess}'?` : `give a config.json, a safetensors file, or one of ${publicModelNames().join(", ")}`}`,
  );
}

const short = (value: number) =>
  value >= 1e9 ? `${value / 1e9}B` : `${value / 1e6}M`;

/** As models are downloaded: config.json for the layers, safetensors for the exact tensors. */
async function fromFolder(folder: string): Promise<Found> {
  const names = fs.readdirSync(folder);
  if (names.includes("adapter_config.json") && !names.includes("config.json"))
    throw adaptersAlone(folder);
  const config = names.includes("config.json")
    ? await fromFile(path.join(folder, "config.json"))
    : undefined;
  const index = names.find((name) => name.endsWith(".safetensors.index.json"));
  const files = names.filter((name) => name.endsWith(".safetensors"));
  const shapes =
    index !== undefined && files.length > 0
      ? await readShapes(path.join(folder, index))
      : files.length === 1
        ? await readShapes(path.join(folder, files[0]!))
        : undefined;
  if (config && !shapes) return config;
  if (!config && !shapes)
    throw new InputError(
      `the folder '${folder}' has neither a config.json nor safetensors files`,
    );
  return {
    ...config,
    model: { ...config?.model, name: path.basename(folder), shapes: shapes! },
  };
}

/** PEFT keeps adapters apart from the model that they are for. */
function adaptersAlone(folder: string): InputError {
  const file = path.join(folder, "adapter_config.json");
  const { r, base_model_name_or_path: base } = readConfig(file);
  const rank = typeof r === "number" ? r : "RANK";
  return new InputError(
    `'${folder}' holds adapters for ${typeof base === "string" ? `'${base}'` : "another model"}; give that model, with --lora ${rank}`,
  );
}

async function fromFile(file: string): Promise<Found> {
  if (file.endsWith(".safetensors") || file.endsWith(".safetensors.index.json"))
    return {
      model: { name: path.basename(file), shapes: await readShapes(file) },
    };
  const values = readConfig(file);
  const named = values._name_or_path;
  const model = modelFromConfig(
    values,
    typeof named === "string" && named ? named : file,
  );
  return values.model_type === undefined
    ? { model, run: { batch: Number(values.batch ?? 8) } }
    : { model };
}

function readConfig(file: string): Record<string, unknown> {
  let config: unknown;
  try {
    config = JSON.parse(fs.readFileSync(file, "utf8"));
  } catch (error) {
    throw new InputError(
      `'${file}' is neither a safetensors file nor JSON: ${(error as Error).message}`,
      { cause: error },
    );
  }
  if (typeof config !== "object" || config === null || Array.isArray(config))
    throw new InputError(
      `'${file}' must hold a JSON object, as a config.json does`,
    );
  return config as Record<string, unknown>;
}
