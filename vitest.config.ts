import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";
import { CHROME_ARGS, readGpuSettings } from "./scripts/gpu-env.mjs";

// Which file runs where is in its name:
//   x.test.ts          in Node
//   x.browser.test.ts  in a browser
//   x.both.test.ts     in both
const inNode = ["{test,src,cli,bench}/**/*.test.ts"];
const inBrowser = ["{test,src}/**/*.{browser,both}.test.ts"];
const browserOnly = ["**/*.browser.test.ts"];

/** The doors by the names users give them, resolved to their source. */
function doors() {
  const url = new URL("./package.json", import.meta.url);
  const { exports } = JSON.parse(readFileSync(url, "utf8")) as {
    exports: Record<string, { "lowbit-source"?: string }>;
  };
  return Object.entries(exports).flatMap(([door, target]) => {
    const source = target["lowbit-source"];
    if (!source) return [];
    return {
      find: new RegExp(`^lowbit${door.slice(1)}$`),
      replacement: fileURLToPath(new URL(source, import.meta.url)),
    };
  });
}

const settings = readGpuSettings();

// Dawn finds its Vulkan driver through variables, some of which only count when
// a process starts: set here, they are there when the test processes start.
Object.assign(process.env, settings.node.env);
process.env.LOWBIT_NO_GPU = settings.node.ok
  ? ""
  : settings.node.tried.join("; ");

export default defineConfig({
  test: {
    projects: [
      {
        resolve: { alias: doors() },
        test: {
          name: "node",
          include: inNode,
          exclude: ["**/node_modules/**", ...browserOnly],
          // Each file in a process of its own: a native crash ends one file.
          pool: "forks",
          testTimeout: 60_000,
          hookTimeout: 60_000,
        },
      },
      {
        resolve: { alias: doors() },
        // Cross-origin isolation: shared WebAssembly memory needs it.
        server: {
          headers: {
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Embedder-Policy": "require-corp",
          },
        },
        // `webgpu` is a native addon. The hosts are named so that Vite prepares
        // them before the tests start; found midway, they would reload the page.
        optimizeDeps: {
          exclude: ["webgpu"],
          include: [
            "@jax-js/jax",
            "@tensorflow/tfjs-backend-cpu",
            "@tensorflow/tfjs-backend-wasm",
            "@tensorflow/tfjs-backend-webgl",
            "@tensorflow/tfjs-backend-webgpu",
            "@tensorflow/tfjs-core",
            "@tensorflow/tfjs-layers",
          ],
        },
        test: {
          name: "browser",
          include: inBrowser,
          testTimeout: 60_000,
          hookTimeout: 60_000,
          browser: {
            enabled: true,
            headless: true,
            screenshotFailures: false,
            api: { host: "127.0.0.1" },
            instances: [{ browser: "chromium" }],
            provider: playwright({
              launchOptions: {
                executablePath: settings.browser.exe,
                args: [...CHROME_ARGS],
                env: { ...definedEnv(), ...settings.browser.env },
              },
            }),
          },
        },
      },
    ],
  },
});

function definedEnv(): Record<string, string> {
  return Object.fromEntries(
    Object.entries(process.env).filter((entry) => entry[1] !== undefined),
  ) as Record<string, string>;
}
