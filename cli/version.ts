import { createRequire } from "node:module";

/** Of this package, which the command line imports by its own name. */
export function version(): string {
  const require = createRequire(import.meta.url);
  return (require("lowbit/package.json") as { version: string }).version;
}
