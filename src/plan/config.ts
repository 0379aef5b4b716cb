import { nearestName } from "../formula/error.ts";
import { families } from "./families.ts";
import { Fields } from "./fields.ts";
import type { PlanModel } from "./model.ts";

/**
 * A model from its configuration: a Hugging Face `config.json` of one of the
 * families gpt2, llama, mistral, qwen, qwen2, qwen3, bert, roberta,
 * xlm-roberta, opt, t5 and mt5, or the `config.json` of a `lowbit train` run.
 *
 * @param config the parsed file. `architectures` decides about the head, where
 * a family has several.
 * @param name for the report
 * @throws TypeError for another family, and for values that are missing or no sizes.
 */
export function modelFromConfig(
  config: Readonly<Record<string, unknown>>,
  name = "model",
): PlanModel {
  const { model_type: type } = config;
  if (type === undefined && isTrainConfig(config)) return trained(config, name);
  if (typeof type !== "string")
    throw new TypeError(
      "modelFromConfig: the configuration has no 'model_type'; give a Hugging Face config.json or that of a lowbit train run",
    );
  if (!Object.hasOwn(families, type)) {
    const known = Object.keys(families);
    const guess = nearestName(type, known);
    throw new TypeError(
      `modelFromConfig: unknown model_type '${type}'; ${guess ? `did you mean '${guess}'? There are` : "there are"} ${known.join(", ")}. The model's safetensors file works for any`,
    );
  }
  return { name, ...families[type]!(new Fields(config, type)) };
}

const isTrainConfig = (config: Readonly<Record<string, unknown>>) =>
  ["layers", "heads", "width", "context"].every((key) => key in config);

/** The trainer's byte-level GPT has the tensors of a GPT-2 of 256 tokens. */
function trained(
  config: Readonly<Record<string, unknown>>,
  name: string,
): PlanModel {
  const { layers, heads, width, context } = config;
  return modelFromConfig(
    {
      model_type: "gpt2",
      vocab_size: 256,
      n_layer: layers,
      n_head: heads,
      n_embd: width,
      n_positions: context,
      resid_pdrop: 0,
      attn_pdrop: 0,
    },
    name,
  );
}

/** A model told by its size. */
export interface ModelSizes {
  /** How many parameters, about. Default: what layers and width come to. */
  readonly parameters?: number | undefined;
  /** Blocks of attention and MLP. Default: about width / 128. */
  readonly layers?: number | undefined;
  /** Size of the residual stream. Default: what the parameters come to. */
  readonly width?: number | undefined;
  /** Default: heads of 64 below a width of 2048, else of 128. */
  readonly heads?: number | undefined;
  /** Default 32000. */
  readonly vocabulary?: number | undefined;
  /** Default 2048. */
  readonly context?: number | undefined;
}

/**
 * A decoder of about that size: a tied embedding, and in each layer four
 * matrices of attention and an MLP that makes up the rest.
 *
 * @throws RangeError when the sizes contradict each other.
 */
export function modelFromSizes(sizes: ModelSizes, name = "model"): PlanModel {
  const { vocabulary = 32_000, context = 2048 } = sizes;
  if (sizes.parameters === undefined && sizes.width === undefined)
    throw new RangeError(
      "modelFromSizes: give the parameters, as 7e9, or the width and the layers",
    );
  const width = sizes.width ?? usualWidth(sizes.parameters!, vocabulary, sizes);
  const layers = sizes.layers ?? Math.max(1, Math.round(width / 128));
  const headWidth = width < 2048 ? 64 : 128;
  const heads = sizes.heads ?? Math.max(1, Math.round(width / headWidth));
  const body =
    (sizes.parameters ?? 12 * layers * width ** 2 + vocabulary * width) -
    vocabulary * width;
  const feedForward = Math.round(
    (body / layers - 4 * width ** 2) / (2 * width),
  );
  if (!(feedForward >= 1))
    throw new RangeError(
      `modelFromSizes: ${layers} layers of width ${width} and a vocabulary of ${vocabulary} have more than ${sizes.parameters} parameters in their attention and embedding alone; make layers, width or vocabulary smaller`,
    );
  const shapes: Record<string, readonly number[]> = {
    "embed.weight": [vocabulary, width],
  };
  for (let i = 0; i < layers; i++) {
    shapes[`layers.${i}.attention.qkv`] = [3 * width, width];
    shapes[`layers.${i}.attention.out`] = [width, width];
    shapes[`layers.${i}.mlp.in`] = [feedForward, width];
    shapes[`layers.${i}.mlp.out`] = [width, feedForward];
  }
  const stack = {
    layers,
    heads,
    headWidth: width / heads,
    keyHeads: heads,
    feedForward,
    gated: false,
    cross: false,
    dropout: false,
    attentionDropout: false,
  };
  return {
    name,
    shapes,
    transformer: { stacks: [stack], width, vocabulary, context },
  };
}

/** The width, a multiple of 64, whose model comes nearest. */
function usualWidth(
  parameters: number,
  vocabulary: number,
  { layers }: ModelSizes,
): number {
  const size = (width: number) =>
    12 * (layers ?? Math.max(1, Math.round(width / 128))) * width ** 2 +
    vocabulary * width;
  let width = 64;
  while (size(width + 64) <= parameters) width += 64;
  return width;
}
