// Trains a byte-level GPT from a program of yours. Run it with
//   node --conditions=lowbit-source examples/train.ts

import { readFileSync } from "node:fs";
import { run, Trainer } from "lowbit/trainer";

const text = readFileSync(process.argv[2] ?? import.meta.filename);
const trainer = await Trainer.create(text, {
  optimizer: "adamw8bit",
  lr: 3e-3,
  layers: 2,
  width: 64,
  context: 32,
  steps: 100,
});

const { stateBytes, stateBytes32 } = trainer.memory();
console.log(`state: ${stateBytes} bytes; in 32-bit: ${stateBytes32} bytes`);
for await (const event of run(trainer))
  if (event.kind === "validation")
    console.log(`step ${event.step}: ${event.loss.toFixed(2)} nats a byte`);
console.log(new TextDecoder().decode(await trainer.sample()));
trainer.dispose();
