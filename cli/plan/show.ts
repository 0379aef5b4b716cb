/** Plans for people. */
import {
  presets,
  type LargestModel,
  type Plan,
  type Preset,
  type PresetResult,
  type ScaledModel,
} from "lowbit/plan";
import { table } from "../table.ts";
import { harmless, wrap, type Terminal } from "../terminal.ts";
import { bytes, count } from "../units.ts";

/** Of one model. */
export function showPlan(
  plan: Plan,
  alike: readonly ScaledModel[],
  { bold, dim, width }: Terminal,
): string {
  const { activations, memory } = plan;
  const verdict = plan.rows.some(({ fits }) => fits !== undefined);
  const temporary = plan.rows.some(({ temporaryBytes }) => temporaryBytes > 0);
  const head = ["recipe", "state", "a parameter", "total", "saved"];
  if (temporary) head.splice(3, 0, "temporaries");
  if (verdict) head.push(`fits ${bytes(memory)}`);
  const rows = plan.rows.map((row) => {
    const cells = [
      row.recipe,
      bytes(row.stateBytes),
      `${row.stateBytesPerParameter.toFixed(2)} bytes`,
      bytes(row.totalBytes),
      percent(row.savedBytes / plan.rows[0]!.totalBytes),
    ];
    if (temporary) cells.splice(3, 0, bytes(row.temporaryBytes));
    if (verdict) cells.push(row.fits ? "yes" : "no");
    return cells;
  });
  const fact = (name: string, text: string) =>
    `${dim(name.padEnd(12))} ${text}`;
  return [
    fact("model", describeModel(plan)),
    fact("parameters", `${bytes(plan.parameterBytes)} (${plan.dtype})`),
    fact("gradients", bytes(plan.gradientBytes)),
    fact("activations", activations ? describeActivations(plan) : "not known"),
    ...(plan.reserve > 0 ? [fact("reserve", bytes(plan.reserve))] : []),
    "",
    ...table(head, rows, bold),
    "",
    ...(alike.length > 0 ? [...showAlike(plan, alike, bold), ""] : []),
    ...plan.notes.flatMap((note) => bullet(note, width())),
  ].join("\n");
}

const describeModel = ({ model, parameters, trained }: Plan) =>
  `${harmless(model)}: ${count(parameters)} parameters${trained === parameters ? "" : `, frozen; ${count(trained)} in adapters are trained`}`;

function describeActivations(plan: Plan): string {
  const { activations, batch, context, checkpointing, attention, host } = plan;
  const { layers, attention: weights, head, total } = activations!;
  const parts =
    weights + head > 0
      ? ` (layers ${bytes(layers)}, attention weights ${bytes(weights)}, embedding and logits ${bytes(head)})`
      : "";
  const how = [
    `batch ${batch} x ${context} tokens`,
    ...(checkpointing ? ["checkpointing"] : []),
    ...(attention === "flash" ? ["flash attention"] : []),
    ...(host === "jax" ? ["as jax-js keeps them"] : []),
  ];
  return `${bytes(total)} at ${how.join(", ")}${parts}`;
}

const showAlike = (
  { model, memory }: Plan,
  alike: readonly ScaledModel[],
  bold: (text: string) => string,
) => [
  `The largest model in the proportions of ${harmless(model)} that fits into ${bytes(memory)}:`,
  ...table(
    ["recipe", "parameters", "layers", "width", "total"],
    alike.map((one) =>
      one.model === undefined
        ? [one.recipe, "none"]
        : [
            one.recipe,
            count(one.parameters),
            count(one.layers),
            count(one.width),
            bytes(one.totalBytes),
          ],
    ),
    bold,
  ),
];

/** The largest public models, a line a series. */
export function showLargest(
  lines: readonly {
    readonly series: string;
    readonly largest: readonly LargestModel[];
  }[],
  memory: number,
  { bold }: Terminal,
): string {
  const recipes = lines[0]!.largest.map(({ recipe }) => recipe);
  return [
    `The largest public model of each series that trains in ${bytes(memory)}:`,
    "",
    ...table(
      ["series", ...recipes],
      lines.map(({ series, largest }) => [
        series,
        ...largest.map(({ model, totalBytes }) =>
          model ? `${model} (${bytes(totalBytes)})` : "-",
        ),
      ]),
      bold,
    ),
  ].join("\n");
}

/** A paper's table. */
export function showPreset(
  { title, source, assumptions }: Preset,
  results: readonly PresetResult[],
  { bold, width }: Terminal,
): string {
  const recipes = results[0]!.largest.map(({ recipe }) => recipe);
  const cell = ({
    model,
    totalBytes,
    printed,
  }: PresetResult["largest"][number]) => {
    const found = model ? `${model} (${bytes(totalBytes)})` : "none";
    return model === printed
      ? found
      : `${found}; printed: ${printed ?? "none"}`;
  };
  return [
    `${title} (${source})`,
    "",
    ...table(
      ["memory", ...recipes],
      results.map(({ memoryGiB, largest }) => [
        `${memoryGiB} GiB`,
        ...largest.map(cell),
      ]),
      bold,
    ),
    "",
    ...assumptions.flatMap((note) => bullet(note, width())),
  ].join("\n");
}

export const presetNames = () => Object.keys(presets);

function bullet(text: string, width: number): string[] {
  const [first, ...rest] = wrap(
    harmless(text),
    Math.min(Math.max(width, 40), 100) - 2,
  );
  return [`- ${first}`, ...rest.map((line) => `  ${line}`)];
}

const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
