import { init, jit, numpy as np, tree, valueAndGrad } from "@jax-js/jax";
import { scaleByAdam8bit } from "lowbit/jax";

await init("wasm");
type Params = { w: np.Array; b: np.Array };
const input = np.linspace(-1, 1, 64 * 16).reshape([64, 16]);
const loss = ({ w, b }: Params) =>
  np.mean(np.square(np.matmul(input.ref, w).add(b).sub(1)));
let params: Params = { w: np.zeros([16, 512]), b: np.zeros([512]) };
const direction = scaleByAdam8bit({ b2: 0.99 });
let state = direction.init(tree.ref(params));

/** A whole step under jit, the rate as an argument: any schedule will do. */
const step = jit((p: Params, s: typeof state, rate: np.Array) => {
  const [value, gradients] = valueAndGrad(loss)(tree.ref(p));
  const [updates, next] = direction.update(gradients, s, tree.ref(p));
  const { w, b } = updates;
  const moved = {
    w: p.w.sub(w.mul(rate.ref)),
    b: p.b.sub(b.mul(rate)),
  };
  return { value, moved, next };
});

for (let count = 0; count < 60; count++) {
  const rate = np.array(0.1 * 0.95 ** count);
  const { value, moved, next } = step(params, state, rate);
  [params, state] = [moved, next];
  if (count % 59 === 0) console.log("loss", (await value.data())[0]);
  else value.dispose();
}
