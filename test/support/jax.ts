// jax-js for tests: its backends, four small models, and an Adam in its own operations.

import * as jax from "@jax-js/jax";
import type { GradientTransformation, OptState } from "lowbit/jax";
import { gpuSkipReason, openGpu } from "./gpu.ts";
import { normals, randomSource } from "./numbers.ts";

const { jit, nn, numpy: np, tree, valueAndGrad } = jax;

export type Tensor = jax.numpy.Array;
export type Params = Record<string, Tensor>;
export type Backend = "wasm" | "webgpu";

/** Why the backend is not there to test with, or undefined where it is. */
export const skipReason = (backend: Backend): string | undefined =>
  backend === "webgpu" ? gpuSkipReason() : undefined;

/** Makes the backend jax-js's default. */
export async function openJax(backend: Backend): Promise<void> {
  if (backend === "webgpu" && !("gpu" in navigator))
    Object.defineProperty(navigator, "gpu", { value: await openGpu() });
  const ready = await jax.init(backend);
  if (!ready.includes(backend)) throw new Error(`jax-js has no ${backend}`);
  jax.defaultDevice(backend);
}

const floats = (shape: number[], seed: number, scale: number) =>
  np.array(
    normals(
      shape.reduce((a, b) => a * b, 1),
      seed,
      scale,
    ),
    { shape },
  );

const integers = (length: number, below: number, seed: number) => {
  const random = randomSource(seed);
  return Int32Array.from({ length }, () => Math.floor(below * random()));
};

export interface Model {
  init(): Params;
  loss(params: Params, input: Tensor, target: Tensor): Tensor;
  /** A batch: inputs and targets. */
  batch(step: number): [Tensor, Tensor];
}

/** Cross-entropy of logits [n, classes] against classes [n]. */
function crossEntropy(logits: Tensor, target: Tensor): Tensor {
  const classes = logits.shape[1]!;
  const chosen = np.equal(
    np.arange(classes).astype(np.int32).reshape([1, classes]),
    target.reshape([target.size, 1]),
  );
  return np
    .mean(np.sum(np.where(chosen, nn.logSoftmax(logits, -1), 0), -1))
    .neg();
}

const mlp: Model = {
  init: () => ({
    w1: floats([12, 48], 1, 0.3),
    b1: np.zeros([48]),
    w2: floats([48, 8], 2, 0.15),
    b2: np.zeros([8]),
  }),
  loss: ({ w1, b1, w2, b2 }, x, y) => {
    const hidden = nn.relu(np.matmul(x, w1!).add(b1!));
    return np.mean(np.square(np.matmul(hidden, w2!).add(b2!).sub(y)));
  },
  batch: (step) => [
    floats([32, 12], 100 + step, 1),
    floats([32, 8], 200 + step, 1),
  ],
};

/** A 3x3 convolution as nine shifted products: NHWC, padded with zeros. */
function conv3(x: Tensor, kernel: Tensor): Tensor {
  const [n, h, w, c] = x.shape as [number, number, number, number];
  const padded = np.pad(x, [
    [0, 0],
    [1, 1],
    [1, 1],
    [0, 0],
  ]);
  let sum: Tensor | undefined;
  for (let i = 0; i < 3; i++)
    for (let j = 0; j < 3; j++) {
      const shifted = padded.ref
        .slice([], [i, i + h], [j, j + w], [])
        .reshape([n * h * w, c]);
      const part = np.matmul(shifted, kernel.ref.slice(i, j));
      sum = sum ? sum.add(part) : part;
    }
  const out = kernel.shape[3]!;
  padded.dispose();
  kernel.dispose();
  return sum!.reshape([n, h, w, out]);
}

const cnn: Model = {
  init: () => ({
    conv: floats([3, 3, 2, 8], 3, 0.3),
    bias: np.zeros([8]),
    dense: floats([8, 5], 4, 0.3),
  }),
  loss: ({ conv, bias, dense }, x, y) => {
    const features = nn.relu(conv3(x, conv!).add(bias!));
    return crossEntropy(np.matmul(np.mean(features, [1, 2]), dense!), y);
  },
  batch: (step) => [
    floats([8, 6, 6, 2], 300 + step, 1),
    np.array(integers(8, 5, 400 + step)),
  ],
};

const embedding: Model = {
  init: () => ({
    table: floats([60, 16], 5, 0.5),
    dense: floats([16, 12], 6, 0.3),
  }),
  loss: ({ table, dense }, x, y) => {
    const rows = np.take(table!, x.reshape([x.size]), 0);
    const normed = rows.ref.div(
      np.sqrt(np.mean(np.square(rows), -1, { keepdims: true }).add(1e-5)),
    );
    const mean = np.mean(normed.reshape([16, 3, 16]), 1);
    return crossEntropy(np.matmul(mean, dense!), y);
  },
  batch: (step) => [
    np.array(integers(48, 60, 500 + step), { shape: [16, 3] }),
    np.array(integers(16, 12, 600 + step)),
  ],
};

const WIDTH = 16;
const CONTEXT = 8;

const transformer: Model = {
  init: () => ({
    wte: floats([24, WIDTH], 7, 0.3),
    wpe: floats([CONTEXT, WIDTH], 8, 0.1),
    qkv: floats([WIDTH, 3 * WIDTH], 9, 0.25),
    proj: floats([WIDTH, WIDTH], 10, 0.25),
    up: floats([WIDTH, 2 * WIDTH], 11, 0.25),
    down: floats([2 * WIDTH, WIDTH], 12, 0.2),
  }),
  loss: ({ wte, wpe, qkv, proj, up, down }, tokens, targets) => {
    const n = tokens.shape[0]!;
    const isToken = np.equal(
      np.arange(24).astype(np.int32).reshape([1, 24]),
      tokens.reshape([n * CONTEXT, 1]),
    );
    const x = np
      .matmul(isToken.astype(np.float32), wte!.ref)
      .reshape([n, CONTEXT, WIDTH])
      .add(wpe!)
      .reshape([n * CONTEXT, WIDTH]);
    const all = np.matmul(x.ref, qkv!);
    const part = (i: number) =>
      all.ref
        .slice([], [i * WIDTH, (i + 1) * WIDTH])
        .reshape([n, CONTEXT, 2, WIDTH / 2]);
    const mixed = nn
      .dotProductAttention(part(0), part(1), part(2), { isCausal: true })
      .reshape([n * CONTEXT, WIDTH]);
    all.dispose();
    const attended = x.add(np.matmul(mixed, proj!));
    const hidden = nn.relu(np.matmul(attended.ref, up!));
    const out = attended.add(np.matmul(hidden, down!));
    return crossEntropy(
      np.matmul(out, np.transpose(wte!)),
      targets.reshape([n * CONTEXT]),
    );
  },
  batch: (step) => [
    np.array(integers(4 * CONTEXT, 24, 700 + step), { shape: [4, CONTEXT] }),
    np.array(integers(4 * CONTEXT, 24, 800 + step), { shape: [4, CONTEXT] }),
  ],
};

export const models = { MLP: mlp, CNN: cnn, embedding, transformer };

/** Adam as its paper has it, in operations of jax-js under jit, with optax's interface. */
export function plainAdam(lr: number): GradientTransformation {
  type State = { m: Params; v: Params; count: number };
  const step = jit(
    (g: Tensor, m: Tensor, v: Tensor, c1: Tensor, c2: Tensor) => {
      const m1 = m.mul(0.9).add(g.ref.mul(1 - 0.9));
      const v1 = v.mul(0.999).add(np.square(g).mul(1 - 0.999));
      const scaled = np.sqrt(v1.ref).div(c2).add(1e-8);
      return [m1.ref.div(c1).div(scaled).mul(-lr), m1, v1];
    },
  );
  const optimizer = {
    init(params: Params): State {
      const zeros = () => mapParams(params, (p) => np.zeros(p.shape));
      const state = { m: zeros(), v: zeros(), count: 0 };
      tree.dispose(params);
      return state;
    },
    update(gradients: Params, { m, v, count }: State, params?: Params) {
      tree.dispose(params);
      const t = count + 1;
      const next: State = { m: {}, v: {}, count: t };
      const updates: Params = {};
      for (const name of Object.keys(gradients)) {
        const [u, m1, v1] = step(
          gradients[name]!,
          m[name]!,
          v[name]!,
          np.array(1 - 0.9 ** t),
          np.array(Math.sqrt(1 - 0.999 ** t)),
        ) as [Tensor, Tensor, Tensor];
        updates[name] = u;
        next.m[name] = m1;
        next.v[name] = v1;
      }
      return [updates, next];
    },
  };
  return optimizer as unknown as GradientTransformation;
}

/** As optax's applyUpdates. */
export const applyUpdates = (params: Params, updates: Params): Params =>
  mapParams(params, (p, name) => p.add(updates[name]!));

const mapParams = (params: Params, map: (p: Tensor, name: string) => Tensor) =>
  Object.fromEntries(
    Object.entries(params).map(([name, p]) => [name, map(p, name)]),
  );

/** Trains from the model's start, waiting for each gradient; the loss of every step. */
export async function losses(
  { init, loss, batch }: Model,
  optimizer: GradientTransformation,
  steps: number,
  after?: () => void,
): Promise<number[]> {
  const backward = jit(valueAndGrad(loss));
  let params = init();
  let state: OptState = optimizer.init(tree.ref(params));
  const seen: number[] = [];
  for (let step = 0; step < steps; step++) {
    const [value, gradients] = backward(tree.ref(params), ...batch(step));
    await jax.blockUntilReady(gradients);
    seen.push((await value.data())[0]!);
    let updates: Params;
    [updates, state] = optimizer.update(
      gradients as Params,
      state,
      tree.ref(params),
    );
    params = applyUpdates(params, updates);
    await jax.blockUntilReady(params);
    after?.();
  }
  tree.dispose(params);
  tree.dispose(state);
  backward.dispose();
  return seen;
}
