import { adamw8bit, createOptimizer } from "lowbit";
import { readState, writeState } from "lowbit/io";

/** Goes on with a state of bitsandbytes, torchao, lpmm or PyTorch. */
export async function goOn(file: Blob | Uint8Array, w: Float32Array) {
  const { layout, checkpoint, notes } = await readState(file);
  console.log(layout, checkpoint.optimizer, checkpoint.step, notes);
  const optimizer = await createOptimizer(adamw8bit({ lr: 1e-3 }), {
    w: { data: w, shape: checkpoint.tensors[0]!.shape },
  });
  const own = writeState(checkpoint, { to: "lowbit" });
  const report = await optimizer.load(new Blob(await all(own.chunks())));
  console.log("coded anew:", report.requantized);
  return optimizer;
}

/** The state of an optimizer as a file for torchao. */
export async function forTorchao(saved: Uint8Array) {
  const { checkpoint } = await readState(saved);
  const file = writeState(checkpoint, { to: "torchao" });
  const chunks = await all(file.chunks());
  console.log(file.changes()); // what was kept, decoded, requantized
  return new Blob(chunks);
}

async function all<T>(chunks: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const chunk of chunks) list.push(chunk);
  return list;
}
