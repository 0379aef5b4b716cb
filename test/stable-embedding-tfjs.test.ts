// The stable embedding layer on TensorFlow.js, against the one on typed arrays.

import * as core from "@tensorflow/tfjs-core";
import * as layers from "@tensorflow/tfjs-layers";
import "@tensorflow/tfjs-backend-cpu";
import "@tensorflow/tfjs-backend-wasm";
import { beforeAll, describe, expect, test } from "vitest";
import { adamw8bit, createOptimizer } from "lowbit";
import { stableEmbedding } from "lowbit/nn";
import { stableEmbedding as onTf, stableEmbeddingLayer } from "lowbit/tfjs";
import { normals } from "./support/numbers.ts";

/** What `import * as tf from "@tensorflow/tfjs"` gives, less what is unused. */
const tf = { ...core, ...layers };
const StableEmbedding = stableEmbeddingLayer(tf);

const NAMES = ["weight", "scale", "bias"] as const;
const [vocabulary, width, seed] = [300, 24, 9];
const size = { inputDim: vocabulary, outputDim: width, seed };
/** [2, 4], with a row that repeats. */
const ids = [7, 0, 299, 7, 41, 7, 2, 2];
const direction = normals(ids.length * width, 3);

/** The layer on typed arrays, with a scale and a bias that show. */
function reference() {
  const plain = stableEmbedding({ vocabulary, width, seed });
  const { scale, bias } = plain.parameters;
  scale.data.set(normals(width, 1).map((x) => 1 + x / 3));
  bias.data.set(normals(width, 2));
  return plain;
}

/** Gives three variables the numbers of the reference. */
function assign(
  variables: Record<(typeof NAMES)[number], core.Variable>,
  { parameters }: ReturnType<typeof reference>,
) {
  for (const name of NAMES) {
    const { data, shape } = parameters[name];
    const tensor = tf.tensor(data, [...shape]);
    variables[name].assign(tensor);
    tensor.dispose();
  }
}

/** Largest difference as a share of the largest expected number. */
function distance(actual: ArrayLike<number>, expected: ArrayLike<number>) {
  expect(actual.length).toBe(expected.length);
  const largest = Math.max(...Array.from(expected, Math.abs));
  const differences = Array.from(actual, (x, i) => Math.abs(x - expected[i]!));
  return Math.max(...differences) / largest;
}

/** A model that predicts a word from four. */
function makeModel() {
  const model = tf.sequential();
  model.add(new StableEmbedding({ ...size, inputLength: 4 }));
  model.add(tf.layers.flatten());
  model.add(tf.layers.dense({ units: 3 }));
  return model;
}

describe.each(["cpu", "wasm"])("on %s", (backend) => {
  beforeAll(async () => {
    expect(await tf.setBackend(backend)).toBe(true);
    await tf.ready();
    expect(tf.getBackend()).toBe(backend);
  });

  test("starts with the numbers of lowbit/nn", async () => {
    const { parameters, dispose } = onTf(tf, size);
    const plain = stableEmbedding({ vocabulary, width, seed });
    for (const name of NAMES) {
      expect(parameters[name].shape).toEqual(plain.parameters[name].shape);
      expect(await parameters[name].data()).toEqual(
        plain.parameters[name].data,
      );
    }
    const model = makeModel();
    const weights = model.layers[0]!.getWeights();
    for (const [i, name] of NAMES.entries())
      expect(await weights[i]!.data()).toEqual(plain.parameters[name].data);
    dispose();
  });

  test("gives the same output, for ids of any shape and type", async () => {
    const plain = reference();
    const embedding = onTf(core, size);
    assign(embedding.parameters, plain);
    const expected = plain.forward(ids).output;
    for (const shape of [[8], [2, 4], [2, 2, 2]])
      for (const dtype of ["int32", "float32"] as const) {
        const output = embedding.apply(tf.tensor(ids, shape, dtype));
        expect(output.shape).toEqual([...shape, width]);
        expect(distance(await output.data(), expected)).toBeLessThan(2e-6);
      }
    embedding.dispose();
  });

  test("has the gradients of lowbit/nn, ids that repeat included", async () => {
    const plain = reference();
    const embedding = onTf(core, size);
    assign(embedding.parameters, plain);
    const expected = plain.forward(ids).backward(direction);
    const weights = tf.tensor(direction, [2, 4, width]);
    const { grads } = tf.variableGrads(
      () =>
        tf.sum(
          tf.mul(embedding.apply(tf.tensor2d(ids, [2, 4], "int32")), weights),
        ),
      Object.values(embedding.parameters),
    );
    for (const name of NAMES) {
      const gradient = grads[embedding.parameters[name].name]!;
      expect(
        distance(await gradient.data(), expected[name]),
        name,
      ).toBeLessThan(2e-6);
    }
    embedding.dispose();
  });

  test("the layer has the same output and gradients in a model", async () => {
    const plain = reference();
    const model = tf.sequential();
    model.add(new StableEmbedding({ ...size, inputShape: [4] }));
    expect(model.outputShape).toEqual([null, 4, width]);
    const variables = Object.fromEntries(
      model.layers[0]!.weights.map((weight, i) => [
        NAMES[i]!,
        weight.read() as core.Variable,
      ]),
    ) as Record<(typeof NAMES)[number], core.Variable>;
    assign(variables, plain);
    const pass = plain.forward(ids);
    const input = tf.tensor2d(ids, [2, 4]);
    const output = model.predict(input) as core.Tensor;
    expect(distance(await output.data(), pass.output)).toBeLessThan(2e-6);

    const expected = pass.backward(direction);
    const weights = tf.tensor(direction, [2, 4, width]);
    const { grads } = tf.variableGrads(
      () => tf.sum(tf.mul(model.apply(input) as core.Tensor, weights)),
      Object.values(variables),
    );
    for (const name of NAMES)
      expect(
        distance(await grads[variables[name].name]!.data(), expected[name]),
        name,
      ).toBeLessThan(2e-6);
    model.dispose();
  });

  test("a model learns with it", async () => {
    const model = makeModel();
    model.compile({
      optimizer: tf.train.adam(3e-2),
      loss: "meanSquaredError",
    });
    const x = tf.tensor2d(
      Array.from({ length: 32 }, (_, i) => (i * 7919) % vocabulary),
      [8, 4],
    );
    const y = tf.tensor2d(normals(24, 5), [8, 3]);
    const history = await model.fit(x, y, {
      epochs: 60,
      shuffle: false,
      verbose: 0,
    });
    const losses = history.history.loss as number[];
    expect(losses[0]).toBeGreaterThan(0.5);
    expect(losses.at(-1)).toBeLessThan(0.05);
    model.dispose();
  });

  test("learns with 8-bit AdamW and 32-bit state for the weight", async () => {
    const embedding = onTf(core, { ...size, name: `learner-${backend}` });
    const target = tf.tensor2d(normals(4 * width, 8), [4, width]);
    const some = tf.tensor1d([4, 9, 1, 0], "int32");
    const variables = Object.values(embedding.parameters);
    const parameters = Object.fromEntries(
      await Promise.all(
        variables.map(async (variable) => {
          const data = Float32Array.from(await variable.data());
          return [variable.name, { data, shape: variable.shape }] as const;
        }),
      ),
    );
    const optimizer = await createOptimizer(
      adamw8bit({ lr: 3e-2 }),
      parameters,
      { overrides: embedding.overrides(), minQuantizedSize: 0 },
    );
    expect(
      optimizer.memory().tensors.map(({ name, bits }) => [name, bits.m]),
    ).toEqual([
      [`learner-${backend}/weight`, 32],
      [`learner-${backend}/scale`, 8],
      [`learner-${backend}/bias`, 8],
    ]);
    let last = Infinity;
    for (let time = 0; time < 60; time++) {
      const { value, grads } = tf.variableGrads(
        () => tf.mean(tf.squaredDifference(embedding.apply(some), target)),
        variables,
      );
      last = (await value.data())[0]!;
      const read: Record<string, Float32Array> = {};
      for (const [name, gradient] of Object.entries(grads))
        read[name] = Float32Array.from(await gradient.data());
      await optimizer.step(read);
      for (const variable of variables) {
        const { data, shape } = parameters[variable.name]!;
        tf.tidy(() => void variable.assign(tf.tensor(data.slice(), shape)));
      }
      tf.dispose([value, grads]);
    }
    expect(last).toBeLessThan(0.05);
    optimizer.dispose();
    embedding.dispose();
  });

  test("leaves no tensors behind", () => {
    const before = tf.memory().numTensors;
    const embedding = onTf(core, size);
    expect(tf.memory().numTensors).toBe(before + 3);
    tf.tidy(() => {
      const input = tf.tensor1d(ids, "int32");
      const { value, grads } = tf.variableGrads(() =>
        tf.sum(tf.square(embedding.apply(input))),
      );
      tf.dispose([value, grads]);
    });
    embedding.apply(tf.tensor1d(ids, "int32")).dispose();
    expect(tf.memory().numTensors).toBe(before + 4); // the ids of the last line
    embedding.dispose();
    expect(tf.memory().numTensors).toBe(before + 1);
  });
});

describe("the layer", () => {
  test("is one class, however often it is asked for", () => {
    expect(stableEmbeddingLayer({ ...tf })).toBe(StableEmbedding);
    expect(StableEmbedding.className).toBe("StableEmbedding");
    expect(new StableEmbedding(size)).toBeInstanceOf(tf.layers.Layer);
  });

  test("takes ids of [batch, length] where nothing is said of them", () => {
    const layer = new StableEmbedding(size);
    expect(layer.batchInputShape).toEqual([null, null]);
    expect(layer.computeOutputShape([null, null])).toEqual([null, null, width]);
    expect(layer.computeOutputShape([5, 3, 2])).toEqual([5, 3, 2, width]);
    const other = new StableEmbedding({
      ...size,
      inputLength: 4,
      batchSize: 2,
    });
    expect(other.batchInputShape).toEqual([2, 4]);
  });

  test("comes back from its configuration", () => {
    const layer = new StableEmbedding({
      ...size,
      epsilon: 1e-3,
      inputLength: 4,
      name: "words",
      trainable: false,
    });
    const config = layer.getConfig();
    expect(config).toMatchObject({
      ...size,
      epsilon: 1e-3,
      inputLength: 4,
      name: "words",
      trainable: false,
    });
    const again = new StableEmbedding(config as never);
    expect(again.getConfig()).toEqual(config);
  });

  test("comes back from a saved model, with weights and predictions", async () => {
    const model = makeModel();
    const trained = model.layers[0]!.getWeights().map((weight, i) =>
      tf.add(weight, tf.tensor(normals(weight.size, i), weight.shape)),
    );
    model.layers[0]!.setWeights(trained);
    let saved: core.io.ModelArtifacts | undefined;
    await model.save({
      save: (artifacts) => {
        // As text, the way files and servers have it.
        const topology = JSON.stringify(artifacts.modelTopology);
        const modelTopology = JSON.parse(topology) as object;
        saved = { ...artifacts, modelTopology };
        return Promise.resolve({
          modelArtifactsInfo: {
            dateSaved: new Date(),
            modelTopologyType: "JSON",
          },
        });
      },
    });
    const loaded = await tf.loadLayersModel({
      load: () => Promise.resolve(saved!),
    });
    expect(loaded.layers[0]).toBeInstanceOf(StableEmbedding);
    expect(loaded.layers[0]!.getConfig()).toMatchObject(size);
    const input = tf.tensor2d([1, 2, 3, 4, 0, 299, 5, 5], [2, 4]);
    const outputs = [model, loaded].map((one) => one.predict(input));
    const [expected, actual] = await Promise.all(
      outputs.map((output) => (output as core.Tensor).data()),
    );
    expect(actual).toEqual(expected);
  });

  test("gives its weight 32-bit state by the variable's name", async () => {
    const layer = new StableEmbedding({ ...size, inputShape: [4] });
    expect(() => layer.overrides()).toThrow(
      `StableEmbedding: '${layer.name}' has no weight yet; add it to a model`,
    );
    const model = tf.sequential({ layers: [layer, tf.layers.flatten()] });
    model.add(tf.layers.dense({ units: 3 }));
    const parameters = Object.fromEntries(
      model.weights.map(({ name, shape }) => [
        name,
        { shape: shape as number[] },
      ]),
    );
    const optimizer = await createOptimizer(adamw8bit(), parameters, {
      overrides: layer.overrides(),
      minQuantizedSize: 0,
    });
    expect(optimizer.memory().tensors.map(({ bits }) => bits.v)).toEqual([
      32, 8, 8, 8, 8,
    ]);
    // The name under which gradients come.
    const { grads } = tf.variableGrads(() =>
      tf.sum(model.apply(tf.tensor2d([1, 2, 3, 4], [1, 4])) as core.Tensor),
    );
    expect(Object.keys(grads)).toContain(layer.overrides()[0]!.match);
    optimizer.dispose();
  });
});

describe("messages", () => {
  test.each<[string, () => unknown]>([
    [
      "StableEmbedding: inputDim must be a whole number, 1 or more, given -1",
      () => new StableEmbedding({ ...size, inputDim: -1 }),
    ],
    [
      "stableEmbedding: outputDim must be a whole number, 1 or more, given undefined",
      () => onTf(core, { inputDim: 3 } as never),
    ],
    [
      "StableEmbedding: epsilon must be a number above 0, given 0",
      () => new StableEmbedding({ ...size, epsilon: 0 }),
    ],
    [
      "stableEmbedding: give { inputDim, outputDim }, given undefined",
      () => onTf(core, undefined as never),
    ],
    [
      "stableEmbedding: the first argument must be your TensorFlow.js",
      () => onTf(size as never, size),
    ],
    [
      "stableEmbeddingLayer: this TensorFlow.js has no layers",
      () => stableEmbeddingLayer(core as never),
    ],
  ])("%s", (message, cause) => {
    expect(cause).toThrow(message);
  });

  test("a backend without kernels for the gradient says so", async () => {
    await tf.setBackend("wasm");
    const kernel = tf.getKernel("ScatterNd", "wasm")!;
    tf.unregisterKernel("ScatterNd", "wasm");
    try {
      const embedding = onTf(core, size);
      const input = tf.tensor1d(ids, "int32");
      // It can be used without training.
      expect((await embedding.apply(input).data()).length).toBe(8 * width);
      expect(() =>
        tf.variableGrads(() => tf.sum(embedding.apply(input))),
      ).toThrow(
        "stableEmbedding: the backend 'wasm' has neither of the kernels UnsortedSegmentSum and ScatterNd",
      );
      embedding.dispose();
    } finally {
      tf.registerKernel(kernel);
    }
  });
});
