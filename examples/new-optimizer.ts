import { createOptimizer, defineOptimizer } from "lowbit";

const signMomentum = defineOptimizer({
  name: "signMomentum",
  hyper: { lr: 1e-4, beta: 0.9 },
  state: { m: "signed" },
  update: `
    m = beta * m + (1 - beta) * g
    p = p - lr * sign(m)
  `,
});
const w = new Float32Array(8192);
const optimizer = await createOptimizer(signMomentum({ bits: 4 }), {
  w: { data: w, shape: [8192] },
});
await optimizer.step({ w: new Float32Array(8192).fill(-1) });
console.log(w[0], optimizer.memory().bytesPerParameter);
