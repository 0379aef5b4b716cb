/** Our optimizers on TensorFlow.js against its own Adam: time and bytes of a step, by backend. */
import { raceOn, type RaceResult } from "./tfjs-race.ts";

export async function benchTfjs(
  backend: "cpu" | "wasm" | "webgpu",
  elements: number,
  rounds: number,
): Promise<void> {
  const missing = await open(backend);
  if (missing)
    console.log(`\nTensorFlow.js on ${backend}: not measured, ${missing}`);
  else print(backend, elements, rounds, await raceOn(elements, rounds));
}

/** @returns why it cannot be had. */
async function open(backend: string): Promise<string | undefined> {
  const tf = await import("@tensorflow/tfjs-core");
  try {
    if (backend === "cpu") await import("@tensorflow/tfjs-backend-cpu");
    if (backend === "wasm") await import("@tensorflow/tfjs-backend-wasm");
    if (backend === "webgpu") {
      const { create, globals } = await import("webgpu");
      Object.assign(globalThis, globals);
      const gpu = create([]);
      // Dawn crashes if this is collected while a device is in use.
      Object.assign(globalThis, { dawn: gpu });
      Object.defineProperty(navigator, "gpu", { value: gpu });
      if (!(await gpu.requestAdapter())) return "no adapter";
      await import("@tensorflow/tfjs-backend-webgpu");
    }
  } catch (error) {
    return String(error);
  }
  await tf.setBackend(backend);
  await tf.ready();
  return tf.getBackend() === backend ? undefined : "it did not start";
}

export function print(
  backend: string,
  elements: number,
  rounds: number,
  { way, timings, peaks }: RaceResult,
): void {
  console.log(
    `\nTensorFlow.js on ${backend}: an Adam step, ${elements} parameters in 10 variables, ${rounds} interleaved rounds; lowbit by ${way}`,
  );
  const base = timings.find(({ name }) => name.startsWith("TensorFlow"))!;
  console.table(
    Object.fromEntries(
      timings.map(({ name, fastest, median }, i) => [
        name,
        {
          "ms, min": Number(((fastest * elements) / 1e6).toFixed(1)),
          "ms, median": Number(((median * elements) / 1e6).toFixed(1)),
          "x theirs": Number((fastest / base.fastest).toFixed(3)),
          "state B/param": Number(peaks[i]!.state.toFixed(2)),
          "step needs B/param": Number(peaks[i]!.step.toFixed(2)),
        },
      ]),
    ),
  );
}
