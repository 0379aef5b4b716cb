import type { PlanModel, Stack } from "./model.ts";
import { usualRecipes, type PlanOptions } from "./options.ts";
import { planMemory } from "./plan.ts";

/** The largest model that fits with a recipe. */
export interface LargestModel {
  /** Name of the recipe. */
  readonly recipe: string;
  /** Undefined when not even the smallest fits. */
  readonly model: string | undefined;
  /** Numbers in that model; 0 when none fits. */
  readonly parameters: number;
  /** What training it takes; 0 when none fits. */
  readonly totalBytes: number;
}

/**
 * Of some models the largest that fits into the memory, by recipe.
 *
 * @param options with `memory`; a context above a model's own is cut to it.
 */
export function largestModels(
  models: readonly PlanModel[],
  options: PlanOptions,
): LargestModel[] {
  const recipes = options.recipes ?? usualRecipes;
  const plans = models.map((model) =>
    planMemory(model, fitted(model, options)),
  );
  return recipes.map((_, i) => {
    const fitting = plans
      .filter(({ rows }) => rows[i]!.fits !== false)
      .sort((a, b) => b.parameters - a.parameters)[0];
    return {
      recipe: plans[0]?.rows[i]!.recipe ?? "",
      model: fitting?.model,
      parameters: fitting?.parameters ?? 0,
      totalBytes: fitting?.rows[i]!.totalBytes ?? 0,
    };
  });
}

function fitted({ transformer }: PlanModel, options: PlanOptions): PlanOptions {
  const { context } = options;
  if (context === undefined || !transformer) return options;
  return { ...options, context: Math.min(context, transformer.context) };
}

/** A model of the same proportions as another. */
export interface ScaledModel extends LargestModel {
  /** Layers of the scaled model. */
  readonly layers: number;
  /** Size of its residual stream. */
  readonly width: number;
}

/**
 * The largest model of the same proportions that fits, by recipe: layers, width
 * and MLP grow together, heads by number, vocabulary and context stay.
 *
 * @param model one made by `modelFromConfig` or `modelFromSizes` with a single stack
 * @returns nothing for models without known layers, or without `memory`.
 */
export function largestAlike(
  model: PlanModel,
  options: PlanOptions,
): ScaledModel[] {
  const { transformer } = model;
  const { memory = Infinity } = options;
  if (transformer?.stacks.length !== 1 || memory === Infinity) return [];
  const recipes = options.recipes ?? usualRecipes;
  return recipes.map((recipe): ScaledModel => {
    const at = (factor: number) => {
      const scaled = scale(model, factor);
      const plan = planMemory(scaled, { ...options, recipes: [recipe] });
      return { scaled, plan, row: plan.rows[0]! };
    };
    let [low, high] = [0, 1];
    while (at(high).row.fits && high < 64) [low, high] = [high, 2 * high];
    for (let i = 0; i < 12; i++) {
      const middle = (low + high) / 2;
      if (at(middle).row.fits) low = middle;
      else high = middle;
    }
    const { scaled, plan, row } = at(low);
    const { stacks, width } = scaled.transformer!;
    return {
      recipe: row.recipe,
      model: row.fits ? model.name : undefined,
      parameters: plan.parameters,
      totalBytes: row.totalBytes,
      layers: stacks[0]!.layers,
      width,
    };
  });
}

/** Tensors by their own rule: a size that is the width, or a multiple of it, grows with it. */
function scale(model: PlanModel, factor: number): PlanModel {
  const { transformer, shapes } = model;
  const { stacks, width, vocabulary, context } = transformer!;
  const stack = stacks[0]!;
  const heads = Math.max(1, Math.round(stack.heads * factor));
  const group = stack.heads / stack.keyHeads;
  const keyHeads = Math.max(1, Math.round(heads / group));
  const layers = Math.max(1, Math.round(stack.layers * factor));
  const newWidth = Math.round((width / stack.heads) * heads);
  const sizes = new Map<number, number>();
  const set = (from: number, to: number) => {
    if (!sizes.has(from)) sizes.set(from, to);
  };
  for (const times of [1, 3]) set(times * width, times * newWidth);
  set(stack.heads * stack.headWidth, heads * stack.headWidth);
  set(stack.keyHeads * stack.headWidth, keyHeads * stack.headWidth);
  const feedForward = Math.round(stack.feedForward * (newWidth / width));
  set(stack.feedForward, feedForward);
  // What is no size of the model's inside stays: vocabulary, positions, labels.
  const fixed = (name: string, axis: number, n: number) =>
    axis === 0 && (n === vocabulary || isTable(name)) ? n : (sizes.get(n) ?? n);
  const layer = /^(.*?(?:layers?|h|block)\.)(\d+)(\..*)$/;
  const scaled: Record<string, readonly number[]> = {};
  for (const [name, shape] of Object.entries(shapes)) {
    const resized = shape.map((n, axis) => fixed(name, axis, n));
    const place = layer.exec(name);
    if (!place) scaled[name] = resized;
    else if (place[2] === "0")
      for (let i = 0; i < layers; i++)
        scaled[`${place[1]}${i}${place[3]}`] = resized;
  }
  const newStack: Stack = { ...stack, layers, heads, keyHeads, feedForward };
  return {
    name: model.name,
    shapes: scaled,
    transformer: { stacks: [newStack], width: newWidth, vocabulary, context },
  };
}

/** Tables whose rows are tokens or places. */
const isTable = (name: string) => /embed|wte|wpe|lm_head/.test(name);
