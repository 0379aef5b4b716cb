// The end of a test run: each skipped test with its reason, then the counts.

import fs from "node:fs";

/**
 * @typedef {object} Test
 * @property {string} project
 * @property {string} file
 * @property {string} name
 * @property {"passed" | "failed" | "skipped" | "pending"} state
 * @property {string} [reason]
 */

/**
 * Prints the summary of what reporter.mjs wrote. Gives whether the run is good:
 * nothing failed, and something ran.
 */
export function printSummary(/** @type {string} */ resultsFile) {
  if (!fs.existsSync(resultsFile)) {
    console.error("\nVitest ended before it had run the tests; see above.");
    printCounts(0, 0, 0);
    return false;
  }
  const results = JSON.parse(fs.readFileSync(resultsFile, "utf8"));
  /** @type {Test[]} */
  const tests = results.tests;
  const passed = tests.filter(({ state }) => state === "passed").length;
  const skipped = tests.filter(({ state }) => state === "skipped");
  // A test still "pending" was cut off.
  const failed = tests.filter(
    ({ state }) => state === "failed" || state === "pending",
  );
  // A file that did not even load is a failure too, though no test says so.
  /** @type {string[]} */
  const unloaded = results.brokenFiles.filter(
    (/** @type {string} */ broken) =>
      !failed.some(({ project, file }) => `${project}: ${file}` === broken),
  );

  printSkipped(skipped);
  for (const file of unloaded) console.log(`failed as a whole: ${file}`);
  if (results.errors > 0)
    console.log(`errors outside of any test: ${results.errors} (see above)`);
  if (passed + failed.length === 0) console.log("No test ran.");
  const failures = failed.length + unloaded.length;
  printCounts(passed, failures, skipped.length);
  return failures + results.errors === 0 && passed > 0;
}

function printSkipped(/** @type {Test[]} */ skipped) {
  if (skipped.length === 0) return;
  const bar = "=".repeat(72);
  console.log(`\n${bar}\nSKIPPED: ${skipped.length}\n${bar}`);
  for (const { project, file, name, reason } of skipped)
    console.log(
      `[${project}] ${file} > ${name}\n    ${reason ?? "no reason given"}`,
    );
}

function printCounts(
  /** @type {number} */ passed,
  /** @type {number} */ failed,
  /** @type {number} */ skipped,
) {
  console.log(
    `\ntests: ${passed} passed, ${failed} failed, ${skipped} skipped`,
  );
}
