/**
 * What the metadata of a file written by Python says about it, all of it
 * optional: docs/interchange.md has the code that writes it.
 */
import type { TensorSource } from "./fields.ts";
import { FileError } from "../io/fault.ts";
import { isCount, isCounts, isRecord, isText, parseJson } from "../io/json.ts";

export interface PythonMetadata {
  /** Class of the optimizer. */
  readonly optimizer: string | undefined;
  readonly step: number | undefined;
  /** Names of the parameters in the order of their indices. */
  readonly names: readonly string[] | undefined;
  /** By name or index. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /** The first of `param_groups`; others may differ, see `groups`. */
  readonly group: Readonly<Record<string, unknown>>;
  readonly groups: number;
}

/** @throws FileError for text that is not what its key says. */
export function readMetadata({ metadata }: TensorSource): PythonMetadata {
  const json = (key: string): unknown => {
    const text = Object.hasOwn(metadata, key) ? metadata[key] : undefined;
    if (text === undefined) return undefined;
    return parseJson(text, `'${key}' in its metadata`);
  };
  const groups = list(json("param_groups"), "param_groups").filter(isRecord);
  const names = json("names");
  const step = json("step");
  if (step !== undefined && !isCount(step))
    throw new FileError(
      `the metadata's 'step' must be a count, and is ${JSON.stringify(step)}`,
    );
  return {
    optimizer: Object.hasOwn(metadata, "optimizer")
      ? metadata.optimizer
      : undefined,
    step,
    names: names === undefined ? groupNames(groups) : texts(names, "names"),
    shapes: shapes(json("shapes")),
    group: groups[0] ?? {},
    groups: groups.length,
  };
}

/** PyTorch since 2.6 keeps names in the groups: `params` and `param_names` side by side. */
function groupNames(
  groups: readonly Readonly<Record<string, unknown>>[],
): string[] | undefined {
  const names: string[] = [];
  for (const { params, param_names: own } of groups) {
    if (!Array.isArray(params) || !Array.isArray(own)) return undefined;
    params.forEach((index: unknown, i) => {
      if (isCount(index) && index < 1e7 && typeof own[i] === "string")
        names[index] = own[i];
    });
  }
  return names.length > 0 && !names.includes(undefined as never)
    ? names
    : undefined;
}

function shapes(value: unknown): Map<string, readonly number[]> {
  if (value === undefined) return new Map();
  if (!isRecord(value))
    throw new FileError(
      "the metadata's 'shapes' must be an object of lists, by parameter",
    );
  return new Map(
    Object.entries(value).map(([key, shape]) => {
      if (!isCounts(shape))
        throw new FileError(
          `the metadata's shape of '${key}' must be a list of counts, and is ${JSON.stringify(shape)}`,
        );
      return [key, shape];
    }),
  );
}

function list(value: unknown, key: string): unknown[] {
  if (value === undefined) return [];
  if (!Array.isArray(value))
    throw new FileError(`the metadata's '${key}' must be a list`);
  return value;
}

function texts(value: unknown, key: string): string[] {
  const items = list(value, key);
  if (!items.every(isText))
    throw new FileError(`the metadata's '${key}' must be a list of names`);
  return items;
}
