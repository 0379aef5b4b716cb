/** The way to the numbers that every backend has. */
import type { Variable } from "@tensorflow/tfjs-core";
import type { Engine } from "../../engines/engine.ts";
import { referenceEngine } from "../../engines/reference/engine.ts";
import { wasmEngine } from "../../engines/wasm/engine.ts";
import { assign, type Access } from "./access.ts";

/** For machines without SIMD in WebAssembly, or pages that forbid WebAssembly. */
function plainEngine(): Engine {
  try {
    wasmEngine.createSessionSync!([], {
      skip: "element",
      clip: false,
      resident: false,
      threads: 1,
    }).dispose();
    return wasmEngine;
  } catch {
    return referenceEngine;
  }
}

/**
 * The way that every backend has: values are read, and what comes out is
 * assigned as a new tensor, so that nothing that was read before changes.
 */
export function plainAccess(backend: object): Access {
  const engine = plainEngine();
  const values = keepsTextures(backend) ? new Remembered() : undefined;
  return {
    description: `${engine.name}, through dataSync and assign`,
    engine,
    ready: Promise.resolve(),
    portions: true,
    onDevice: false,
    update(updates, apply) {
      const gradients: Record<string, Float32Array> = {};
      const parameters: Record<string, Float32Array> = {};
      for (const { variable, gradient } of updates) {
        parameters[variable.name] = (
          values?.of(variable) ?? (variable.dataSync() as Float32Array)
        ).slice();
        gradients[variable.name] = gradient.dataSync() as Float32Array;
      }
      apply(gradients, parameters);
      for (const { variable } of updates) {
        const next = parameters[variable.name]!;
        assign(variable, next);
        values?.keep(variable, next);
      }
    },
  };
}

/** Of WebGL: its textures are written once, and reading one back stalls everything. */
const keepsTextures = (backend: object): boolean =>
  "gpgpu" in backend && "texData" in backend;

/**
 * The values last given to a variable. They hold as long as its data has the
 * same identity, since WebGL's data never change.
 */
class Remembered {
  readonly #values = new WeakMap<object, Float32Array>();

  of({ dataId }: Variable): Float32Array | undefined {
    return this.#values.get(dataId);
  }

  keep({ dataId }: Variable, values: Float32Array): void {
    this.#values.set(dataId, values);
  }
}
