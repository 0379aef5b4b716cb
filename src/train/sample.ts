import type { Random } from "./random.ts";

/**
 * Draws a byte after each other from the model.
 *
 * @param logits gives 256 logits for each of the `context` tokens. It always
 * gets a whole context, as each other length would be compiled anew; what
 * stands after the last byte cannot influence it.
 * @param stopped asked before each byte
 * @returns the new bytes, without the prompt
 */
export async function generate(options: {
  readonly logits: (tokens: Int32Array<ArrayBuffer>) => Promise<Float32Array>;
  readonly context: number;
  /** At least one byte. */
  readonly prompt: Uint8Array;
  readonly length: number;
  readonly temperature: number;
  readonly random: Random;
  readonly stopped: () => boolean;
}): Promise<Uint8Array> {
  const { logits, context, prompt, length, temperature, random } = options;
  const text = [...prompt];
  while (text.length < prompt.length + length && !options.stopped()) {
    const seen = text.slice(-context);
    const tokens = new Int32Array(context);
    tokens.set(seen);
    const all = await logits(tokens);
    const last = all.subarray(256 * (seen.length - 1), 256 * seen.length);
    text.push(draw(last, temperature, random));
  }
  return Uint8Array.from(text.slice(prompt.length));
}

/** Temperature 0 takes the likeliest byte. */
export function draw(
  logits: Float32Array,
  temperature: number,
  random: Random,
): number {
  const top = logits.reduce((a, b) => Math.max(a, b));
  if (temperature === 0) return Math.max(0, logits.indexOf(top));
  const weights = Array.from(logits, (logit) =>
    Math.exp((logit - top) / temperature),
  );
  let left = random.uniform() * weights.reduce((a, b) => a + b);
  for (const [byte, weight] of weights.entries()) {
    left -= weight;
    if (left < 0) return byte;
  }
  return weights.length - 1; // rounding, or a model of NaNs
}
