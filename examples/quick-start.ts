import { adamw8bit, createOptimizer } from "lowbit";

const weight = new Float32Array(512 * 512).fill(0.1);
const bias = new Float32Array(512);
const optimizer = await createOptimizer(adamw8bit({ lr: 1e-3 }), {
  weight: { data: weight, shape: [512, 512] },
  bias: { data: bias, shape: [512] },
});
const gradients = { weight: weight.slice(), bias: bias.slice() }; // yours
await optimizer.step(gradients); // changes weight and bias in place
console.log(await optimizer.stats());
console.table(optimizer.explain());
