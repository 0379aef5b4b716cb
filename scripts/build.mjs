// src/ -> dist/ and cli/ -> dist/cli/, only what changed; the report of
// `lowbit compare` as one page without dependencies.

import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";

const root = path.resolve(import.meta.dirname, "..");

export function build() {
  const tsc = path.join(root, "node_modules/typescript/bin/tsc");
  const run = spawnSync(
    process.execPath,
    [tsc, "--build", "tsconfig.cli.json"],
    { cwd: root, stdio: "inherit" },
  );
  removeLeftovers();
  buildPage();
  return run.status === 0;
}

/**
 * cli/compare/page/ -> dist/cli/compare/report.html: the page with its script,
 * its style and the plotting library inside, as it must work without a network.
 */
export function buildPage() {
  const page = path.join(root, "cli/compare/page");
  const { outputFiles, metafile } = buildSync({
    entryPoints: [path.join(page, "main.ts")],
    bundle: true,
    minify: true,
    format: "iife",
    target: "es2022",
    absWorkingDir: root,
    metafile: true,
    write: false,
    logLevel: "warning",
  });
  // A script in a page ends at its first `</script`, wherever that stands.
  const script = outputFiles[0].text.replaceAll("</script", "<\\/script");
  const style = fs.readFileSync(path.join(page, "style.css"), "utf8");
  const html = fs
    .readFileSync(path.join(page, "page.html"), "utf8")
    .replace("<!-- licenses -->", () => licenses(Object.keys(metafile.inputs)))
    .replace("/* style */", () => style)
    .replace("/* script */", () => script);
  const file = path.join(root, "dist/cli/compare/report.html");
  fs.mkdirSync(path.dirname(file), { recursive: true });
  // Renamed into place, as tests may be reading it.
  fs.writeFileSync(`${file}.${process.pid}`, html);
  fs.renameSync(`${file}.${process.pid}`, file);
}

/**
 * The licences of the packages that these files come from, as a comment: each
 * asks to go along with copies.
 */
function licenses(/** @type {string[]} */ files) {
  /** @type {Map<string, string[]>} */
  const packages = new Map();
  const folders = files.flatMap(
    (file) => file.match(/^.*node_modules\/(@[^/]+\/)?[^/]+/)?.[0] ?? [],
  );
  for (const folder of [...new Set(folders)].sort()) {
    const { name, version } = JSON.parse(
      fs.readFileSync(path.join(root, folder, "package.json"), "utf8"),
    );
    const file = fs
      .readdirSync(path.join(root, folder))
      .find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`build: ${name} has no licence file`);
    const text = fs.readFileSync(path.join(root, folder, file), "utf8").trim();
    packages.set(text, [...(packages.get(text) ?? []), `${name} ${version}`]);
  }
  const parts = [...packages].map(
    ([text, names]) => `${names.join(", ")}\n\n${text}`,
  );
  // Two hyphens would end a comment of HTML.
  const all = parts.join("\n\n").replaceAll("--", "- -");
  return `<!-- This page contains:\n\n${all}\n-->`;
}

/** tsc never deletes: a file renamed in src/ would stay in dist/, and ship. */
function removeLeftovers() {
  const dist = path.join(root, "dist");
  if (!fs.existsSync(dist)) return;
  for (const name of fs.readdirSync(dist, { recursive: true }).map(String)) {
    const output = name.match(/^(.*?)(\.d\.ts|\.js)(\.map)?$/);
    if (!output) continue;
    const base = output[1].split(path.sep).join("/");
    const source = base.startsWith("cli/") ? `${base}.ts` : `src/${base}.ts`;
    if (!fs.existsSync(path.join(root, source)))
      fs.rmSync(path.join(dist, name));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  process.exitCode = build() ? 0 : 1;
