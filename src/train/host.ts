import type { OptimizerOptions } from "../core/settings.ts";
import { fusedOptimizer, type FusedOptimizer } from "../hosts/jax/fused.ts";
import type { Recipe } from "../optimizers/define.ts";
import type { TrainDevice } from "./config.ts";
import { InputError } from "./errors.ts";
import {
  createForward,
  type Jax,
  type Tensor,
  type Tensors,
} from "./forward.ts";
import type { ModelSize, Parameter } from "./model.ts";
import type { Batch } from "./split.ts";
import { turn } from "./turn.ts";

export interface Gradients {
  /** Mean over the batch, in nats a byte. */
  readonly loss: number;
  /** Arrays of jax-js, computed, for {@link Host.update}. */
  readonly gradients: Tensors;
}

/**
 * The model on jax-js. Its parameters are arrays of jax-js, in whose memory the
 * optimizer changes them.
 */
export class Host {
  readonly description: string;
  readonly #jax: Jax;
  /** Each array names it, as jax-js's default is the whole process's. */
  readonly #device: TrainDevice;
  readonly #model: ModelSize;
  readonly #compiled: ReturnType<typeof compile>;
  #parameters: Tensors = {};

  /** What the GPU refused, of which jax-js says nothing. */
  #refused: GPUError | undefined;

  /** @param jax with the device, as from `loadJax` */
  constructor(
    jax: Jax,
    model: ModelSize,
    parameters: Readonly<Record<string, Parameter>>,
    options: { readonly device: TrainDevice; readonly threads: number },
  ) {
    const { device, threads } = options;
    this.#jax = jax;
    this.#device = device;
    this.description =
      device === "wasm"
        ? `jax-js on wasm, ${threads === 1 ? "1 thread" : `${threads} threads`}`
        : `jax-js on ${device}`;
    this.#model = model;
    this.#compiled = compile(jax, model);
    if (device === "webgpu")
      jax
        .getWebGPUDevice()
        .addEventListener("uncapturederror", this.#onRefusal);
    this.setParameters(parameters);
  }

  readonly #onRefusal = ({ error }: GPUUncapturedErrorEvent) => {
    this.#refused ??= error;
  };

  /** An optimizer for the parameters, where they are. */
  createOptimizer(
    recipe: Recipe,
    options: OptimizerOptions,
  ): Promise<FusedOptimizer> {
    return fusedOptimizer(this.#jax, recipe, this.#parameters, {
      ...options,
      // No engine of ours computes where jax-js's plain one does.
      ...(this.#device === "cpu" ? { device: "reference" } : {}),
    });
  }

  /** Loss and gradients of a batch. */
  async backward(batch: Batch): Promise<Gradients> {
    return this.#run(async () => {
      const [loss, gradients] = this.#compiled.backward(
        this.#arguments(),
        ...this.#tensors(batch),
      );
      const value = (await readFloats(loss))[0]!;
      await this.#jax.blockUntilReady(gradients);
      return { loss: value, gradients: gradients as Tensors };
    });
  }

  /** New parameters; consumes the gradients. */
  async update(optimizer: FusedOptimizer, gradients: Tensors): Promise<void> {
    this.#parameters = await this.#run(() =>
      optimizer.step(this.#parameters, gradients),
    );
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

  /** A copy of the parameters. */
  async parameters(): Promise<Record<string, Parameter>> {
    const copies: Record<string, Parameter> = {};
    for (const [name, array] of Object.entries(this.#parameters))
      copies[name] = {
        data: (await readFloats(array.ref)).slice(),
        shape: array.shape,
      };
    return copies;
  }

  setParameters(parameters: Readonly<Record<string, Parameter>>): void {
    const { numpy: np, tree } = this.#jax;
    tree.dispose(this.#parameters);
    this.#parameters = Object.fromEntries(
      Object.entries(parameters).map(([name, { data, shape }]) => [
        name,
        np.array(data, { shape: [...shape], device: this.#device }),
      ]),
    );
  }

  dispose(): void {
    if (this.#device === "webgpu")
      this.#jax
        .getWebGPUDevice()
        .removeEventListener("uncapturederror", this.#onRefusal);
    this.#jax.tree.dispose(this.#parameters);
    this.#parameters = {};
    for (const run of Object.values(this.#compiled)) run.dispose();
  }

  /** The parameters with a reference of their own, as a call consumes them. */
  #arguments(): Tensors {
    return this.#jax.tree.ref(this.#parameters);
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

  /** @throws InputError when the GPU has refused something: the numbers mean nothing then. */
  #checkGpu(): void {
    if (!this.#refused) return;
    const { message } = this.#refused;
    throw new InputError(
      `the GPU refused a step: ${message.split("\n")[0]}; it may be too large: make batch, context, width or layers smaller`,
      { cause: this.#refused },
    );
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    await turn();
    try {
      const result = await work();
      this.#checkGpu();
      return result;
    } catch (error) {
      this.#checkGpu();
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
