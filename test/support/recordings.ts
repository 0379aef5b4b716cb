/// <reference types="vite/client" />
/** The recordings in test/golden, or in the folder that LOWBIT_GOLDEN names. */
import { readSafetensors, type Recorded } from "./safetensors.ts";

export interface Recording extends Recorded {
  readonly name: string;
}

const inNode = typeof process === "object" && !!process.versions?.node;

/** Files that are no recordings, and why: tests name them, and go on with the others. */
export const unreadable: { readonly name: string; readonly reason: string }[] =
  [];

/** Every *.safetensors of the folder. In a browser always test/golden, which the server can reach. */
export async function recordings(): Promise<Recording[]> {
  const files = inNode ? await fromFolder() : await fromServer();
  return files
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flatMap(([name, bytes]) => {
      try {
        return [{ name, ...readSafetensors(bytes) }];
      } catch (error) {
        unreadable.push({ name, reason: String(error) });
        return [];
      }
    });
}

async function fromFolder(): Promise<[string, Uint8Array][]> {
  const fs = await import("node:fs");
  const path = await import("node:path");
  const folder =
    process.env.LOWBIT_GOLDEN || path.resolve(import.meta.dirname, "../golden");
  const names = fs
    .readdirSync(folder)
    .filter((name) => name.endsWith(".safetensors"));
  if (names.length === 0)
    throw new Error(`recordings: no *.safetensors in ${folder}`);
  return names.map((name) => [
    name,
    new Uint8Array(fs.readFileSync(path.join(folder, name))),
  ]);
}

async function fromServer(): Promise<[string, Uint8Array][]> {
  const urls = import.meta.glob<string>("../golden/*.safetensors", {
    query: "?url",
    import: "default",
    eager: true,
  });
  return Promise.all(
    Object.entries(urls).map(async ([path, url]) => {
      const response = await fetch(url);
      if (!response.ok)
        throw new Error(`recordings: ${response.status} for ${url}`);
      const bytes = new Uint8Array(await response.arrayBuffer());
      return [path.split("/").at(-1)!, bytes] as [string, Uint8Array];
    }),
  );
}
