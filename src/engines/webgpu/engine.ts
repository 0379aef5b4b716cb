import type { Engine } from "../engine.ts";
import { isView } from "./buffers.ts";
import { findGPU, requestDevice } from "./device.ts";
import { WebGPUSession } from "./session.ts";
import type { Tuning } from "./tuning.ts";

export interface WebGPUEngine extends Engine {
  /** The device that sessions run on; opened at first use when none was given. */
  device(): Promise<GPUDevice>;
}

interface Opened {
  readonly device: GPUDevice;
  readonly description: string;
  readonly software: boolean;
  /** Throws once the device is lost. */
  readonly check: () => void;
}

const opened = new WeakMap<GPUDevice, Opened>();

/** A device is watched once, however many engines use it. */
function watch(device: GPUDevice): Opened {
  const known = opened.get(device);
  if (known) return known;
  let loss: GPUDeviceLostInfo | undefined;
  void device.lost.then((info) => (loss = info));
  const {
    description,
    device: name,
    architecture,
    vendor,
  } = device.adapterInfo ?? {};
  const what = description || name || architecture || vendor;
  const one: Opened = {
    device,
    description: what ? `webgpu, ${what}` : "webgpu",
    software:
      device.adapterInfo?.isFallbackAdapter === true ||
      /swiftshader|llvmpipe|lavapipe/i.test(
        `${description} ${name} ${architecture} ${vendor}`,
      ),
    check() {
      if (loss)
        throw new Error(
          `webgpu: the device was lost (${loss.reason || "unknown"}${loss.message ? `: ${loss.message.split("\n")[0]}` : ""}) and all that it held is gone; create a new device and optimizer and load the last checkpoint`,
        );
    },
  };
  opened.set(device, one);
  return one;
}

/** The device of `device: "webgpu"`, shared; a lost one is replaced at the next use. */
let shared: Promise<Opened> | undefined;

function openShared(): Promise<Opened> {
  shared ??= requestDevice().then((device) => {
    void device.lost.then(() => (shared = undefined));
    return watch(device);
  });
  shared.catch(() => (shared = undefined));
  return shared;
}

/**
 * The WebGPU engine.
 *
 * @param device Default: one with the limits lowbit makes use of, opened at
 * first use. A device given stays its owner's: it is never destroyed here.
 * @throws TypeError when `device` is not a GPUDevice.
 */
export function createWebGPUEngine(
  device?: GPUDevice,
  tuning: Tuning = {},
): WebGPUEngine {
  if (
    device !== undefined &&
    typeof device?.createComputePipeline !== "function"
  )
    throw new TypeError(
      `webgpu: expected a GPUDevice, given ${Object.prototype.toString.call(device).slice(8, -1)}; an adapter's requestDevice() gives one`,
    );
  const open = async () => {
    // A device of Dawn does not bring GPUBufferUsage and its like with it.
    if (typeof GPUBufferUsage === "undefined") await findGPU();
    return device ? watch(device) : openShared();
  };
  const sessionOn = ({ device, description, software, check }: Opened) => {
    check();
    return {
      device,
      tuning: { ...tuning, solo: tuning.solo ?? software },
      description,
      lost: check,
    };
  };
  return {
    name: "webgpu",
    accepts: isView,
    writesChanges: true,
    device: async () => (await open()).device,
    async createSession(plans, options) {
      const parts = sessionOn(await open());
      return WebGPUSession.create({ ...parts, plans, options });
    },
    // A device that is still to be opened cannot be had at once.
    ...(device && {
      createSessionSync: (plans, options) =>
        new WebGPUSession({ ...sessionOn(watch(device)), plans, options }),
    }),
  };
}
