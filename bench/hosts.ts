/** A step of our optimizer against the hosts' own Adam, in one run. */
import { createRequire } from "node:module";
import path from "node:path";
import { adam32bit, adam8bit, createOptimizer } from "lowbit";
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

/** Adam in jax-js operations under jit, as its optax port computes it. */
async function jax(elements: number): Promise<Contender> {
  const jax = await import("@jax-js/jax");
  const { numpy: np, jit } = jax;
  await jax.init("wasm");
  jax.defaultDevice("wasm");
  type Tensor = ReturnType<typeof np.zeros>;
  const update = jit(
    (p: Tensor, m: Tensor, v: Tensor, g: Tensor, c1: Tensor, c2: Tensor) => {
      const m1 = m.mul(0.9).add(g.ref.mul(0.1));
      const v1 = v.mul(0.999).add(g.ref.mul(g).mul(0.001));
      const step = m1.ref.mul(c1).div(np.sqrt(v1.ref.mul(c2)).add(1e-8));
      return [p.sub(step.mul(1e-3)), m1, v1];
    },
  );
  const values = new Float32Array(elements);
  fillGradient(values);
  const g = np.array(values);
  let state: Tensor[] = [
    np.array(values),
    np.zeros([elements]),
    np.zeros([elements]),
  ];
  let t = 0;
  return {
    name: "jax-js 0.1.25 Adam, wasm, jit, 1 thread",
    bytes: 0,
    async step() {
      t++;
      const [p, m, v] = state as [Tensor, Tensor, Tensor];
      state = update(
        p,
        m,
        v,
        g.ref,
        np.array(1 / (1 - 0.9 ** t)),
        np.array(1 / (1 - 0.999 ** t)),
      ) as Tensor[];
      await jax.blockUntilReady(state.map((array) => array.ref));
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
    await jax(elements),
  ];
  printTable(
    await race(contenders, elements, rounds),
    "lowbit adam8bit, wasm",
    undefined,
  );
}
