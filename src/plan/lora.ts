import { isEmbedding, type PlanModel } from "./model.ts";

/**
 * What LoRA (arXiv 2106.09685) trains instead of the model: for each matrix of a
 * layer, of shape [rows, columns], two of shapes [rank, columns] and [rows, rank].
 */
export function loraShapes(
  { shapes }: PlanModel,
  rank: number,
): Record<string, readonly number[]> {
  const adapters: Record<string, readonly number[]> = {};
  for (const [name, [rows, columns, ...more]] of Object.entries(shapes)) {
    if (columns === undefined || more.length > 0 || isEmbedding(name)) continue;
    if (/relative_attention_bias/.test(name)) continue;
    adapters[`${name}.lora_A`] = [rank, columns];
    adapters[`${name}.lora_B`] = [rows!, rank];
  }
  return adapters;
}
