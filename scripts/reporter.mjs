// A Vitest reporter that writes down how each test ended, for summary.mjs.
// Vitest's own JSON leaves out why a test was skipped.

import fs from "node:fs";

/** @import { Reporter, TestCase, TestModule } from "vitest/node" */

/** @implements {Reporter} */
export default class ResultsReporter {
  onTestRunEnd(
    /** @type {readonly TestModule[]} */ modules,
    /** @type {readonly unknown[]} */ errors,
  ) {
    const file = process.env.LOWBIT_RESULTS;
    if (!file) throw new Error("reporter: LOWBIT_RESULTS names no file.");
    const tests = modules.flatMap((module) =>
      [...module.children.allTests()].map((test) => ({
        project: module.project.name,
        file: module.relativeModuleId,
        name: test.fullName,
        state: test.result().state,
        reason: skipReason(test),
      })),
    );
    // A file that does not load has no tests that could fail.
    const brokenFiles = modules
      .filter((module) => module.errors().length > 0)
      .map((module) => `${module.project.name}: ${module.relativeModuleId}`);
    fs.writeFileSync(
      file,
      JSON.stringify({ tests, brokenFiles, errors: errors.length }),
    );
  }
}

/** What `skip("why")` was told, or the nearest `meta.skipReason`. */
function skipReason(/** @type {TestCase} */ test) {
  const result = test.result();
  if (result.state !== "skipped") return undefined;
  if (result.note) return result.note;
  if (test.options.mode === "todo") return "to be written";
  /** @type {import("vitest/node").TestSuite | TestCase | TestModule} */
  let task = test;
  while (task.type !== "module") {
    const { skipReason } = task.meta();
    if (skipReason) return skipReason;
    task = task.parent;
  }
  return undefined;
}
