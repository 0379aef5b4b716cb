// One process of a run on TensorFlow.js: trains, saves, or goes on from a file.
//
//   node tfjs-resume.ts <backend> <class> first <file>   three steps, save, three more
//   node tfjs-resume.ts <backend> <class> again <file>   load, three more
//
// Prints the losses of the last three steps and all weights after, as JSON.

import fs from "node:fs";
import type { io } from "@tensorflow/tfjs-core";
import * as door from "lowbit/tfjs";
import type { TfOptimizerFactory } from "lowbit/tfjs";
import { normals } from "./numbers.ts";
import { tf, useBackend, type BackendName } from "./tfjs.ts";

const [backend, recipe, part, file] = process.argv.slice(2) as [
  BackendName,
  string,
  string,
  string,
];

await useBackend(backend);
const x = tf.tensor(normals(24 * 10, 1), [24, 10]);
const y = tf.tensor(normals(24 * 2, 2), [24, 2]);

/** Three steps of eight rows. */
async function fit(model: InstanceType<typeof tf.LayersModel>) {
  const { history } = await model.fit(x, y, {
    epochs: 1,
    batchSize: 8,
    shuffle: false,
    verbose: 0,
  });
  return history.loss as number[];
}

function build() {
  const model = tf.sequential();
  const initial = (seed: number) => ({
    kernelInitializer: tf.initializers.glorotNormal({ seed }),
  });
  model.add(
    tf.layers.dense({
      units: 40,
      activation: "tanh",
      inputShape: [10],
      ...initial(3),
    }),
  );
  model.add(tf.layers.dense({ units: 32, activation: "relu", ...initial(4) }));
  model.add(tf.layers.dense({ units: 2, ...initial(5) }));
  const make = (door as unknown as Record<string, TfOptimizerFactory>)[recipe]!;
  model.compile({
    optimizer: make(1e-2, {
      minQuantizedSize: 64,
      overrides: [{ match: /bias/, bits: 32 }],
    }),
    loss: "meanSquaredError",
  });
  return model;
}

async function first() {
  const model = build();
  await fit(model);
  await model.save(
    tf.io.withSaveHandler(async (artifacts) => {
      const data = tf.io.CompositeArrayBuffer.join(artifacts.weightData);
      fs.writeFileSync(`${file}.bin`, new Uint8Array(data));
      fs.writeFileSync(
        file,
        JSON.stringify({ ...artifacts, weightData: undefined }),
      );
      const date = new Date();
      return {
        modelArtifactsInfo: { dateSaved: date, modelTopologyType: "JSON" },
      };
    }),
    { includeOptimizer: true },
  );
  return model;
}

async function again() {
  door.registerWith(tf);
  const artifacts = JSON.parse(
    fs.readFileSync(file, "utf8"),
  ) as io.ModelArtifacts;
  const { buffer } = Uint8Array.from(fs.readFileSync(`${file}.bin`));
  return tf.loadLayersModel(
    tf.io.fromMemory({ ...artifacts, weightData: buffer }),
  );
}

const model = part === "first" ? await first() : await again();
const losses = await fit(model);
const weights = [];
for (const weight of model.getWeights())
  weights.push(
    Buffer.from((await weight.data()).slice().buffer).toString("hex"),
  );
const optimizer = model.optimizer as InstanceType<typeof door.LowbitOptimizer>;
process.stdout.write(
  `\n${JSON.stringify({
    losses,
    weights,
    iterations: optimizer.iterations,
    bits: optimizer.memory().tensors.map(({ bits }) => bits),
  })}\n`,
);
// Dawn keeps the process alive.
process.exit(0);
