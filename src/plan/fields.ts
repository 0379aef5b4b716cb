import { nearestName } from "../formula/error.ts";

/** A configuration file's values, read with checks. */
export class Fields {
  readonly #values: Readonly<Record<string, unknown>>;
  readonly #owner: string;

  constructor(values: Readonly<Record<string, unknown>>, owner: string) {
    this.#values = values;
    this.#owner = owner;
  }

  /** A whole number, 1 or more. @throws TypeError when it is missing without a fallback, or none. */
  count(key: string, fallback?: number): number {
    const value = this.#values[key] ?? fallback;
    if (value === undefined) {
      const guess = nearestName(key, Object.keys(this.#values));
      throw new TypeError(
        `modelFromConfig: the configuration of a ${this.#owner} model needs '${key}', and it is not there${guess ? ` (there is '${guess}')` : ""}`,
      );
    }
    if (!Number.isSafeInteger(value) || (value as number) < 1)
      throw new TypeError(
        `modelFromConfig: '${key}' must be a whole number, 1 or more, given ${JSON.stringify(value)}`,
      );
    return value as number;
  }

  /** A probability; whether it is above 0. */
  happens(key: string, fallback: number): boolean {
    const value = this.#values[key] ?? fallback;
    return typeof value === "number" && value > 0;
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.#values[key] ?? fallback;
    return Boolean(value);
  }

  text(key: string, fallback = ""): string {
    const value = this.#values[key];
    return typeof value === "string" ? value : fallback;
  }

  /** The class that the file was saved from: `RobertaForMaskedLM`; else nothing. */
  get architecture(): string {
    const list = this.#values.architectures;
    return Array.isArray(list) && typeof list[0] === "string" ? list[0] : "";
  }

  /** Which head the architecture has. */
  get head(): "language" | "classes" | "none" {
    const { architecture } = this;
    if (/LM(Head)?(Model)?$|ForPreTraining$|Generation$/.test(architecture))
      return "language";
    return /Classification$|MultipleChoice$/.test(architecture)
      ? "classes"
      : "none";
  }

  /** Labels of a classification head. */
  get labels(): number {
    const { id2label, num_labels: labels } = this.#values;
    if (Number.isInteger(labels)) return labels as number;
    const named =
      typeof id2label === "object" && id2label ? Object.keys(id2label) : [];
    return named.length || 2;
  }
}

type Shapes = Record<string, readonly number[]>;

/** A matrix as a linear layer stores it, with its bias. */
export const linear = (
  name: string,
  outputs: number,
  inputs: number,
  bias = true,
): Shapes => ({
  [`${name}.weight`]: [outputs, inputs],
  ...(bias ? { [`${name}.bias`]: [outputs] } : {}),
});

/** A norm with a scale and, in LayerNorm, a shift. */
export const norm = (name: string, width: number, bias = true): Shapes => ({
  [`${name}.weight`]: [width],
  ...(bias ? { [`${name}.bias`]: [width] } : {}),
});

/** The same shapes for every layer. */
export function layers(
  count: number,
  prefix: string,
  of: (name: string, index: number) => Shapes,
): Shapes {
  return Object.assign(
    {},
    ...Array.from({ length: count }, (_, i) => of(`${prefix}.${i}`, i)),
  ) as Shapes;
}
