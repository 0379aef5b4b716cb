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
        state: isCutOff(test) ? "failed" : test.result().state,
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

/**
 * Vitest calls a test skipped when the beforeAll() of its file or its describe()
 * threw. Nobody meant to skip it, so it counts as failed.
 */
function isCutOff(/** @type {TestCase} */ test) {
  if (test.result().state !== "skipped" || test.options.mode !== "run")
    return false;
  return ancestors(test).some((parent) => parent.errors().length > 0);
}

function ancestors(/** @type {TestCase} */ test) {
  const parents = [test.parent];
  for (let parent = test.parent; parent.type === "suite";) {
    parent = parent.parent;
    parents.push(parent);
  }
  return parents;
}

/** What `skip("why")` was told, or the nearest `meta.skipReason`. */
function skipReason(/** @type {TestCase} */ test) {
  const result = test.result();
  if (result.state !== "skipped") return undefined;
  if (result.note) return result.note;
  if (test.options.mode === "todo") return "to be written";
  const { testNamePattern: named } = test.project.config;
  if (named && !named.test(test.fullName.replaceAll(" > ", " ")))
    return "left out by -t";
  return [test, ...ancestors(test)]
    .map((task) => task.meta().skipReason)
    .find((reason) => reason !== undefined);
}
