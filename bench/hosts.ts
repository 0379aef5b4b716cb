/** A step of our optimizer against the hosts' own Adam, in one run. */
import { createRequire } from "node:module";
import path from "node:path";
import { adam32bit, adam8bit, createOptimizer } from "lowbit";
import { jaxAdam } from "./jax.ts";
import { fillGradient, printTable, race, type Contender } from "./measure.ts";

const require = createRequire(import.meta.url);

async function ours(
  label: string,
  recipe: ReturnType<typeof adam8bit>,
  elements: number,
): Promise<Contender> {
  const data = new Float32Array(elements);
  const gradient = new Float32Array(elements);
  fillGradient(data, 2);
  fillGradient(gradient);
  const optimizer = await createOptimizer(
    recipe,
    { w: { data, shape: [elements] } },
    { threads: 1 },
  );
  return {
    name: label,
    bytes: 0,
    state: optimizer.memory().bytesPerParameter,
    step: () => optimizer.step({ w: gradient }),
  };
}

async function tensorflow(
  backend: "cpu" | "wasm",
  elements: number,
): Promise<Contender> {
  const tf = await import("@tensorflow/tfjs-core");
  if (backend === "cpu") await import("@tensorflow/tfjs-backend-cpu");
  else {
    const { setWasmPaths } = await import("@tensorflow/tfjs-backend-wasm");
    const main = require.resolve("@tensorflow/tfjs-backend-wasm");
    setWasmPaths(path.dirname(main) + path.sep);
  }
  await tf.setBackend(backend);
  await tf.ready();
  const values = new Float32Array(elements);
  fillGradient(values);
  const variable = tf.variable(tf.tensor1d(values), true, `bench-${backend}`);
  const gradient = tf.tensor1d(values);
  const optimizer = tf.train.adam(1e-3);
  return {
    name: `TensorFlow.js ${tf.version_core} Adam, ${backend}`,
    bytes: 0,
    warmUp: 1,
    async step() {
      await tf.setBackend(backend);
      optimizer.applyGradients([{ name: variable.name, tensor: gradient }]);
      await tf
        .backend()
        .read(variable.dataId)
        .then(() => undefined);
    },
  };
}

export async function benchHosts(log2: number, rounds: number): Promise<void> {
  const elements = 2 ** log2;
  console.log(
    `\nOne Adam step, 2^${log2} parameters in arrays of the caller, one thread, ${rounds} interleaved rounds`,
  );
  const contenders = [
    await ours("lowbit adam32bit, wasm", adam32bit(), elements),
    await ours("lowbit adam8bit, wasm", adam8bit(), elements),
    await tensorflow("wasm", elements),
    await tensorflow("cpu", elements),
    await jaxAdam(elements),
  ];
  printTable(
    await race(contenders, elements, rounds),
    "lowbit adam8bit, wasm",
    undefined,
  );
}
