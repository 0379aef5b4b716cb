// Four small models on TensorFlow.js, each from the same start whatever the backend.

import type { Scalar, Tensor, Tensor4D, Variable } from "@tensorflow/tfjs-core";
import { normals, randomSource } from "./numbers.ts";
import { tf } from "./tfjs.ts";

export interface TestModel {
  readonly variables: Variable[];
  loss(): Scalar;
  dispose(): void;
}

let made = 0;

/** Variables and constants of one model; `seed` counts up, so that no two are alike. */
function workshop() {
  const prefix = `model${made++}`;
  const variables: Variable[] = [];
  const constants: Tensor[] = [];
  let seed = 1;
  const weight = (name: string, shape: number[], scale?: number) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const fan = size / shape.at(-1)!;
    const values = normals(size, seed++, scale ?? 1 / Math.sqrt(fan));
    return variable(name, tf.tensor(values, shape));
  };
  const variable = (name: string, initial: Tensor) => {
    const one = tf.variable(initial, true, `${prefix}/${name}`);
    initial.dispose();
    variables.push(one);
    return one;
  };
  const constant = (shape: number[]) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const one = tf.tensor(normals(size, seed++), shape);
    constants.push(one);
    return one;
  };
  const ids = (shape: number[], below: number) => {
    const random = randomSource(seed++);
    const size = shape.reduce((a, b) => a * b, 1);
    const values = Int32Array.from({ length: size }, () =>
      Math.floor(random() * below),
    );
    const one = tf.tensor(values, shape, "int32");
    constants.push(one);
    return one;
  };
  return {
    weight,
    zeros: (name: string, shape: number[]) => variable(name, tf.zeros(shape)),
    ones: (name: string, shape: number[]) => variable(name, tf.ones(shape)),
    constant,
    ids,
    keep: (one: Tensor) => {
      constants.push(tf.keep(one));
      return one;
    },
    model: (loss: () => Tensor): TestModel => ({
      variables,
      loss: () => tf.tidy(() => loss() as Scalar),
      dispose: () => tf.dispose([variables, constants]),
    }),
  };
}

/** Of logits [n, classes] for class numbers [n]. */
function crossEntropy(logits: Tensor, labels: Tensor): Tensor {
  const chosen = tf.oneHot(labels as never, logits.shape.at(-1)!);
  const sums = tf.sum(tf.mul(tf.logSoftmax(logits), chosen), -1);
  return tf.neg(tf.mean(sums));
}

function norm(x: Tensor, scale: Tensor, shift: Tensor): Tensor {
  const { mean, variance } = tf.moments(x, -1, true);
  const normed = tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-5)));
  return tf.add(tf.mul(normed, scale), shift);
}

function mlp(): TestModel {
  const { weight, zeros, ones, constant, ids, model } = workshop();
  const [w1, b1] = [weight("w1", [16, 64]), zeros("b1", [64])];
  const [scale, shift] = [ones("scale", [64]), zeros("shift", [64])];
  const [w2, b2] = [weight("w2", [64, 48]), zeros("b2", [48])];
  const w3 = weight("w3", [48, 3]);
  const [x, y] = [constant([32, 16]), ids([32], 3)];
  return model(() => {
    const hidden = tf.relu(tf.add(tf.matMul(x as never, w1 as never), b1));
    const normed = norm(hidden, scale, shift);
    const next = tf.tanh(tf.add(tf.matMul(normed as never, w2 as never), b2));
    return crossEntropy(tf.matMul(next as never, w3 as never), y);
  });
}

function cnn(): TestModel {
  const { weight, zeros, constant, ids, model } = workshop();
  const [f1, b1] = [weight("f1", [3, 3, 2, 8]), zeros("b1", [8])];
  const [f2, b2] = [weight("f2", [3, 3, 8, 12]), zeros("b2", [12])];
  const out = weight("out", [4 * 4 * 12, 3]);
  const [x, y] = [constant([6, 8, 8, 2]), ids([6], 3)];
  const layer = (input: Tensor, filter: Tensor, bias: Tensor) =>
    tf.relu(
      tf.add(tf.conv2d(input as Tensor4D, filter as Tensor4D, 1, "same"), bias),
    );
  return model(() => {
    const first = tf.maxPool(layer(x, f1, b1) as Tensor4D, 2, 2, "valid");
    const flat = tf.reshape(layer(first, f2, b2), [6, -1]);
    return crossEntropy(tf.matMul(flat as never, out as never), y);
  });
}

function embedding(): TestModel {
  const { weight, zeros, ids, model } = workshop();
  const table = weight("table", [60, 24], 0.5);
  const [w, b] = [weight("w", [24, 40]), zeros("b", [40])];
  const out = weight("out", [40, 5]);
  const [words, y] = [ids([16, 6], 60), ids([16], 5)];
  return model(() => {
    const rows = tf.mean(tf.gather(table, words as never), 1);
    const hidden = tf.relu(tf.add(tf.matMul(rows as never, w as never), b));
    return crossEntropy(tf.matMul(hidden as never, out as never), y);
  });
}

/** One block with causal attention on two heads, and a head tied to the table. */
function transformer(): TestModel {
  const [batch, length, width, heads, words] = [3, 8, 16, 2, 20];
  const { weight, zeros, ones, ids, keep, model } = workshop();
  const table = weight("table", [words, width], 0.3);
  const places = weight("places", [length, width], 0.1);
  const [qkv, out] = [
    weight("qkv", [width, 3 * width]),
    weight("out", [width, width]),
  ];
  const [up, down] = [
    weight("up", [width, 4 * width]),
    weight("down", [4 * width, width]),
  ];
  const norms = ["n1", "n2", "n3"].map(
    (name) =>
      [ones(`${name}/s`, [width]), zeros(`${name}/b`, [width])] as const,
  );
  const [x, y] = [ids([batch, length], words), ids([batch * length], words)];
  const mask = keep(
    tf.tidy(() =>
      tf.mul(
        tf.sub(
          1,
          tf.linalg.bandPart(tf.ones([length, length]) as never, -1, 0),
        ),
        -1e9,
      ),
    ),
  );
  const dense = (input: Tensor, matrix: Tensor) =>
    tf.reshape(
      tf.matMul(
        tf.reshape(input, [batch * length, -1]) as never,
        matrix as never,
      ),
      [batch, length, -1],
    );
  const split = (input: Tensor) =>
    tf.transpose(
      tf.reshape(input, [batch, length, heads, width / heads]),
      [0, 2, 1, 3],
    );
  return model(() => {
    let h: Tensor = tf.add(tf.gather(table, x as never), places);
    const [q, k, v] = tf
      .split(dense(norm(h, ...norms[0]!), qkv), 3, -1)
      .map(split) as [Tensor, Tensor, Tensor];
    const scores = tf.div(
      tf.matMul(q as never, k as never, false, true),
      Math.sqrt(width / heads),
    );
    const mixed = tf.matMul(
      tf.softmax(tf.add(scores, mask)) as never,
      v as never,
    );
    const joined = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [
      batch,
      length,
      width,
    ]);
    h = tf.add(h, dense(joined, out));
    h = tf.add(h, dense(tf.relu(dense(norm(h, ...norms[1]!), up)), down));
    const last = tf.reshape(norm(h, ...norms[2]!), [batch * length, width]);
    return crossEntropy(
      tf.matMul(last as never, table as never, false, true),
      y,
    );
  });
}

export const models: Readonly<Record<string, () => TestModel>> = {
  MLP: mlp,
  CNN: cnn,
  embedding,
  transformer,
};
