// A browser for tests that run in Node and open a page of their own.

import { chromium, type Browser } from "playwright";
import { describe } from "vitest";
import { readGpuSettings } from "../../scripts/gpu-env.mjs";

const { browser } = readGpuSettings();
const skipReason = browser.ok
  ? undefined
  : `no browser: ${browser.tried.join("; ")}`;

/** `describe` for tests that need a browser; the summary names the reason. */
export function describeBrowser(name: string, tests: () => void): void {
  describe(name, { skip: !!skipReason, meta: { skipReason } }, tests);
}

/** The browser that the other tests run in. Close it when the file is done. */
export const openBrowser = (): Promise<Browser> =>
  chromium.launch({
    executablePath: browser.exe,
    env: { ...(process.env as Record<string, string>), ...browser.env },
  });
