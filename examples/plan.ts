import { modelFromConfig, planMemory } from "lowbit/plan";

const model = modelFromConfig({
  model_type: "gpt2",
  vocab_size: 50257,
  n_positions: 1024,
  n_embd: 768,
  n_layer: 12,
  n_head: 12,
});
const plan = planMemory(model, { memory: 2.5e9, context: 512 });
for (const { recipe, stateBytes, totalBytes, fits } of plan.rows)
  console.log(recipe, stateBytes, totalBytes, fits);
console.log(plan.notes.join("\n"));
