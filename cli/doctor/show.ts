import { harmless, type Terminal } from "../terminal.ts";
import { bytes, count, digits } from "../units.ts";
import type { Verdict } from "./command.ts";
import type { Machine } from "./machine.ts";
import type { EngineReport } from "./probe.ts";

/** What is known before anything is tried. */
export function showMachine(machine: Machine, { bold }: Terminal): string {
  const { lowbit, node, system, cpu, cores, memory, webAssembly } = machine;
  const { simd, relaxedSimd, sharedMemory } = webAssembly;
  return [
    `${bold(`lowbit ${lowbit}`)} on Node ${node}, ${system}`,
    `  ${cpu}, ${cores} ${cores === 1 ? "core" : "cores"}; memory ${bytes(memory.total)}, ${bytes(memory.free)} free`,
    `  WebAssembly: ${has("SIMD", simd)}, ${has("relaxed SIMD", relaxedSimd)}, ${has("shared memory for threads", sharedMemory)}`,
  ].join("\n");
}

const has = (what: string, there: boolean) => (there ? what : `no ${what}`);

/** One engine: what it is, whether it is right, how fast. */
export function showEngine(report: EngineReport, { bold }: Terminal): string {
  const { name, state, reason, adapters = [], test, speed } = report;
  const lines = [
    `${bold(name)}: ${state === "missing" ? "not here" : state === "passed" ? "works" : "does not work"}${test ? ` (${harmless(test.device)})` : ""}`,
  ];
  if (reason !== undefined) lines.push(`  ${harmless(reason)}`);
  adapters.forEach(({ name: adapter, software, limits, features }, i) => {
    lines.push(
      `  adapter${i > 0 ? ", not used" : ""}: ${harmless(adapter)}${software ? ", computed by the processor" : ""}`,
      `    buffers up to ${bytes(limits.maxBufferSize!)}, bindings up to ${bytes(limits.maxStorageBufferBindingSize!)}, ${limits.maxStorageBuffersPerShaderStage} storage buffers`,
      `    ${["shader-f16", "subgroups", "timestamp-query"].map((one) => has(one, features.includes(one))).join(", ")}`,
    );
  });
  if (test) lines.push(...showTest(test));
  if (speed) {
    const { recipe, nsPerParameter, parameters, bytesPerSecond } = speed;
    const share = bytesPerSecond / speed.copyBytesPerSecond;
    lines.push(
      `  speed: ${recipe} on ${count(parameters)} parameters takes ${digits(nsPerParameter)} ns each (${harmless(speed.device)})`,
      `    ${bytes(bytesPerSecond)} a second, ${share < 0.01 ? "less than 1" : Math.round(100 * share)} % of the ${bytes(speed.copyBytesPerSecond)} that a copy moves`,
    );
  }
  return lines.join("\n");
}

function showTest(test: NonNullable<EngineReport["test"]>): string[] {
  const { recipes, left, milliseconds } = test;
  const wrong = recipes.filter(({ passed }) => !passed);
  const seconds = (milliseconds / 1000).toFixed(1);
  const equal = recipes.reduce(
    (least, { equalCodes }) => Math.min(least, equalCodes),
    1,
  );
  return [
    wrong.length === 0
      ? `  self-test: ${recipes.length} recipes agree with the reference, ${(100 * equal).toFixed(2)} % of the codes equal or more, in ${seconds} s`
      : `  self-test: ${wrong.length} of ${recipes.length} recipes DIFFER from the reference`,
    ...wrong.map(
      ({ recipe, equalCodes, furthestCode, nearParameters }) =>
        `    ${recipe}: ${(100 * equalCodes).toFixed(2)} % of the codes equal, the furthest ${furthestCode} apart, ${(100 * nearParameters).toFixed(2)} % of the parameters near`,
    ),
    ...(left.length > 0 ? [`    no time was left for ${left.join(", ")}`] : []),
  ];
}

/** Which path will run, and why. */
export function showVerdict(
  { ok, usable }: Verdict,
  reports: readonly EngineReport[],
  { bold }: Terminal,
): string {
  const of = (name: string) => reports.find((report) => report.name === name);
  const [wasm, webgpu] = [of("wasm"), of("webgpu")];
  const lines = [""];
  if (wasm)
    lines.push(
      usable
        ? `createOptimizer runs on ${bold("wasm")} unless it is told otherwise: ${threads(wasm)}.`
        : `createOptimizer would run on wasm, which does not work here; use device: "reference".`,
    );
  if (webgpu) lines.push(gpuAdvice(webgpu));
  if (!ok)
    lines.push(
      "An engine is wrong on this machine: please report the output of lowbit doctor --json.",
    );
  return lines.join("\n");
}

/** Arrays of the caller are copied, which takes more than threads give on few cores. */
function threads({ test, speed }: EngineReport): string {
  const words = (device: string) => device.replace(/^wasm, /, "");
  return `${words(test!.device)} for arrays of yours, ${words(speed!.device)} with resident: true`;
}

function gpuAdvice({ state, adapters }: EngineReport): string {
  if (state === "missing") return `device: "webgpu" cannot be had here.`;
  if (state === "failed") return `device: "webgpu" must not be used here.`;
  return adapters?.[0]?.software
    ? `device: "webgpu" works, but no GPU is behind it: it is for tests.`
    : `device: "webgpu" works, and pays where parameters and gradients live on the GPU.`;
}
