// planMemory against what others published and what real runs allocate.

import * as tf from "@tensorflow/tfjs-core";
import "@tensorflow/tfjs-backend-cpu";
import { createOptimizer, optimizerByName } from "lowbit";
import {
  activationBytes,
  largestAlike,
  modelFromConfig,
  modelFromSizes,
  parametersOf,
  planMemory,
  presets,
  publicModel,
  publicModelNames,
  runPreset,
  type PlanModel,
} from "lowbit/plan";
import { parameterShapes, Trainer } from "lowbit/trainer";
import { describe, expect, onTestFinished, test } from "vitest";
import { memories } from "./support/memories.ts";
import { describeGpu, openDevice } from "./support/gpu.ts";

/** Whether a plan is within 5 % of what was measured. */
function expectWithin5Percent(planned: number, measured: number, what: string) {
  expect(planned / measured, what).toBeGreaterThan(0.95);
  expect(planned / measured, what).toBeLessThan(1.05);
}

describe("parameters of public models", () => {
  // As the models' cards and PyTorch's num_parameters() give them.
  test.each(
    Object.entries({
      distilgpt2: 81_912_576,
      gpt2: 124_439_808,
      "gpt2-medium": 354_823_168,
      "gpt2-large": 774_030_080,
      "gpt2-xl": 1_557_611_200,
      "roberta-base": 124_697_433,
      "opt-125m": 125_239_296,
      "opt-350m": 331_196_416,
      "opt-1.3b": 1_315_758_080,
      "opt-2.7b": 2_651_596_800,
      "opt-6.7b": 6_658_473_984,
      "t5-small": 60_506_624,
      "t5-base": 222_903_552,
      "t5-large": 737_668_096,
      "mt5-small": 300_176_768,
      "mt5-base": 582_401_280,
      "mt5-large": 1_229_581_312,
      "mt5-xl": 3_742_619_648,
      "llama-7b": 6_738_415_616,
      "llama-13b": 13_015_864_320,
      "tinyllama-1.1b": 1_100_048_384,
      "mistral-7b": 7_241_732_096,
      "qwen2.5-0.5b": 494_032_768,
      "qwen2.5-1.5b": 1_543_714_304,
      "qwen2.5-7b": 7_615_616_512,
    }),
  )("%s", (name, parameters) => {
    expect(parametersOf(publicModel(name)!)).toBe(parameters);
  });

  test.each([
    // BertModel, with its pooler; BertForMaskedLM has a head in its place.
    ["bert-base", "BertModel", 109_482_240],
    ["bert-base", "BertForMaskedLM", 109_514_298],
    ["bert-large", "BertModel", 335_141_888],
    ["roberta-base", "RobertaModel", 124_645_632],
    ["roberta-large", "RobertaModel", 355_359_744],
    ["roberta-base", "RobertaForSequenceClassification", 124_647_170],
  ])("%s as %s", (name, architecture, parameters) => {
    const model = publicModel(name, { architectures: [architecture] })!;
    expect(parametersOf(model)).toBe(parameters);
  });

  test("a Qwen 3 and a first Qwen from their configurations", () => {
    const qwen3 = modelFromConfig({
      ...{ model_type: "qwen3", vocab_size: 151_936, hidden_size: 1024 },
      ...{ num_hidden_layers: 28, intermediate_size: 3072, head_dim: 128 },
      ...{ num_attention_heads: 16, num_key_value_heads: 8 },
      ...{ tie_word_embeddings: true, max_position_embeddings: 40_960 },
    });
    expect(parametersOf(qwen3)).toBe(596_049_920); // Qwen3-0.6B
    const qwen = modelFromConfig({
      ...{ model_type: "qwen", vocab_size: 151_936, hidden_size: 4096 },
      ...{ num_hidden_layers: 32, intermediate_size: 22_016, seq_length: 8192 },
      ...{ num_attention_heads: 32 },
    });
    expect(parametersOf(qwen)).toBe(7_721_324_544); // Qwen-7B
  });

  test("told by their size alone", () => {
    const sizes = { parameters: 7e9, layers: 32, width: 4096 };
    const count = parametersOf(modelFromSizes(sizes));
    expect(Math.abs(count / 7e9 - 1)).toBeLessThan(0.001);
    const rough = parametersOf(modelFromSizes({ parameters: 125e6 }));
    expect(Math.abs(rough / 125e6 - 1)).toBeLessThan(0.01);
    expect(() => modelFromSizes({ parameters: 1e6, width: 4096 })).toThrow(
      /more than 1000000 parameters/,
    );
  });
});

describe("the papers", () => {
  test.each(Object.keys(presets))("%s comes out as printed", (name) => {
    for (const { memoryGiB, largest } of runPreset(presets[name]!))
      for (const { recipe, model, printed } of largest)
        expect(model, `${memoryGiB} GiB, ${recipe}`).toBe(printed);
  });

  // Paper 2, table 4: what was saved against 32-bit AdamW, as measured there. Its
  // GB are 2^30 bytes: 355 million parameters save 1.97 of them with 8 bits.
  test.each([
    ["roberta-large", "adamw8bit", 1.97],
    ["roberta-large", "adamw4bitBlock", 2.31],
    ["roberta-large", "factor4bit", 2.48],
    ["gpt2-medium", "adamw8bit", 1.97],
    ["gpt2-medium", "adamw4bitBlock", 2.27],
    ["gpt2-medium", "factor4bit", 2.45],
    ["llama-7b", "adamw4bitBlock", 43.54],
  ])("%s with %s saves the %d GiB of paper 2, table 4", (name, recipe, gib) => {
    const { rows } = planMemory(publicModel(name)!, {
      recipes: ["adamw32bit", recipe],
    });
    expectWithin5Percent(rows[1]!.savedBytes / 2 ** 30, gib, recipe);
  });

  // Paper 1, table 1: "memory saved" on a 1.5B model and RoBERTa-large.
  test.each([
    ["gpt2-xl", 8.5],
    ["roberta-large", 2.0],
  ])("%s with 8 bits saves the %d GB of paper 1, table 1", (name, gb) => {
    const { rows } = planMemory(publicModel(name)!, {
      recipes: ["adam32bit", "adam8bit"],
    });
    const saved = rows[1]!.savedBytes / 2 ** 30;
    expect(Math.abs(saved / gb - 1)).toBeLessThan(0.08);
  });

  test("activations are those of arXiv 2205.05198: s b h (34 + 5 a s / h) a layer", () => {
    const [b, s, h, a, layers] = [3, 512, 1024, 16, 24];
    const stack = {
      ...{ layers, heads: a, headWidth: h / a, keyHeads: a },
      ...{ feedForward: 4 * h, gated: false, cross: false },
      ...{ dropout: true, attentionDropout: true },
    };
    const found = activationBytes(
      { stacks: [stack], width: h, vocabulary: 0, context: s },
      {
        ...{ batch: b, context: s, bytes: 2 },
        ...{ checkpointing: false, attention: "standard" },
      },
    );
    expect(found.layers + found.attention).toBe(
      layers * s * b * h * (34 + (5 * a * s) / h),
    );
  });
});

/** A GPT that a test can afford. */
const small = {
  ...{ layers: 3, heads: 4, width: 192, context: 64 },
  ...{ batch: 2, threads: 1, sampleLength: 0 },
};

describe("what real runs allocate, within 5 %:", () => {
  const recipes = ["adamw32bit", "adamw8bit", "adamw4bit", "factor4bit"];
  const text = new TextEncoder().encode("to be, or not to be. ".repeat(60));

  // First, as the heap of jax-js belongs to the process and never shrinks.
  test("activations in the heap of jax-js, within 10 %", async () => {
    const before = memories.length;
    const trainer = await Trainer.create(text, small);
    onTestFinished(() => trainer.dispose());
    await trainer.step();
    const heap = Math.max(
      ...memories.slice(before).map(({ buffer }) => buffer.byteLength),
    );
    const { activations, parameters } = planMemory(
      modelFromConfig({ ...trainer.config }),
      { host: "jax", batch: small.batch },
    );
    // Four arrays of the parameters' size and the states live there, too, and
    // 4 MiB of its own.
    const { stateBytes } = trainer.memory();
    const measured = heap - 16 * parameters - stateBytes - 2 ** 22;
    expect(Math.abs(activations!.total / measured - 1)).toBeLessThan(0.1);
  });

  test.each(recipes)("a training run with %s", async (optimizer) => {
    const trainer = await Trainer.create(text, { ...small, optimizer });
    onTestFinished(() => trainer.dispose());
    await trainer.step();
    const plan = planMemory(modelFromConfig({ ...trainer.config }), {
      recipes: [optimizer],
      host: "jax",
    });
    const held = Object.values(await trainer.weights()).map(({ data }) => data);
    const bytes = held.reduce((sum, { byteLength }) => sum + byteLength, 0);
    expectWithin5Percent(plan.parameterBytes, bytes, "parameters");
    expectWithin5Percent(
      plan.rows[0]!.stateBytes,
      trainer.memory().stateBytes,
      "state",
    );
  });

  test.each(recipes)("WebAssembly memory of %s", async (name) => {
    const shapes = parameterShapes({ ...small, width: 384 });
    const before = memories.length;
    const optimizer = await createOptimizer(
      optimizerByName(name)(),
      Object.fromEntries(
        Object.entries(shapes).map(([key, shape]) => [key, { shape }]),
      ),
      { device: "wasm", resident: true, threads: 1 },
    );
    onTestFinished(() => optimizer.dispose());
    const allocated = memories
      .slice(before)
      .reduce((sum, { buffer }) => sum + buffer.byteLength, 0);
    const plan = planMemory({ name, shapes }, { recipes: [name] });
    const { workspaceBytes } = optimizer.memory();
    expectWithin5Percent(
      plan.rows[0]!.totalBytes,
      allocated - workspaceBytes,
      "parameters, gradients and state",
    );
  });

  describeGpu("on WebGPU", () => {
    test.each(recipes)("buffers of %s", async (name) => {
      const device = await openDevice();
      onTestFinished(() => device.destroy());
      let allocated = 0;
      const create = device.createBuffer.bind(device);
      device.createBuffer = (descriptor) => {
        allocated += descriptor.size;
        return create(descriptor);
      };
      const shapes = parameterShapes({ ...small, width: 384 });
      const parameters = Object.fromEntries(
        Object.entries(shapes).map(([key, shape]) => [key, { shape }]),
      );
      const optimizer = await createOptimizer(
        optimizerByName(name)(),
        parameters,
        { device, resident: true },
      );
      onTestFinished(() => optimizer.dispose());
      const plan = planMemory({ name, shapes }, { recipes: [name] });
      const { workspaceBytes } = optimizer.memory();
      expectWithin5Percent(
        plan.rows[0]!.totalBytes,
        allocated - workspaceBytes,
        "parameters, gradients and state",
      );
    });
  });

  test("temporaries and state of TensorFlow.js's own Adam", async () => {
    await tf.setBackend("cpu");
    const shapes = { a: [64, 64], b: [32, 128], c: [4096] };
    const variables = Object.entries(shapes).map(([name, shape]) =>
      tf.variable(tf.ones(shape), true, name),
    );
    const gradients = variables.map(({ name, shape }) => ({
      name,
      tensor: tf.ones(shape),
    }));
    const optimizer = tf.train.adam(1e-3);
    const before = tf.memory().numBytes;
    optimizer.applyGradients(gradients);
    const state = tf.memory().numBytes - before;
    const { peakBytes } = await tf.profile(() => {
      const now = tf.memory().numBytes;
      optimizer.applyGradients(gradients);
      expect(tf.memory().numBytes).toBe(now);
    });
    const temporaries = peakBytes - tf.memory().numBytes;
    const { rows } = planMemory({ name: "", shapes }, { host: "tfjs" });
    const own = rows.at(-1)!;
    expect(own.recipe).toBe("tf.train.adam");
    expectWithin5Percent(own.stateBytes, state, "state");
    expectWithin5Percent(own.temporaryBytes, temporaries, "temporaries");
    tf.disposeVariables();
  });
});

describe("a plan", () => {
  const gpt2 = publicModel("gpt2")!;

  test("counts the precision, and a batch in proportion", () => {
    const of = (dtype: "float32" | "bfloat16" | "mixed", batch = 1) =>
      planMemory(gpt2, { dtype, batch });
    const n = 124_439_808;
    expect(of("float32").parameterBytes).toBe(4 * n);
    expect(of("bfloat16").gradientBytes).toBe(2 * n);
    expect(of("mixed").parameterBytes).toBe(6 * n);
    expect(of("float32", 4).activations!.total).toBe(
      4 * of("float32").activations!.total,
    );
    expect(of("bfloat16").activations!.total).toBeLessThan(
      0.75 * of("float32").activations!.total,
    );
  });

  test("knows what checkpointing and flash attention save", () => {
    const plain = planMemory(gpt2).activations!;
    const kept = planMemory(gpt2, { checkpointing: true }).activations!;
    const flash = planMemory(gpt2, { attention: "flash" }).activations!;
    expect(kept.layers + kept.attention).toBeLessThan(
      (plain.layers + plain.attention) / 6,
    );
    expect(flash.attention).toBe(0);
    expect(flash.head).toBe(plain.head);
  });

  test("the largest model alike fits, and the next larger does not", () => {
    const options = { memory: 8e9, recipes: ["adamw8bit"] };
    const [found] = largestAlike(gpt2, options);
    expect(found!.totalBytes).toBeLessThanOrEqual(8e9);
    expect(found!.totalBytes).toBeGreaterThan(7e9);
    // The same proportions, told as a configuration of their own.
    const again = modelFromConfig({
      ...{ model_type: "gpt2", vocab_size: 50_257, n_positions: 1024 },
      ...{ n_layer: found!.layers, n_embd: found!.width, n_head: 12 },
    });
    expect(parametersOf(again)).toBe(found!.parameters);
    const larger = largestAlike(gpt2, { ...options, memory: 16e9 });
    expect(larger[0]!.parameters).toBeGreaterThan(1.3 * found!.parameters);
  });

  test("refuses options that are unknown or no sizes", () => {
    const plan = (options: object) => () => planMemory(gpt2, options);
    expect(plan({ contxt: 5 })).toThrow(/did you mean 'context'/);
    expect(plan({ batch: 0 })).toThrow(/batch must be a whole number/);
    expect(plan({ context: 4096 })).toThrow(/1024 tokens at most/);
    expect(plan({ dtype: "int8" })).toThrow(/float32, bfloat16/);
    expect(plan({ memory: -1 })).toThrow(/memory must be a number of bytes/);
    expect(plan({ recipes: ["adamw8bits"] })).toThrow(/'adamw8bit'/);
  });

  test("every public model can be planned with every optimizer", () => {
    for (const name of publicModelNames()) {
      const { rows } = planMemory(publicModel(name)!);
      for (const row of rows) expect(row.totalBytes, name).toBeGreaterThan(1e8);
    }
  });
});

describe("a plan says when low-bit state will hardly help:", () => {
  const notes = (model: PlanModel, options: object = {}) =>
    planMemory(model, options).notes.join("\n");

  test("not for a language model with a batch of 1", () => {
    expect(notes(publicModel("gpt2-medium")!)).not.toMatch(/hardly/);
  });

  test("a large batch, whose activations fill the memory", () => {
    expect(notes(publicModel("gpt2")!, { batch: 32 })).toMatch(
      /hardly help: it saves .* as activations take/,
    );
  });

  test("LoRA, whose state is small", () => {
    const plan = planMemory(publicModel("llama-7b")!, {
      lora: 8,
      dtype: "bfloat16",
    });
    // Rank 8 on all seven matrices of Llama 7B: 19,988,480 numbers (PEFT's count).
    expect(plan.trained).toBe(19_988_480);
    expect(plan.notes.join()).toMatch(
      /adapters train 0.30 % of the parameters/,
    );
  });

  test("a file of adapters", () => {
    const shapes = { "q.lora_A.weight": [8, 64], "q.lora_B.weight": [64, 8] };
    expect(notes({ name: "adapters", shapes })).toMatch(/with --lora RANK/);
  });

  test("a convolutional network", () => {
    const shapes = {
      "conv1.weight": [64, 3, 7, 7],
      "layer4.conv2.weight": [512, 512, 3, 3],
      "fc.weight": [1000, 512],
    };
    expect(notes({ name: "resnet", shapes })).toMatch(
      /convolutional network: activations.* --activations SIZE/,
    );
    // ResNet-50's 25.6 million parameters with a batch of 32 images.
    const known = { activations: 2.8e9, recipes: ["sgd32bit", "sgd8bit"] };
    expect(notes({ name: "resnet", shapes }, known)).toMatch(/hardly help/);
  });

  test("inference", () => {
    expect(notes(publicModel("gpt2")!)).toMatch(/Inference keeps no/);
  });

  test("and what browsers' limits mean", () => {
    const text = notes(publicModel("gpt2")!);
    expect(text).toMatch(/WebGPU: one tensor .* wte.weight with 154 MB/);
    expect(notes(publicModel("gpt2-xl")!)).toMatch(/WebAssembly: .*4.29 GB/);
    expect(notes(publicModel("gpt2-xl")!, { host: "pytorch" })).not.toMatch(
      /WebAssembly|WebGPU/,
    );
  });
});
