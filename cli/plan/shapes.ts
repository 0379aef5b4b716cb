/** Shapes of the tensors in safetensors files; of each file only its header is read. */
import fs from "node:fs";
import path from "node:path";
import { InputError } from "lowbit/trainer";

type Shapes = Record<string, readonly number[]>;

/** Tables and masks that models carry along and do not train. */
const BUFFERS =
  /(\.attn\.(masked_)?bias|rotary_emb\.inv_freq|position_ids|running_(mean|var)|num_batches_tracked)$/;

/**
 * @param file a `.safetensors`, or the `.safetensors.index.json` of several
 * @throws InputError for files that are missing or not what their names say
 */
export function readShapes(file: string): Shapes {
  if (!file.endsWith(".index.json")) return readHeader(file);
  const index = readJson(file) as { weight_map?: Record<string, string> };
  const shards = [...new Set(Object.values(index.weight_map ?? {}))].sort();
  if (shards.length === 0)
    throw new InputError(`'${file}' has no weight_map; is it an index?`);
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
    ...shards.map((name) => readHeader(path.join(folder, name))),
  ) as Shapes;
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

function readHeader(file: string): Shapes {
  const handle = fs.openSync(file, "r");
  try {
    const size = Buffer.alloc(8);
    const { size: bytes } = fs.fstatSync(handle);
    fs.readSync(handle, size, 0, 8, 0);
    const length = size.readBigUInt64LE();
    if (bytes < 8 || length > BigInt(Math.min(bytes - 8, 1e8)))
      throw new InputError(`'${file}' is no safetensors file`);
    const text = Buffer.alloc(Number(length));
    fs.readSync(handle, text, 0, text.length, 8);
    return trainedShapes(file, text.toString("utf8"));
  } finally {
    fs.closeSync(handle);
  }
}

/** The floating-point tensors that are no buffers. */
function trainedShapes(file: string, json: string): Shapes {
  let header: unknown;
  try {
    header = JSON.parse(json);
  } catch (error) {
    throw new InputError(`'${file}' is no safetensors file`, { cause: error });
  }
  const shapes: [string, readonly number[]][] = [];
  for (const [name, entry] of Object.entries(header as object)) {
    if (name === "__metadata__") continue;
    const { dtype, shape } = entry as { dtype?: string; shape?: unknown };
    const counts =
      Array.isArray(shape) &&
      shape.every((n) => Number.isSafeInteger(n) && (n as number) >= 0);
    if (typeof dtype !== "string" || !counts)
      throw new InputError(`'${file}': '${name}' has no dtype or shape`);
    if (/^(F|BF)/.test(dtype) && !BUFFERS.test(name))
      shapes.push([name, shape as number[]]);
  }
  // fromEntries, since a tensor may have any name, `__proto__` included.
  return Object.fromEntries(shapes);
}
