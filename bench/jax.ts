/** Our optimizers on jax-js against Adam in its own operations, in one run. */
import type * as jaxJs from "@jax-js/jax";
import type { JaxOptimizer, OptState } from "lowbit/jax";
import { fillGradient, printTable, race, type Contender } from "./measure.ts";

type Jax = typeof jaxJs;
type Tensor = jaxJs.numpy.Array;
type Backend = "wasm" | "webgpu";

async function open(backend: Backend): Promise<Jax> {
  if (backend === "webgpu" && !("gpu" in navigator)) {
    const { create, globals } = await import("webgpu");
    Object.assign(globalThis, globals);
    Object.defineProperty(navigator, "gpu", { value: create([]) });
  }
  const jax = await import("@jax-js/jax");
  const ready = await jax.init(backend);
  if (!ready.includes(backend)) throw new Error(`jax-js has no ${backend}`);
  jax.defaultDevice(backend);
  return jax;
}

const ones = (elements: number) => {
  const values = new Float32Array(elements);
  fillGradient(values);
  return values;
};

/** What a step must have done: its last array is there. */
const done = (jax: Jax, backend: Backend, arrays: Tensor[]) =>
  backend === "webgpu"
    ? Promise.all(arrays.map((array) => array.ref.gpuBuffer())).then(() =>
        jax.getWebGPUDevice().queue.onSubmittedWorkDone(),
      )
    : jax.blockUntilReady(arrays);

/** Adam in jax-js operations under jit, as its optax port computes it. */
export async function jaxAdam(
  elements: number,
  backend: Backend = "wasm",
): Promise<Contender> {
  const jax = await open(backend);
  const { numpy: np, jit } = jax;
  const update = jit(
    (p: Tensor, m: Tensor, v: Tensor, g: Tensor, c1: Tensor, c2: Tensor) => {
      const m1 = m.mul(0.9).add(g.ref.mul(0.1));
      const v1 = v.mul(0.999).add(g.ref.mul(g).mul(0.001));
      const step = m1.ref.mul(c1).div(np.sqrt(v1.ref.mul(c2)).add(1e-8));
      return [p.sub(step.mul(1e-3)), m1, v1];
    },
  );
  const g = np.array(ones(elements));
  let state = [
    np.array(ones(elements)),
    np.zeros([elements]),
    np.zeros([elements]),
  ];
  let t = 0;
  return {
    name: `jax-js 0.1.25 Adam, ${backend}, jit${backend === "wasm" ? ", 1 thread" : ""}`,
    bytes: 0,
    state: 8,
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
      await done(jax, backend, state);
    },
  };
}

/** What a step is made of; `step` and `applyUpdates` write where the parameters are. */
const forms = {
  step: "step",
  apply: "update, applyUpdates",
  update: "update, jax-js's add",
  jit: "update under jit, jax-js's add",
};

async function ours(
  name: string,
  make: () => JaxOptimizer,
  form: keyof typeof forms,
  elements: number,
  backend: Backend,
): Promise<Contender> {
  const jax = await open(backend);
  const { applyUpdates } = await import("lowbit/jax");
  const { numpy: np, jit } = jax;
  const optimizer = make();
  const g = np.array(ones(elements));
  let p: Tensor = np.array(ones(elements));
  let state: OptState = optimizer.init(p.ref);
  const traced = jit((gradient: Tensor, before: OptState, params: Tensor) =>
    optimizer.update(gradient, before, params),
  ) as unknown as JaxOptimizer["update"];
  return {
    name: `lowbit ${name}, ${forms[form]}`,
    bytes: 0,
    state: optimizer.memory(p).bytesPerParameter,
    ...(form === "jit" ? { warmUp: 1 } : {}),
    async step() {
      if (form === "step") [p, state] = await optimizer.step(p, g.ref, state);
      else {
        const update = form === "jit" ? traced : optimizer.update;
        const [change, next] = update(g.ref, state, p.ref);
        state = next;
        p = form === "apply" ? applyUpdates(p, change) : p.add(change);
      }
      await done(jax, backend, [p, ...state.states]);
    },
  };
}

export async function benchJax(
  backend: Backend,
  elements: number,
  rounds: number,
): Promise<void> {
  const { adam32bit, adam8bit, adamw8bit } = await import("lowbit/jax");
  const log2 = Math.log2(elements);
  console.log(
    `\nOne Adam step on jax-js, ${backend}, ${Number.isInteger(log2) ? `2^${log2}` : elements} parameters in one array, ${rounds} interleaved rounds`,
  );
  const eight = () => adam8bit(1e-3);
  const decaying = () => adamw8bit(1e-3);
  const contenders = [
    await jaxAdam(elements, backend),
    await ours("adam32bit", () => adam32bit(1e-3), "step", elements, backend),
    await ours("adam8bit", eight, "step", elements, backend),
    await ours("adam8bit", eight, "apply", elements, backend),
    await ours("adamw8bit", decaying, "apply", elements, backend),
    await ours("adam8bit", eight, "update", elements, backend),
    await ours("adamw8bit", decaying, "update", elements, backend),
    await ours("adam8bit", eight, "jit", elements, backend),
  ];
  const timings = await race(contenders, elements, rounds);
  printTable(timings, contenders[0]!.name, undefined);
}
