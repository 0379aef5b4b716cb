import { grad, init, numpy as np } from "@jax-js/jax";
import { adamw8bit, createOptimizer } from "lowbit";

await init("wasm");
const target = np.linspace(0, 1, 8192);
const loss = (w: typeof target) => np.sum(np.square(w.sub(target.ref)));
const w = new Float32Array(8192);
const optimizer = await createOptimizer(adamw8bit({ lr: 0.01 }), {
  w: { data: w, shape: [8192] },
});
for (let step = 0; step < 200; step++)
  await optimizer.step({
    w: (await grad(loss)(np.array(w)).data()) as Float32Array,
  });
console.log("largest error", Math.max(...w.map((x, i) => x - i / 8191)));
