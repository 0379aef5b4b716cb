/** How large the model is, and how long it trains. */
import type { Scheme } from "./schemes.ts";
import type { Settings } from "./train.ts";

export interface Size {
  readonly vocabulary: number;
  readonly settings: Settings;
  readonly only: (scheme: Pick<Scheme, "name">) => boolean;
}

const all = () => true;

/** Minutes on two cores. At this rate 32 bits come furthest in so many steps. */
export const usual: Size = {
  vocabulary: 1000,
  settings: { steps: 600, batch: 64, lr: 8e-3, width: 32, hidden: 128 },
  only: all,
};

/** An hour on two cores, minutes on sixteen. */
export const large: Size = {
  vocabulary: 2000,
  settings: { steps: 1000, batch: 128, lr: 2e-3, width: 64, hidden: 256 },
  only: all,
};

/** Seconds: what the orderings of the papers need, and no more. */
export const quick: Size = {
  vocabulary: 400,
  settings: { steps: 150, batch: 32, lr: 4e-3, width: 32, hidden: 64 },
  only: ({ name }) =>
    /^32-bit$|^linear, tensor$|^dynamic, tensor$|^dynamic, block 2048$|^block 128 \/|^rank-1 \/ linear|^factored$|^lion4bit$/.test(
      name,
    ),
};
