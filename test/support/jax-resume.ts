// A run in a process of its own: node jax-resume.ts <backend> <from> <to> <file>
// takes the steps from..to, going on from the file unless from is 0, leaves
// everything there, and prints a digest of parameters and state.

import { createHash } from "node:crypto";
import fs from "node:fs";
import * as jax from "@jax-js/jax";
import { adamw8bit, type OptState } from "lowbit/jax";
import { models, openJax, type Backend, type Params } from "./jax.ts";

const { jit, numpy: np, tree, valueAndGrad } = jax;
const [backend, from, to, file] = process.argv.slice(2) as [
  Backend,
  string,
  string,
  string,
];
await openJax(backend);
const { init, loss, batch } = models.MLP;
const optimizer = adamw8bit((count) => 1e-2 / (1 + count), {
  minQuantizedSize: 0,
});
const backward = jit(valueAndGrad(loss));

interface Saved {
  readonly shape: number[];
  readonly dtype: "float32" | "uint32";
  readonly bytes: string;
}
type Run = { params: Params; state: OptState };

const start = init();
let run: Run = { params: start, state: optimizer.init(tree.ref(start)) };
const [fresh, form] = tree.flatten(run as never);
if (from !== "0") {
  const leaves = JSON.parse(fs.readFileSync(file, "utf8")) as Saved[];
  for (const array of fresh as jax.numpy.Array[]) array.dispose();
  run = tree.unflatten(
    form,
    leaves.map(({ shape, dtype, bytes }) => {
      const { buffer } = Uint8Array.from(Buffer.from(bytes, "base64"));
      return np.array(
        dtype === "uint32" ? new Uint32Array(buffer) : new Float32Array(buffer),
        { shape },
      );
    }),
  ) as unknown as Run;
}
for (let step = Number(from); step < Number(to); step++) {
  const [, gradients] = backward(tree.ref(run.params), ...batch(step));
  const [params, state] = await optimizer.step(
    run.params,
    gradients as Params,
    run.state,
  );
  run = { params, state };
}
const leaves = tree.flatten(run as never)[0] as jax.numpy.Array[];
const saved = await Promise.all(
  leaves.map(async (array): Promise<Saved> => {
    const { shape, dtype } = array;
    const data = (await array.data()) as Float32Array;
    const bytes = Buffer.from(
      data.buffer,
      data.byteOffset,
      data.byteLength,
    ).toString("base64");
    return { shape, dtype: dtype as Saved["dtype"], bytes };
  }),
);
const text = JSON.stringify(saved);
fs.writeFileSync(file, text);
if (backend === "webgpu")
  await jax.getWebGPUDevice().queue.onSubmittedWorkDone();
console.log(
  optimizer.device!.split(",")[0],
  createHash("sha256").update(text).digest("hex"),
);
