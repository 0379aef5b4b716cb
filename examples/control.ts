import { adamw8bit, createOptimizer, estimateMemory, schedules } from "lowbit";

const shapes = { wte: [50257, 768], "ln.weight": [768], head: [768, 50257] };
const recipe = adamw8bit({
  lr: schedules.cosine({ lr: 6e-4, warmup: 100, steps: 5000 }),
});
const overrides = [
  { match: /ln\./, weightDecay: 0 },
  { match: "wte", bits: 32 },
];
const report = estimateMemory(shapes, recipe, { overrides });
console.log(report.stateBytes, "bytes, in 32 bits", report.stateBytes32);

const w = new Float32Array(4096);
const optimizer = await createOptimizer(
  recipe,
  { w: { data: w, shape: [64, 64] } },
  { maxGradNorm: 1, skipNonFinite: "step", accumulate: 2 },
);
await optimizer.step({ w: new Float32Array(4096).fill(0.5) });
await optimizer.step({ w: new Float32Array(4096).fill(0.25) });
console.log(optimizer.steps, "step at learning rate", optimizer.lr);
