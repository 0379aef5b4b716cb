import type { TrainDevice } from "./config.ts";
import { InputError } from "./errors.ts";
import {
  createForward,
  type Jax,
  type Tensor,
  type Tensors,
} from "./forward.ts";
import { loadJax } from "./jax.ts";
import type { ModelSize, Parameter } from "./model.ts";
import type { Batch } from "./split.ts";
import { turn } from "./turn.ts";

export interface Gradients {
  /** Mean over the batch, in nats a byte. */
  readonly loss: number;
  readonly gradients: Readonly<Record<string, Float32Array>>;
}

/**
 * The model on jax-js, and the only place where numbers cross over.
 *
 * The parameters are at home in the caller's arrays, where the optimizer
 * changes them; jax-js has a copy, which `parametersChanged` marks as old. The
 * copies of parameters and gradients take some hundredths of a step.
 */
export class Host {
  readonly description: string;
  readonly #jax: Jax;
  /** Each array names it, as jax-js's default is the whole process's. */
  readonly #device: TrainDevice;
  readonly #model: ModelSize;
  readonly #parameters: Readonly<Record<string, Parameter>>;
  readonly #compiled: ReturnType<typeof compile>;
  #copies: Tensors | undefined;

  private constructor(
    jax: Jax,
    device: TrainDevice,
    description: string,
    model: ModelSize,
    parameters: Readonly<Record<string, Parameter>>,
  ) {
    this.#jax = jax;
    this.#device = device;
    this.description = description;
    this.#model = model;
    this.#parameters = parameters;
    this.#compiled = compile(jax, model);
  }

  /** @throws InputError when jax-js or the device is not there. */
  static async create(
    model: ModelSize,
    parameters: Readonly<Record<string, Parameter>>,
    options: { readonly device: TrainDevice; readonly threads: number },
  ): Promise<Host> {
    const { device, threads } = options;
    const jax = await loadJax(device, threads);
    const description =
      device === "wasm"
        ? `jax-js on wasm, ${threads === 1 ? "1 thread" : `${threads} threads`}`
        : `jax-js on ${device}`;
    return new Host(jax, device, description, model, parameters);
  }

  /** Loss and gradients of a batch. */
  async backward(batch: Batch): Promise<Gradients> {
    return this.#run(async () => {
      const [loss, gradients] = this.#compiled.backward(
        this.#arguments(),
        ...this.#tensors(batch),
      );
      const names = Object.keys(gradients);
      const [value, ...read] = await Promise.all([
        readFloats(loss),
        ...names.map((name) => readFloats(gradients[name]!)),
      ]);
      return {
        loss: value[0]!,
        gradients: Object.fromEntries(names.map((name, i) => [name, read[i]!])),
      };
    });
  }

  /** The loss alone, in nats a byte. */
  async loss(batch: Batch): Promise<number> {
    return this.#run(async () => {
      const loss = this.#compiled.loss(
        this.#arguments(),
        ...this.#tensors(batch),
      );
      return (await readFloats(loss))[0]!;
    });
  }

  /** 256 logits after each of the `context` tokens. */
  async logits(tokens: Int32Array<ArrayBuffer>): Promise<Float32Array> {
    return this.#run(() =>
      readFloats(
        this.#compiled.logits(this.#arguments(), this.#tensor(tokens)),
      ),
    );
  }

  /** To be called when the caller has changed the parameters' arrays. */
  parametersChanged(): void {
    this.#jax.tree.dispose(this.#copies);
    this.#copies = undefined;
  }

  dispose(): void {
    this.parametersChanged();
    for (const run of Object.values(this.#compiled)) run.dispose();
  }

  /** The parameters with a reference of their own, as a call consumes them. */
  #arguments(): Tensors {
    const { numpy: np, tree } = this.#jax;
    this.#copies ??= Object.fromEntries(
      Object.entries(this.#parameters).map(([name, { data, shape }]) => [
        name,
        np.array(data, { shape: [...shape], device: this.#device }),
      ]),
    );
    return tree.ref(this.#copies);
  }

  #tensor(values: Int32Array<ArrayBuffer>): Tensor {
    const { context } = this.#model;
    return this.#jax.numpy.array(values, {
      shape: [values.length / context, context],
      device: this.#device,
    });
  }

  #tensors({ tokens, targets }: Batch): [Tensor, Tensor] {
    return [this.#tensor(tokens), this.#tensor(targets)];
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    await turn();
    try {
      return await work();
    } catch (error) {
      // What V8 says when a WebAssembly memory cannot grow.
      if (error instanceof RangeError && /memory/i.test(error.message))
        throw new InputError(
          "there is not enough memory for this model; make batch, context, width or layers smaller",
          { cause: error },
        );
      throw error;
    }
  }
}

function compile(jax: Jax, model: ModelSize) {
  const { loss, logits } = createForward(jax, model);
  return {
    backward: jax.jit(jax.valueAndGrad(loss)),
    loss: jax.jit(loss),
    logits: jax.jit(logits),
  };
}

const readFloats = async (array: Tensor) =>
  (await array.data()) as Float32Array<ArrayBuffer>;
