import { grad, init, numpy as np } from "@jax-js/jax";
import { adamw8bit } from "lowbit/jax";

await init("wasm");
const target = np.linspace(0, 1, 8192);
const loss = (w: typeof target) => np.sum(np.square(w.sub(target.ref)));
const optimizer = adamw8bit(0.01);
let w = np.zeros([8192]);
let state = optimizer.init(w.ref);
for (let step = 0; step < 400; step++)
  [w, state] = await optimizer.step(w, grad(loss)(w.ref), state);
const error = np.max(np.abs(w.sub(target)));
console.log("largest error", (await error.data())[0]);
