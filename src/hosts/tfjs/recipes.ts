// Written by scripts/tfjs-recipes.mjs from the registry; a test holds it to that.
import * as recipes from "../../optimizers/recipes.ts";
import { optimizerClass, optimizerFactory } from "./classes.ts";

export const AdafactorOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adafactor,
);
export const adafactor = /* @__PURE__ */ optimizerFactory(AdafactorOptimizer);

export const Adafactor32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adafactor32bit,
);
export const adafactor32bit = /* @__PURE__ */ optimizerFactory(
  Adafactor32bitOptimizer,
);

export const Adafactor4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adafactor4bit,
);
export const adafactor4bit = /* @__PURE__ */ optimizerFactory(
  Adafactor4bitOptimizer,
);

export const Adafactor8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adafactor8bit,
);
export const adafactor8bit = /* @__PURE__ */ optimizerFactory(
  Adafactor8bitOptimizer,
);

export const AdagradOptimizer = /* @__PURE__ */ optimizerClass(recipes.adagrad);
export const adagrad = /* @__PURE__ */ optimizerFactory(AdagradOptimizer);

export const Adagrad32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adagrad32bit,
);
export const adagrad32bit = /* @__PURE__ */ optimizerFactory(
  Adagrad32bitOptimizer,
);

export const Adagrad4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adagrad4bit,
);
export const adagrad4bit =
  /* @__PURE__ */ optimizerFactory(Adagrad4bitOptimizer);

export const Adagrad8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adagrad8bit,
);
export const adagrad8bit =
  /* @__PURE__ */ optimizerFactory(Adagrad8bitOptimizer);

export const AdamOptimizer = /* @__PURE__ */ optimizerClass(recipes.adam);
export const adam = /* @__PURE__ */ optimizerFactory(AdamOptimizer);

export const Adam32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adam32bit,
);
export const adam32bit = /* @__PURE__ */ optimizerFactory(Adam32bitOptimizer);

export const Adam4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adam4bit,
);
export const adam4bit = /* @__PURE__ */ optimizerFactory(Adam4bitOptimizer);

export const Adam8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adam8bit,
);
export const adam8bit = /* @__PURE__ */ optimizerFactory(Adam8bitOptimizer);

export const AdamWOptimizer = /* @__PURE__ */ optimizerClass(recipes.adamw);
export const adamw = /* @__PURE__ */ optimizerFactory(AdamWOptimizer);

export const AdamW32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adamw32bit,
);
export const adamw32bit = /* @__PURE__ */ optimizerFactory(AdamW32bitOptimizer);

export const AdamW4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adamw4bit,
);
export const adamw4bit = /* @__PURE__ */ optimizerFactory(AdamW4bitOptimizer);

export const AdamW4bitBlockOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adamw4bitBlock,
);
export const adamw4bitBlock = /* @__PURE__ */ optimizerFactory(
  AdamW4bitBlockOptimizer,
);

export const AdamW4bitRank1Optimizer = /* @__PURE__ */ optimizerClass(
  recipes.adamw4bitRank1,
);
export const adamw4bitRank1 = /* @__PURE__ */ optimizerFactory(
  AdamW4bitRank1Optimizer,
);

export const AdamW8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adamw8bit,
);
export const adamw8bit = /* @__PURE__ */ optimizerFactory(AdamW8bitOptimizer);

export const AdanOptimizer = /* @__PURE__ */ optimizerClass(recipes.adan);
export const adan = /* @__PURE__ */ optimizerFactory(AdanOptimizer);

export const Adan32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adan32bit,
);
export const adan32bit = /* @__PURE__ */ optimizerFactory(Adan32bitOptimizer);

export const Adan4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adan4bit,
);
export const adan4bit = /* @__PURE__ */ optimizerFactory(Adan4bitOptimizer);

export const Adan8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.adan8bit,
);
export const adan8bit = /* @__PURE__ */ optimizerFactory(Adan8bitOptimizer);

export const AdEMAMixOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.ademamix,
);
export const ademamix = /* @__PURE__ */ optimizerFactory(AdEMAMixOptimizer);

export const AdEMAMix32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.ademamix32bit,
);
export const ademamix32bit = /* @__PURE__ */ optimizerFactory(
  AdEMAMix32bitOptimizer,
);

export const AdEMAMix4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.ademamix4bit,
);
export const ademamix4bit = /* @__PURE__ */ optimizerFactory(
  AdEMAMix4bitOptimizer,
);

export const AdEMAMix8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.ademamix8bit,
);
export const ademamix8bit = /* @__PURE__ */ optimizerFactory(
  AdEMAMix8bitOptimizer,
);

export const FactorOptimizer = /* @__PURE__ */ optimizerClass(recipes.factor);
export const factor = /* @__PURE__ */ optimizerFactory(FactorOptimizer);

export const Factor32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.factor32bit,
);
export const factor32bit =
  /* @__PURE__ */ optimizerFactory(Factor32bitOptimizer);

export const Factor4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.factor4bit,
);
export const factor4bit = /* @__PURE__ */ optimizerFactory(Factor4bitOptimizer);

export const Factor8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.factor8bit,
);
export const factor8bit = /* @__PURE__ */ optimizerFactory(Factor8bitOptimizer);

export const LAMBOptimizer = /* @__PURE__ */ optimizerClass(recipes.lamb);
export const lamb = /* @__PURE__ */ optimizerFactory(LAMBOptimizer);

export const LAMB32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lamb32bit,
);
export const lamb32bit = /* @__PURE__ */ optimizerFactory(LAMB32bitOptimizer);

export const LAMB4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lamb4bit,
);
export const lamb4bit = /* @__PURE__ */ optimizerFactory(LAMB4bitOptimizer);

export const LAMB8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lamb8bit,
);
export const lamb8bit = /* @__PURE__ */ optimizerFactory(LAMB8bitOptimizer);

export const LARSOptimizer = /* @__PURE__ */ optimizerClass(recipes.lars);
export const lars = /* @__PURE__ */ optimizerFactory(LARSOptimizer);

export const LARS32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lars32bit,
);
export const lars32bit = /* @__PURE__ */ optimizerFactory(LARS32bitOptimizer);

export const LARS4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lars4bit,
);
export const lars4bit = /* @__PURE__ */ optimizerFactory(LARS4bitOptimizer);

export const LARS8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lars8bit,
);
export const lars8bit = /* @__PURE__ */ optimizerFactory(LARS8bitOptimizer);

export const LionOptimizer = /* @__PURE__ */ optimizerClass(recipes.lion);
export const lion = /* @__PURE__ */ optimizerFactory(LionOptimizer);

export const Lion32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lion32bit,
);
export const lion32bit = /* @__PURE__ */ optimizerFactory(Lion32bitOptimizer);

export const Lion4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lion4bit,
);
export const lion4bit = /* @__PURE__ */ optimizerFactory(Lion4bitOptimizer);

export const Lion8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.lion8bit,
);
export const lion8bit = /* @__PURE__ */ optimizerFactory(Lion8bitOptimizer);

export const NadamOptimizer = /* @__PURE__ */ optimizerClass(recipes.nadam);
export const nadam = /* @__PURE__ */ optimizerFactory(NadamOptimizer);

export const Nadam32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.nadam32bit,
);
export const nadam32bit = /* @__PURE__ */ optimizerFactory(Nadam32bitOptimizer);

export const Nadam4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.nadam4bit,
);
export const nadam4bit = /* @__PURE__ */ optimizerFactory(Nadam4bitOptimizer);

export const Nadam8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.nadam8bit,
);
export const nadam8bit = /* @__PURE__ */ optimizerFactory(Nadam8bitOptimizer);

export const RMSPropOptimizer = /* @__PURE__ */ optimizerClass(recipes.rmsprop);
export const rmsprop = /* @__PURE__ */ optimizerFactory(RMSPropOptimizer);

export const RMSProp32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.rmsprop32bit,
);
export const rmsprop32bit = /* @__PURE__ */ optimizerFactory(
  RMSProp32bitOptimizer,
);

export const RMSProp4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.rmsprop4bit,
);
export const rmsprop4bit =
  /* @__PURE__ */ optimizerFactory(RMSProp4bitOptimizer);

export const RMSProp8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.rmsprop8bit,
);
export const rmsprop8bit =
  /* @__PURE__ */ optimizerFactory(RMSProp8bitOptimizer);

export const ScheduleFreeAdamWOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.scheduleFreeAdamw,
);
export const scheduleFreeAdamw = /* @__PURE__ */ optimizerFactory(
  ScheduleFreeAdamWOptimizer,
);

export const ScheduleFreeAdamW32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.scheduleFreeAdamw32bit,
);
export const scheduleFreeAdamw32bit = /* @__PURE__ */ optimizerFactory(
  ScheduleFreeAdamW32bitOptimizer,
);

export const ScheduleFreeAdamW4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.scheduleFreeAdamw4bit,
);
export const scheduleFreeAdamw4bit = /* @__PURE__ */ optimizerFactory(
  ScheduleFreeAdamW4bitOptimizer,
);

export const ScheduleFreeAdamW8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.scheduleFreeAdamw8bit,
);
export const scheduleFreeAdamw8bit = /* @__PURE__ */ optimizerFactory(
  ScheduleFreeAdamW8bitOptimizer,
);

export const SGDOptimizer = /* @__PURE__ */ optimizerClass(recipes.sgd);
export const sgd = /* @__PURE__ */ optimizerFactory(SGDOptimizer);

export const SGD32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.sgd32bit,
);
export const sgd32bit = /* @__PURE__ */ optimizerFactory(SGD32bitOptimizer);

export const SGD4bitOptimizer = /* @__PURE__ */ optimizerClass(recipes.sgd4bit);
export const sgd4bit = /* @__PURE__ */ optimizerFactory(SGD4bitOptimizer);

export const SGD8bitOptimizer = /* @__PURE__ */ optimizerClass(recipes.sgd8bit);
export const sgd8bit = /* @__PURE__ */ optimizerFactory(SGD8bitOptimizer);

export const SGDWOptimizer = /* @__PURE__ */ optimizerClass(recipes.sgdw);
export const sgdw = /* @__PURE__ */ optimizerFactory(SGDWOptimizer);

export const SGDW32bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.sgdw32bit,
);
export const sgdw32bit = /* @__PURE__ */ optimizerFactory(SGDW32bitOptimizer);

export const SGDW4bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.sgdw4bit,
);
export const sgdw4bit = /* @__PURE__ */ optimizerFactory(SGDW4bitOptimizer);

export const SGDW8bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.sgdw8bit,
);
export const sgdw8bit = /* @__PURE__ */ optimizerFactory(SGDW8bitOptimizer);

export const SM3Optimizer = /* @__PURE__ */ optimizerClass(recipes.sm3);
export const sm3 = /* @__PURE__ */ optimizerFactory(SM3Optimizer);

export const SM332bitOptimizer = /* @__PURE__ */ optimizerClass(
  recipes.sm332bit,
);
export const sm332bit = /* @__PURE__ */ optimizerFactory(SM332bitOptimizer);

export const SM34bitOptimizer = /* @__PURE__ */ optimizerClass(recipes.sm34bit);
export const sm34bit = /* @__PURE__ */ optimizerFactory(SM34bitOptimizer);

export const SM38bitOptimizer = /* @__PURE__ */ optimizerClass(recipes.sm38bit);
export const sm38bit = /* @__PURE__ */ optimizerFactory(SM38bitOptimizer);
