/**
 * Recipes: an optimizer with the formats of its states, by the name people use.
 * An optimizer that keeps to the usual formats needs one line here.
 */
import { adam } from "./adam.ts";
import { adamw } from "./adamw.ts";
import { defineRecipe } from "./define.ts";
import { sgd } from "./sgd.ts";

export const adam32bit = /* @__PURE__ */ defineRecipe("adam32bit", adam, {
  bits: 32,
});
export const adam8bit = /* @__PURE__ */ defineRecipe("adam8bit", adam, {
  bits: 8,
});
export const adam4bit = /* @__PURE__ */ defineRecipe("adam4bit", adam, {
  bits: 4,
});

export const adamw32bit = /* @__PURE__ */ defineRecipe("adamw32bit", adamw, {
  bits: 32,
});
export const adamw8bit = /* @__PURE__ */ defineRecipe("adamw8bit", adamw, {
  bits: 8,
});
/** Paper 2's fast form: m in block 128 / dynamic, v in block 128 / linear without zero. */
export const adamw4bitBlock = /* @__PURE__ */ defineRecipe(
  "adamw4bitBlock",
  adamw,
  { bits: 4 },
);
export const adamw4bit = /* @__PURE__ */ defineRecipe("adamw4bit", adamw, {
  bits: 4,
});

export const sgd32bit = /* @__PURE__ */ defineRecipe("sgd32bit", sgd, {
  bits: 32,
});
export const sgd8bit = /* @__PURE__ */ defineRecipe("sgd8bit", sgd, {
  bits: 8,
});
/** Stochastic rounding keeps the momentum unbiased, as paper 2's theorem 1 needs. */
export const sgd4bit = /* @__PURE__ */ defineRecipe("sgd4bit", sgd, {
  bits: 4,
  state: { m: { rounding: "stochastic" } },
});
