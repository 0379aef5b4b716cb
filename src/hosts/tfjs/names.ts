/** TensorFlow.js's words for hyperparameters and classes, and ours for them. */
import type { Hyper } from "../../optimizers/definition.ts";
import type { OptimizerFactory } from "../../optimizers/define.ts";

/** Our names and what TensorFlow.js and Keras call the same thing. */
const hostNames = {
  lr: "learningRate",
  eps: "epsilon",
  eps1: "epsilon1",
  eps2: "epsilon2",
  nesterov: "useNesterov",
  initialAccumulator: "initialAccumulatorValue",
  lrDecay: "learningRateDecay",
} as const;

type HostNames = typeof hostNames;

/** As {@link hostName}, for types. */
export type HostName<K, H> = K extends keyof HostNames
  ? HostNames[K]
  : K extends "alpha"
    ? "momentum" extends keyof H
      ? "decay"
      : K
    : K;

/** @param hyper all hyperparameters: RMSprop's alpha, beside a momentum, is `decay`. */
export function hostName(name: string, hyper: Hyper): string {
  if (name === "alpha" && Object.hasOwn(hyper, "momentum")) return "decay";
  return Object.hasOwn(hostNames, name)
    ? hostNames[name as keyof HostNames]
    : name;
}

/** Our name by the host's, for every hyperparameter of an optimizer. */
export const namesByHost = (hyper: Hyper): ReadonlyMap<string, string> =>
  new Map(Object.keys(hyper).map((name) => [hostName(name, hyper), name]));

/** How classes write names that are no plain words. */
const spelled: Readonly<Record<string, string>> = {
  adamw: "AdamW",
  ademamix: "AdEMAMix",
  lamb: "LAMB",
  lars: "LARS",
  rmsprop: "RMSProp",
  scheduleFreeAdamw: "ScheduleFreeAdamW",
  sgd: "SGD",
  sgdw: "SGDW",
  sm3: "SM3",
};

/** `AdamW8bit` for `adamw8bit`; TensorFlow.js's own `Adam` would be `Adam`. */
export function className({
  optimizerName,
  definition: { name },
}: Pick<OptimizerFactory, "optimizerName"> & {
  readonly definition: { readonly name: string };
}): string {
  const stem = spelled[name] ?? name[0]!.toUpperCase() + name.slice(1);
  return optimizerName.startsWith(name)
    ? stem + optimizerName.slice(name.length)
    : optimizerName[0]!.toUpperCase() + optimizerName.slice(1);
}

/**
 * The name a class is saved under. It must not be one of TensorFlow.js's own
 * (`Adam`), or of a class somebody copied (`AdamW`), and have no underscore:
 * loading turns `a_b` into `aB`.
 */
export const savedName = (name: string): string => `Lowbit${name}`;

/** Messages of the core in the host's words. */
export function translated(error: unknown, hyper: Hyper): unknown {
  if (error instanceof Error)
    error.message = error.message.replace(
      /(?<![\w.'])(lr|eps[12]?|nesterov|initialAccumulator|lrDecay|alpha)(?![\w'])/g,
      (name) => hostName(name, hyper),
    );
  return error;
}
