// Writes src/hosts/tfjs/recipes.ts, a class and a function for each optimizer and
// recipe of the registry: exports of a module cannot be made in a loop.
//
//   node --conditions=lowbit-source scripts/tfjs-recipes.mjs

import fs from "node:fs";
import path from "node:path";
import prettier from "prettier";
import { optimizers } from "../src/optimizers/registry.ts";
import { className } from "../src/hosts/tfjs/names.ts";

const file = path.resolve(import.meta.dirname, "../src/hosts/tfjs/recipes.ts");

/** The text that the file must have. */
export async function recipesSource() {
  const factories = [...optimizers()].sort(([a], [b]) => (a < b ? -1 : 1));
  const lines = factories.map(([of, factory]) => {
    const name = `${className(factory)}Optimizer`;
    return `
      export const ${name} = /* @__PURE__ */ optimizerClass(recipes.${of});
      export const ${of} = /* @__PURE__ */ optimizerFactory(${name});`;
  });
  const source = `
    // Written by scripts/tfjs-recipes.mjs from the registry; a test holds it to that.
    import * as recipes from "../../optimizers/recipes.ts";
    import { optimizerClass, optimizerFactory } from "./classes.ts";
    ${lines.join("\n")}`;
  return prettier.format(source, { parser: "typescript" });
}

if (process.argv[1] === import.meta.filename)
  fs.writeFileSync(file, await recipesSource());
