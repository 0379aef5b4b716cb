/** Runs {@link examine} in a child process, which may hang or crash. */
import { spawn } from "node:child_process";
import type { Adapter } from "./adapters.ts";
import type { EngineName, Part } from "./examine.ts";
import type { Speed } from "./speed.ts";
import type { Tested } from "./self-test.ts";

export interface EngineReport {
  readonly name: EngineName;
  /** `missing`: this machine does not have it. */
  readonly state: "passed" | "failed" | "missing";
  /** Why it is missing, or what went wrong. */
  readonly reason?: string;
  readonly adapters?: readonly Adapter[];
  readonly test?: Tested;
  readonly speed?: Speed;
}

/** @param limit seconds after which the process is ended */
export async function probe(
  name: EngineName,
  limit: number,
): Promise<EngineReport> {
  const { parts, death } = await collect(name, limit);
  const find = <K extends Part["part"]>(part: K) =>
    parts.find((one): one is Extract<Part, { part: K }> => one.part === part);
  const found = find("found");
  const missing = find("missing");
  const tested = find("tested");
  const measured = find("measured");
  const failed = find("failed");
  const reason = missing?.reason ?? failed?.reason ?? death;
  const state =
    missing || (!found && name === "webgpu")
      ? "missing"
      : tested?.passed && measured && !failed
        ? "passed"
        : "failed";
  return {
    name,
    state,
    ...(reason === undefined ? {} : { reason }),
    ...(found?.adapters ? { adapters: found.adapters } : {}),
    ...(tested ? { test: without(tested) } : {}),
    ...(measured ? { speed: without(measured) } : {}),
  };
}

const without = <T extends { part: string }>({ part: _, ...rest }: T) => rest;

function collect(
  name: EngineName,
  limit: number,
): Promise<{ parts: Part[]; death: string | undefined }> {
  return new Promise((resolve) => {
    const child = spawn(
      process.execPath,
      [...process.execArgv, process.argv[1]!, "doctor", "--probe"].concat([
        "--engine",
        name,
      ]),
      { stdio: ["ignore", "pipe", "pipe"] },
    );
    let out = "";
    let err = "";
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      child.kill("SIGKILL");
    }, 1000 * limit);
    child.stdout.setEncoding("utf8").on("data", (text) => (out += text));
    child.stderr.setEncoding("utf8").on("data", (text) => (err += text));
    const end = (death: string | undefined) => {
      clearTimeout(timer);
      resolve({ parts: readParts(out), death });
    };
    child.on("error", ({ message }) =>
      end(`it could not be tried: ${message}`),
    );
    child.on("close", (code, signal) => {
      if (late) return end(`it did not end within ${limit} seconds`);
      // A driver may crash while it is torn down, after all is said.
      const whole = /"part":"(measured|failed|missing)"/.test(out);
      if (whole || code === 0) return end(undefined);
      const last = err.trim().split("\n").at(-1);
      end(
        `its process ${signal ? `was ended by ${signal}` : `ended with code ${code}`}${last ? `: ${last}` : ""}`,
      );
    });
  });
}

/** Lines of ours; a driver may print others in between. */
function readParts(text: string): Part[] {
  return text.split("\n").flatMap((line) => {
    try {
      const value: unknown = JSON.parse(line);
      const isPart =
        typeof value === "object" && value !== null && "part" in value;
      return isPart ? [value as Part] : [];
    } catch {
      return [];
    }
  });
}
