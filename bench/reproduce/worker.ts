/** A process of pool.ts: first the task, then one run after another. */
import type { Run, Task } from "./pool.ts";
import { runner } from "./runner.ts";

let run: ReturnType<typeof runner> | undefined;
process.on("message", (message: Task | Run) => {
  if (!run) {
    run = runner(message as Task);
    return;
  }
  run(message as Run).then(
    (outcome) => process.send!(outcome),
    (error: unknown) => process.send!({ error: String(error) }),
  );
});
