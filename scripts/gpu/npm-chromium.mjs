// Chromium out of npm: @sparticuz/chromium holds a headless Chromium for Linux
// x64 with its libraries, fonts, SwiftShader and a Vulkan loader, so a machine
// with only Node and npm can run both halves of the tests.
//
// We unpack it ourselves. The package's own executablePath() uses the fixed
// folder /tmp/chromium (taking whatever lies there) and suggests flags that
// turn the sandbox of origins off.

import fs from "node:fs";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import zlib from "node:zlib";

const ARCHIVES = ["swiftshader.tar.br", "al2023.tar.br", "fonts.tar.br"];

/** @returns {Promise<import("./browsers.mjs").Browser | undefined>} */
export async function npmChromium(/** @type {string} */ root) {
  if (process.platform !== "linux" || process.arch !== "x64") return undefined;
  const pkg = path.join(root, "node_modules/@sparticuz/chromium");
  if (!fs.existsSync(pkg)) return undefined;

  const manifest = fs.readFileSync(path.join(pkg, "package.json"), "utf8");
  const { version } = JSON.parse(manifest);
  const dir = path.join(root, "node_modules/.cache/lowbit/chromium-" + version);
  if (!fs.existsSync(dir)) await unpack(path.join(pkg, "bin"), dir);

  const libraries = [process.env.LD_LIBRARY_PATH, path.join(dir, "lib")];
  return {
    exe: path.join(dir, "chromium"),
    env: {
      LD_LIBRARY_PATH: libraries.filter(Boolean).join(":"),
      FONTCONFIG_FILE: path.join(dir, "fonts.conf"),
    },
  };
}

async function unpack(/** @type {string} */ bin, /** @type {string} */ dir) {
  // Into a folder of our own first, so that `dir` is there whole or not at all.
  const part = `${dir}.${process.pid}`;
  fs.mkdirSync(part, { recursive: true });
  for (const archive of ARCHIVES) {
    const packed = fs.readFileSync(path.join(bin, archive));
    extractTar(zlib.brotliDecompressSync(packed), part);
  }
  await pipeline(
    fs.createReadStream(path.join(bin, "chromium.br")),
    zlib.createBrotliDecompress({ chunkSize: 1 << 21 }),
    fs.createWriteStream(path.join(part, "chromium"), { mode: 0o755 }),
  );
  // Without a font Chromium draws no text and lays pages out wrongly.
  fs.writeFileSync(
    path.join(part, "fonts.conf"),
    `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir>
  <dir>${dir}/fonts</dir>
  <cachedir>${dir}/font-cache</cachedir>
</fontconfig>
`,
  );
  try {
    fs.renameSync(part, dir);
  } catch (error) {
    fs.rmSync(part, { recursive: true });
    // Another run may have put it there meanwhile, which is as good.
    if (!fs.existsSync(dir)) throw error;
  }
}

/** Regular files of a plain (ustar) archive; these archives hold no others. */
function extractTar(/** @type {Buffer} */ tar, /** @type {string} */ dir) {
  const text = (/** @type {number} */ from, /** @type {number} */ to) =>
    tar.toString("latin1", from, to).replace(/\0.*$/s, "");

  for (let at = 0; at + 512 <= tar.length;) {
    const name = text(at, at + 100);
    if (!name) break; // two empty records end the archive
    const size = parseInt(text(at + 124, at + 136), 8);
    const type = text(at + 156, at + 157);
    const file = path.resolve(dir, name);
    if (!file.startsWith(dir + path.sep))
      throw new Error(`tar: '${name}' would be written outside of ${dir}`);
    if (type === "0" || type === "") {
      fs.mkdirSync(path.dirname(file), { recursive: true });
      const body = tar.subarray(at + 512, at + 512 + size);
      fs.writeFileSync(file, body, { mode: 0o755 });
    }
    at += 512 + Math.ceil(size / 512) * 512;
  }
}
