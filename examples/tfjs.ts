import * as tf from "@tensorflow/tfjs-core";
import { layers, sequential } from "@tensorflow/tfjs-layers";
import "@tensorflow/tfjs-backend-wasm";
import { adamw8bit } from "lowbit/tfjs";

await tf.setBackend("wasm");
const model = sequential();
model.add(layers.dense({ units: 256, activation: "relu", inputShape: [32] }));
model.add(layers.dense({ units: 1 }));
const optimizer = adamw8bit(1e-2); // was tf.train.adam(1e-2)
model.compile({ optimizer, loss: "meanSquaredError" });
const x = tf.randomNormal([256, 32], 0, 1, "float32", 7);
await model.fit(x, tf.mean(x, 1, true), { epochs: 20, verbose: 0 });
console.log("loss", String(model.evaluate(x, tf.mean(x, 1, true))));
console.table(optimizer.explain()); // 2 bytes a parameter where it was 8
