/** Shapes of the tensors in safetensors files; of each file only its header is read. */
import fs from "node:fs";
import path from "node:path";
import { openTensors } from "lowbit/io";
import { InputError } from "lowbit/trainer";
import { aboutFile, openInput } from "./files.ts";

type Shapes = Record<string, readonly number[]>;

/** Tables and masks that models carry along and do not train. */
const BUFFERS =
  /(\.attn\.(masked_)?bias|rotary_emb\.inv_freq|position_ids|running_(mean|var)|num_batches_tracked)$/;

/**
 * @param file a `.safetensors`, or the `.safetensors.index.json` of several
 * @throws InputError for files that are missing or not what their names say
 */
export async function readShapes(file: string): Promise<Shapes> {
  if (!file.endsWith(".index.json")) return readHeader(file);
  const shards = shardsOf(readJson(file));
  if (!shards)
    throw new InputError(
      `'${file}' has no weight_map of tensors to files; is it an index?`,
    );
  const folder = path.dirname(file);
  const missing = shards.filter(
    (name) => !fs.existsSync(path.join(folder, name)),
  );
  if (missing.length > 0)
    throw new InputError(
      `the index names ${missing[0]}${missing.length > 1 ? ` and ${missing.length - 1} more` : ""}, not in '${folder}'; shapes are in those files. The model's config.json does as well`,
    );
  return Object.assign(
    {},
    ...(await Promise.all(
      shards.map((name) => readHeader(path.join(folder, name))),
    )),
  ) as Shapes;
}

/** The files that an index names; undefined when it is none. */
function shardsOf(index: unknown): string[] | undefined {
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null) return undefined;
  const names: unknown[] = [...new Set(Object.values(map))];
  const files = names.filter((name) => typeof name === "string");
  return files.length === names.length && files.length > 0
    ? files.sort()
    : undefined;
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(fs.readFileSync(file, "utf8"));
  } catch (error) {
    throw new InputError(`'${file}' is not JSON: ${(error as Error).message}`, {
      cause: error,
    });
  }
}

/** The floating-point tensors that are no buffers. */
async function readHeader(name: string): Promise<Shapes> {
  const file = openInput(name);
  try {
    const { tensors } = await aboutFile(name, () => openTensors(file));
    // fromEntries, since a tensor may have any name, `__proto__` included.
    return Object.fromEntries(
      [...tensors]
        .filter(
          ([tensor, { dtype }]) =>
            /^(F|BF)/.test(dtype) && !BUFFERS.test(tensor),
        )
        .map(([tensor, { shape }]) => [tensor, shape]),
    );
  } finally {
    file.close();
  }
}
