/**
 * Gradient accumulation, on every engine without a word of its own: the sums
 * are parameters of a second session, whose formula adds a share of the
 * gradient to them.
 */
import type { Engine, Session } from "../engines/engine.ts";
import { compileFormula } from "../formula/compile.ts";
import type { TensorInfo } from "./options.ts";
import type { CheckedOptions } from "./settings.ts";

const program = () =>
  compileFormula({
    name: "accumulate",
    // The first share replaces what the last round left.
    update: "p = select(keep > 0, p, 0) + share * g",
    states: {},
    scalars: ["keep", "share"],
  });

export interface Accumulator {
  /** Adds 1/n of gradients; every n-th time gives the means, else undefined. */
  add(gradients: readonly unknown[]): Promise<unknown[] | undefined>;
  /** Gradients that the sums hold. */
  readonly taken: number;
  /** The sum of a tensor's gradients so far, each with its share; a copy. */
  readSum(tensor: number): Promise<Float32Array<ArrayBuffer>>;
  /** Replaces a sum. */
  writeSum(tensor: number, sum: Float32Array<ArrayBuffer>): void;
  /** Goes on as if this many gradients had been added. */
  restore(taken: number): void;
  /** Bytes of the sums. */
  bytes(): number;
  dispose(): void;
}

export async function createAccumulator(
  engine: Engine,
  tensors: readonly TensorInfo[],
  settings: CheckedOptions,
): Promise<Accumulator> {
  const sum = program();
  const session: Session = await engine.createSession(
    tensors.map((tensor) => ({
      ...tensor,
      program: sum,
      formats: [],
      parameter: undefined,
    })),
    {
      // What is not finite must reach the step, which decides what to do.
      skip: "off",
      clip: false,
      resident: false,
      threads: settings.threads,
    },
  );
  const n = settings.accumulate;
  let taken = 0;
  return {
    async add(gradients) {
      const uniforms = sum.uniforms({
        keep: taken === 0 ? 0 : 1,
        share: 1 / n,
      });
      await session.step({
        tensors: gradients.map((gradient) =>
          gradient === null
            ? undefined
            : { gradient, uniforms, keys: new Uint32Array(0) },
        ),
        maxGradNorm: undefined,
      });
      taken = (taken + 1) % n;
      if (taken > 0) return undefined;
      return gradients.map((gradient, i) =>
        gradient === null ? null : session.parameter(i),
      );
    },
    get taken() {
      return taken;
    },
    readSum: (tensor) => session.readParameter(tensor),
    writeSum: (tensor, values) => session.writeParameter(tensor, values),
    restore: (count) => void (taken = count),
    bytes: () =>
      tensors.reduce((total, { size }) => total + 4 * size, 0) +
      session.workspaceBytes(),
    dispose: () => session.dispose(),
  };
}
