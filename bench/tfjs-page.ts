/**
 * The same in a headless browser, where WebGL is:
 *
 *   node --conditions=lowbit-source bench/tfjs-page.ts --backend webgl --size 10000000 --rounds 3
 */
import fs from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import * as esbuild from "esbuild";
import { chromium } from "playwright";
import { CHROME_ARGS, readGpuSettings } from "../scripts/gpu-env.mjs";
import { print } from "./tfjs.ts";
import type { RaceResult } from "./tfjs-race.ts";

const { values } = parseArgs({
  options: {
    backend: { type: "string", default: "webgl" },
    size: { type: "string", default: "10000000" },
    rounds: { type: "string", default: "3" },
  },
});
const { backend } = values;
const [size, rounds] = [Number(values.size), Number(values.rounds)];
const packages = path.resolve(import.meta.dirname, "../node_modules");
const wasm = "@tensorflow/tfjs-backend-wasm";
const { outputFiles } = await esbuild.build({
  stdin: {
    resolveDir: import.meta.dirname,
    contents: `
      import * as tf from "@tensorflow/tfjs-core";
      import "@tensorflow/tfjs-backend-${backend}";
      ${backend === "wasm" ? `import { setWasmPaths } from "${wasm}"; setWasmPaths("/wasm/");` : ""}
      import { raceOn } from "./tfjs-race.ts";
      globalThis.run = async (size, rounds) => {
        await tf.setBackend("${backend}");
        await tf.ready();
        if (tf.getBackend() !== "${backend}") throw new Error("no ${backend}");
        return raceOn(size, rounds);
      };`,
  },
  bundle: true,
  format: "iife",
  conditions: ["lowbit-source"],
  external: ["node:*", "webgpu"],
  write: false,
  logLevel: "error",
});

const { browser: settings } = readGpuSettings();
const browser = await chromium.launch({
  ...(settings.exe ? { executablePath: settings.exe } : {}),
  args: [...CHROME_ARGS],
  env: { ...process.env, ...settings.env } as Record<string, string>,
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.log(message.text()));
  await page.route("http://localhost/**", (route) => {
    const { pathname } = new URL(route.request().url());
    if (pathname === "/")
      return route.fulfill({
        contentType: "text/html",
        body: "<script src=/bench.js></script>",
      });
    if (pathname === "/bench.js")
      return route.fulfill({
        contentType: "text/javascript",
        body: outputFiles[0]!.text,
      });
    const file = path.join(packages, wasm, "dist", path.basename(pathname));
    return fs.existsSync(file)
      ? route.fulfill({ path: file })
      : route.fulfill({ status: 404 });
  });
  await page.goto("http://localhost/");
  const result = await page.evaluate(
    ([elements, times]) =>
      (
        globalThis as unknown as {
          run(elements: number, times: number): Promise<RaceResult>;
        }
      ).run(elements!, times!),
    [size, rounds],
  );
  print(`${backend}, in Chromium ${browser.version()}`, size, rounds, result);
} finally {
  await browser.close();
}
