// Run as a child by gpu-env.mjs: starts the browser described in PROBE_BROWSER
// and asks an isolated page for a WebGPU device.

import http from "node:http";
import { chromium } from "playwright";

const { exe, env, args } = JSON.parse(process.env.PROBE_BROWSER ?? "");
const server = http.createServer((_request, response) => {
  response.writeHead(200, {
    "content-type": "text/html",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
  });
  response.end("<!doctype html>");
});

try {
  const port = await listen();
  const browser = await chromium.launch({
    executablePath: exe,
    args,
    env: { ...process.env, ...env },
    timeout: 20_000,
  });
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${port}/`);
  const found = await page.evaluate(async () => {
    if (!crossOriginIsolated) return { why: "not cross-origin isolated" };
    if (!navigator.gpu) return { why: "no navigator.gpu" };
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) return { why: "requestAdapter() gave null" };
    await adapter.requestDevice();
    return { adapter: `${adapter.info.vendor}/${adapter.info.architecture}` };
  });
  const ok = found.adapter !== undefined;
  const adapter = `${found.adapter} in ${browser.version()}`;
  console.log(JSON.stringify(ok ? { ok, adapter } : { ok, ...found }));
  await browser.close();
} catch (error) {
  const why = String(error).split("\n").slice(0, 3).join(" | ");
  console.log(JSON.stringify({ ok: false, why: why.slice(0, 300) }));
} finally {
  server.close();
}

function listen() {
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      resolve(typeof address === "object" ? address?.port : undefined);
    });
  });
}
