/** What a child process does: finds an engine, tests it, measures it. */
import type { Device } from "lowbit";
import { describeAdapter, listAdapters, type Adapter } from "./adapters.ts";
import { measureSpeed, type Speed } from "./speed.ts";
import { selfTest, type Tested } from "./self-test.ts";

export const engineNames = ["wasm", "webgpu", "reference"] as const;
export type EngineName = (typeof engineNames)[number];

/** What is printed, a line each, in this order; less when something goes wrong. */
export type Part =
  | { readonly part: "missing"; readonly reason: string }
  | {
      readonly part: "found";
      /** Of WebGPU: what there is, the one in use first. */
      readonly adapters?: readonly Adapter[];
    }
  | ({ readonly part: "tested" } & Tested)
  | ({ readonly part: "measured" } & Speed)
  | { readonly part: "failed"; readonly reason: string };

export async function examine(
  name: EngineName,
  tell: (part: Part) => void,
): Promise<void> {
  let device: Device = name;
  let software = false;
  if (name === "webgpu") {
    try {
      const { requestDevice } = await import("lowbit/webgpu");
      const gpu = await requestDevice();
      const own = describeAdapter(gpu.adapterInfo, gpu);
      tell({ part: "found", adapters: await listAdapters(own) });
      software = own.software;
      device = gpu;
    } catch (error) {
      return tell({ part: "missing", reason: messageOf(error) });
    }
  } else tell({ part: "found" });
  try {
    tell({ part: "tested", ...(await selfTest(device)) });
    tell({ part: "measured", ...(await measureSpeed(name, device, software)) });
  } catch (error) {
    tell({ part: "failed", reason: messageOf(error) });
  } finally {
    if (typeof device === "object" && "destroy" in device)
      (device as GPUDevice).destroy();
  }
}

const messageOf = (error: unknown) =>
  error instanceof Error ? error.message : String(error);
