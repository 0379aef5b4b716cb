import { adamw, createOptimizer, schedules, withAverage } from "lowbit";

const size = 64 * 128;
const parameters = {
  "layer.weight": { data: new Float32Array(size).fill(1), shape: [64, 128] },
  "layer.bias": { data: new Float32Array(128).fill(1), shape: [128] },
};
// AdamW in 8 bits that also keeps a moving average of the parameters.
const recipe = withAverage(adamw)({
  bits: 8,
  averageDecay: 0.9,
  lr: schedules.wsd({ lr: 1e-2, warmup: 5, steps: 40, decay: 0.25 }),
});
const optimizer = await createOptimizer(recipe, parameters, {
  groups: [{ name: "biases", parameters: /bias$/, weightDecay: 0, lr: 1e-3 }],
  percentileClipping: 90, // of the norms of the last 100 steps
  accumulate: 2, // a step at every second call
});
for (let call = 0; call < 80; call++)
  await optimizer.step({
    // Of the squared distance to 0.
    "layer.weight": parameters["layer.weight"].data.map((w) => 2 * w),
    "layer.bias": parameters["layer.bias"].data.map((b) => 2 * b),
  });
console.log(
  optimizer.steps,
  "steps, the last at",
  (await optimizer.stats()).lr,
);
const { average } = await optimizer.state("layer.weight");
if (average?.kind === "float")
  console.log(parameters["layer.weight"].data[0], "average", average.values[0]);
console.table(optimizer.explain());
