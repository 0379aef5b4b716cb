import { fork } from "node:child_process";
import { InputError } from "lowbit/trainer";
import type { FromWorker, Job, RunResult, ToWorker } from "./protocol.ts";

/**
 * Trains in a process of its own.
 *
 * @param signal when aborted, the run ends after the step under way
 * @returns what the run came to
 * @throws InputError for what the user got wrong, Error when the process fails
 */
export function runInChild(
  job: Job,
  signal: AbortSignal,
  onEvent: (event: FromWorker) => void,
): Promise<RunResult> {
  // The extension is this file's own: .ts from source, .js when built.
  const worker = new URL(import.meta.url.replace(/child(\.\w+)$/, "worker$1"));
  const child = fork(worker, {
    serialization: "advanced",
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const tell = (message: ToWorker) => {
    if (child.connected) child.send(message);
  };
  const stop = () => tell({ kind: "stop" });
  signal.addEventListener("abort", stop);
  return new Promise<RunResult>((resolve, reject) => {
    child.on("message", (message: FromWorker) => {
      if (message.kind === "end") resolve(message.result);
      else if (message.kind === "refused")
        reject(new InputError(message.message));
      else onEvent(message);
    });
    child.on("error", reject);
    child.on("exit", (code, ended) =>
      // Of no effect after a result.
      reject(
        new Error(
          `the run of ${String(job.options.optimizer)} ended ${ended ? `by ${ended}` : `with exit code ${code}`}`,
        ),
      ),
    );
    tell({ kind: "job", job });
    if (signal.aborted) stop();
  }).finally(() => signal.removeEventListener("abort", stop));
}
